"""Build the scenes benchmark again with queries in generated words, as InstructCIR's triplets have them.

    python datasets_scripts/reword_scenes.py --output data/scenes_reworded
    python benchmark.py --retriever runs/scenes_instructcir --benchmark custom --data-root data/scenes_reworded

Gallery and relevance are those of the benchmark. The text of a query is made as that of a triplet of InstructCIR: the
oracle captions the reference image and a target, and says the change from one caption to the other in at most twelve
words (table VI of arXiv 2504.00812 does so to see how far generated words are from those of people). Nobody who
searches has a target to caption: this measures words, not retrieval.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
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
    """What to build."""

    output: str = HfArg(help="Folder for the configurations gallery, queries and relevance.")
    scenes: str = HfArg(default="data/scenes", help="The benchmark, folder or Hub name.")
    seed: int = HfArg(default=0, help="Seed of the oracle's words.")


def asking(oracle: Oracle) -> Callable:
    """Asks an oracle in this process, by the same checks as over a line."""
    server = ChatServer("oracle", "http://127.0.0.1/v1", price=FREE)

    async def ask(request):
        return server.read_response(oracle.respond(server.body(request)).body, request)

    return ask


async def reworded(benchmark: Benchmark, shown: Mapping[str, Scene], seed: int) -> dict[str, str]:
    """
    The new text of each query.

    Raises:
        ValueError: There is none of some query.
    """
    truth, gallery, texts = Truth(), benchmark.gallery, {}
    for id_ in gallery.ids:
        truth.add(gallery.image(id_), shown[id_], name=id_)
    inspector = Inspector()
    captioner = Captioner("instructcir", asking(Oracle(truth, seed=seed)), load_prompts("instructcir"), inspector)
    for query in tqdm(benchmark.queries, desc="queries", unit="query"):
        target = min(benchmark.relevance[query.id])  # all targets of a query show the same
        images = (gallery.images[gallery.positions[id_]] for id_ in (query.reference_id, target))
        result = await captioner.caption(Pair(*images, query.reference_id, target))
        if result.reason:
            raise ValueError(f"Query {query.id!r} got no text: {result.reason}. {result.detail}")
        texts[query.id] = result.captions[0]["text"]
    inspector.close()
    return texts


def main(argv: Sequence[str] | None = None) -> None:
    """Builds both splits."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data reworded-scenes", __doc__).parse(argv)
    output = Path(args.output)
    for split in scenes.SPLITS:
        (benchmark,) = scenes.load(args.scenes, split)
        texts = asyncio.run(reworded(benchmark, scenes.load_scenes(args.scenes, split), args.seed))
        for config, features in FEATURES.items():
            rows = load_config(args.scenes, config, split, features)
            if config == "queries":
                rows = (row | {"modification_text": texts[row["id"]]} for row in rows)
            write_parquet(rows, features, output / config, split)
        print(f"{split}: {len(texts):,} queries in other words")


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data reworded-scenes"))
