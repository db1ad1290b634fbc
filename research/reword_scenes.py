"""Build the scenes benchmark with generated texts of queries, in the style of InstructCIR's triplets.

    python -m research.reword_scenes --output data/scenes_reworded
    contextcir benchmark --retriever runs/scenes_instructcir --benchmark custom --data_root data/scenes_reworded

Gallery and relevance are those of the benchmark. The oracle captions the reference image and a target, and writes the
change between the captions in at most twelve words. Table VI of arXiv 2504.00812 measures in this way how generated
texts differ from human ones. Users who search have no target to caption: this measures texts, not retrieval.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.benchmarks import scenes
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.published import FEATURES, load_config
from contextcir.captions.inspection import Inspector
from contextcir.captions.pipeline import Captioner
from contextcir.captions.recipes import load_prompts
from contextcir.chat.exchange import ChatRequest, Outcome
from contextcir.chat.prices import FREE
from contextcir.chat.server import ChatServer
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.pairs import Pair
from contextcir.data.parquet import write_parquet
from contextcir.scenes import Scene
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Benchmark"

    output: str = HfArg(help="Folder for the configurations gallery, queries and relevance.")
    scenes: str = HfArg(default="data/scenes", help="The benchmark: folder or Hub name.")
    seed: int = HfArg(default=0, help="Seed of the oracle's wording.")


def ask_function(oracle: Oracle) -> Callable[[ChatRequest], Awaitable[Outcome]]:
    """Return a function that sends a request to an oracle in this process, with the checks of a server."""
    server = ChatServer("oracle", "http://127.0.0.1/v1", price=FREE)

    async def ask(request: ChatRequest) -> Outcome:
        return server.read_response(oracle.respond(server.body(request)).body, request)

    return ask


async def write_texts(benchmark: Benchmark, shown: Mapping[str, Scene], seed: int) -> dict[str, str]:
    """
    Write a new text for each query.

    Args:
        benchmark (`Benchmark`): The scenes benchmark.
        shown (`Mapping[str, Scene]`): Id of a picture -> its scene.
        seed (`int`): Seed of the wording.

    Returns:
        `dict[str, str]`: Id of a query -> its text.

    Raises:
        ValueError: A query gets no text.
    """
    truth, gallery, texts = Truth(), benchmark.gallery, {}
    for id_ in gallery.ids:
        truth.add(gallery.image(id_), shown[id_], name=id_)
    inspector, ask = Inspector(), ask_function(Oracle(truth, seed=seed))
    captioner = Captioner("instructcir", ask, load_prompts("instructcir"), inspector)
    for query in tqdm(benchmark.queries, desc="queries", unit="query"):
        target = min(benchmark.relevance[query.id])  # all targets of a query show the same scene
        reference_image, target_image = (
            gallery.images[gallery.positions[id_]] for id_ in (query.reference_id, target)
        )
        result = await captioner.caption(Pair(reference_image, target_image, query.reference_id, target))
        if result.reason:
            raise ValueError(f"Query {query.id!r} got no text: {result.reason}. {result.detail}")
        texts[query.id] = result.captions[0]["text"]
    inspector.close()
    return texts


def main(argv: Sequence[str]) -> None:
    """Build both splits."""
    (args,) = CommandParser([Arguments], "python -m research.reword_scenes", __doc__).parse(argv)
    output = Path(args.output)
    for split in scenes.SPLITS:
        (benchmark,) = scenes.load(args.scenes, split)
        texts = asyncio.run(write_texts(benchmark, scenes.load_scenes(args.scenes, split), args.seed))
        for config, features in FEATURES.items():
            rows = load_config(args.scenes, config, split, features)
            if config == "queries":
                rows = (row | {"modification_text": texts[row["id"]]} for row in rows)
            write_parquet(rows, features, output / config, split)
        print(f"{split}: {len(texts):,} queries with new texts")


if __name__ == "__main__":
    sys.exit(run(main, "reword_scenes"))
