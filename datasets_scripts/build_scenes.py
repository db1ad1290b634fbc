"""Build the scenes data: training triplets, and a benchmark that neither the texts nor the images alone can solve.

    contextcir data scenes --output data/scenes
    contextcir data scenes --output data/scenes_10k --gallery_size 10000 --num_test 1920
    contextcir data scenes --output data/scenes --push_to_hub my-name/scenes

Triplets have no noun phrases: `contextcir phrases` adds them, as for any other data set. With `--gold_phrases` they
have those of the parse trees that the texts were generated from.

Training triplets come in families of hard negatives. A family is one change applied to one thing after another; or a
reference with complete and partial edits, a near miss of the result, and the way back. All respect the held-out splits
(`contextcir/scenes/splits.py`). Same version, same arguments: same bytes.

The build goes into a hidden folder beside the output, and replaces the output when it is complete.
"""

import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.images import encode_image
from contextcir.metrics.bound import recall_at_1_bound
from contextcir.scenes import (
    KINDS,
    VERSION,
    Picture,
    Question,
    Scene,
    SceneBenchmark,
    SceneQuery,
    compose,
    count_kinds,
    denotation_to_row,
    fingerprint,
    render,
    role,
    sample_family,
    scene_to_json,
)
from datasets_scripts.publishing import finish, write_card

BENCHMARK_CONFIGS = ("gallery", "queries", "relevance", "distractors", "truth", "phrases")


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Data"

    output: str = HfArg(help="Folder for the Parquet files and the card.")
    num_train: int = HfArg(default=40000, help="Training triplets.")
    num_validation: int = HfArg(default=192, help="Validation queries (a small benchmark and triplets).")
    num_test: int = HfArg(default=408, help="Test queries, a multiple of 24; each needs 4 or 5 pictures.")
    gallery_size: int = HfArg(default=2000, help="Pictures in the gallery of the test queries.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    seed: int = HfArg(default=0, help="Seed of scenes, texts and pictures.")
    gold_phrases: bool = HfArg(default=False, help="Add the noun phrases of the generated parse trees.")
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")

    def __post_init__(self):
        if self.num_train < 1:
            raise ValueError(f"num_train must be at least 1, got {self.num_train}.")
        if self.image_size < 48:
            raise ValueError(f"image_size must be at least 48, got {self.image_size}.")


def encode(picture: Picture, image_size: int) -> dict[str, Any]:
    """Draw a picture as `datasets` stores it."""
    image = render(picture.scene, picture.nuisance, image_size)
    return {"bytes": encode_image(image, "JPEG", quality=92), "path": None}


def triplet(id_: str, query: SceneQuery, reference: tuple[str, Any], target: tuple[str, Any]) -> dict[str, Any]:
    """Return the row of a triplet. Reference and target are given by id and encoded image."""
    return {
        "id": id_,
        "reference_image": reference[1],
        "target_image": target[1],
        "modification_text": query.text,
        "noun_phrases": [{"text": np.text, "start": np.start, "end": np.end} for np in query.noun_phrases],
        "reference_id": reference[0],
        "target_id": target[0],
    }


def training_triplets(count: int, seed: int, image_size: int, excluded: set[int]) -> Iterator[dict[str, Any]]:
    """Draw families of triplets without the scenes whose hashes are in `excluded`. A scene that is edited has one
    picture in its family, and every target a picture of its own."""
    rng = random.Random(f"train {seed}")
    made = families = 0
    with tqdm(total=count, desc="triplets", unit="triplet", mininterval=1) as progress:
        while made < count:
            family = sample_family(rng)
            if not excluded.isdisjoint(hash(scene) for query in family for scene in (query.reference, query.target)):
                continue
            pictures: list[tuple[str, dict[str, Any]]] = []
            first: dict[Scene, int] = {}  # number of the first picture of a scene
            for query in family[: count - made]:
                for scene in (query.reference, query.target):
                    if scene is query.target or scene not in first:
                        first.setdefault(scene, len(pictures))
                        image = encode(Picture(scene, rng.getrandbits(48)), image_size)
                        pictures.append((f"train-{families:06d}-{len(pictures):06d}", image))
                yield triplet(f"train-{made:06d}", query, pictures[first[query.reference]], pictures[-1])
                made += 1
                progress.update()
            families += 1


def validation_triplets(benchmark: SceneBenchmark, image_size: int) -> Iterator[dict[str, Any]]:
    """Return the queries of a benchmark with their first targets, as triplets."""
    pictures = dict(benchmark.pictures())
    for question in benchmark.questions:
        ids = (question.reference_id, question.target_ids[0])
        reference, target = ((id_, encode(pictures[id_], image_size)) for id_ in ids)
        yield triplet(question.id, question.query, reference, target)


def gallery_rows(benchmark: SceneBenchmark, image_size: int) -> Iterator[dict[str, Any]]:
    """Draw every picture of the gallery."""
    pictures = tqdm(benchmark.pictures(), f"{benchmark.part} gallery", benchmark.gallery_size, unit="picture")
    return ({"id": id_, "image": encode(picture, image_size)} for id_, picture in pictures)


def truth_rows(benchmark: SceneBenchmark) -> Iterator[dict[str, Any]]:
    """Return scene and seed of every picture of the gallery."""
    for id_, picture in benchmark.pictures():
        yield {"id": id_, "scene": json.dumps(scene_to_json(picture.scene)), "nuisance": picture.nuisance}


def query_row(question: Question) -> dict[str, Any]:
    """Return the row of a query. Its reference image is in the gallery."""
    return {
        "id": question.id,
        "reference_image": None,
        "reference_id": question.reference_id,
        "modification_text": question.query.text,
        "candidate_ids": list(question.candidate_ids),
        "tags": question.tags,
    }


def phrase_rows(question: Question) -> Iterator[dict[str, Any]]:
    """Return the gold noun phrases of a query's text and what they denote in its reference picture."""
    for phrase in question.query.noun_phrases:
        yield {
            "query_id": question.id,
            "text": phrase.text,
            "start": phrase.start,
            "end": phrase.end,
            "is_leaf": phrase.is_leaf,
            "role": role(question.query, phrase.denotes),
            **denotation_to_row(phrase.denotes),
        }


def benchmark_rows(benchmark: SceneBenchmark, image_size: int) -> dict[str, Iterator[dict[str, Any]]]:
    """Return the rows of each of `BENCHMARK_CONFIGS`."""
    questions = benchmark.questions
    return {
        "gallery": gallery_rows(benchmark, image_size),
        "queries": map(query_row, questions),
        "relevance": ({"query_id": q.id, "target_id": target} for q in questions for target in q.target_ids),
        "distractors": (
            {"query_id": q.id, "gallery_id": id_, "kind": kind} for q in questions for id_, kind in q.wrong.items()
        ),
        "truth": truth_rows(benchmark),
        "phrases": (row for question in questions for row in phrase_rows(question)),
    }


def bounds(questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Return the highest recall@1 and recall_subset@1, in percent, of a model that sees only the text or the image."""
    found: dict[str, dict[str, float]] = {"recall@1": {}, "recall_subset@1": {}}
    candidates = [frozenset(q.candidate_ids) - {q.reference_id} for q in questions]
    targets = [own.intersection(q.target_ids) for own, q in zip(candidates, questions, strict=True)]
    for half, seen in (("text", [q.query.text for q in questions]), ("image", [q.reference_id for q in questions])):
        found["recall@1"][half] = recall_at_1_bound(seen, [q.target_ids for q in questions])
        found["recall_subset@1"][half] = recall_at_1_bound(list(zip(seen, candidates, strict=True)), targets)
    return found


def build(args: Arguments, folder: Path) -> dict[str, Any]:
    """Write everything but the card into an empty folder. Returns the record of the build, as in `scenes.json`."""
    from contextcir.benchmarks.published import FEATURES
    from contextcir.benchmarks.scenes import RECORD, TRUTH_FEATURES
    from contextcir.data.parquet import write_parquet
    from contextcir.data.triplets import TRIPLET_FEATURES, UNPARSED_FEATURES

    triplets = TRIPLET_FEATURES if args.gold_phrases else UNPARSED_FEATURES
    features = {**FEATURES, **TRUTH_FEATURES, "triplets": triplets}
    counts: dict[str, int] = {}

    def write(part: str, config: str, rows: Iterator[dict[str, Any]]) -> None:
        counts[f"{part} {config}"] = write_parquet(rows, features[config], folder / config, part).rows

    validation = compose("validation", args.num_validation, None, args.seed)
    test = compose("test", args.num_test, args.gallery_size, args.seed)
    excluded = set()
    for benchmark in (validation, test):
        for config, rows in benchmark_rows(benchmark, args.image_size).items():
            write(benchmark.part, config, rows)
        excluded |= {hash(picture.scene) for _, picture in benchmark.pictures()}  # 8 bytes each, not whole scenes
    write("validation", "triplets", validation_triplets(validation, args.image_size))
    write("train", "triplets", training_triplets(args.num_train, args.seed, args.image_size, excluded))
    kinds, settings = count_kinds(test.questions), asdict(args)
    record = {
        "version": VERSION,
        "fingerprint": fingerprint(args.seed),
        "arguments": {name: settings[name] for name in settings if name not in ("output", "push_to_hub")},
        "counts": counts,
        "distractors": {kind: round(kinds[kind] / len(test.questions), 2) for kind in KINDS},
        "bounds": bounds(test.questions),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def replace_folder(new: Path, old: Path) -> None:
    """Move a finished folder to its place, where an older one may be."""
    aside = new.with_name(f"{new.name}.old")
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def check_output(output: Path) -> None:
    """Raise a `ValueError` if a folder holds other files than scenes data, which may be replaced."""
    from contextcir.benchmarks.scenes import RECORD

    own = {*BENCHMARK_CONFIGS, "triplets", RECORD, "README.md"}
    if output.exists() and (not output.is_dir() or {path.name for path in output.iterdir()} - own):
        raise ValueError(f"{output} holds other files than scenes data, which would be lost. Choose another output.")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Build everything into the output folder. Returns the record of the build."""
    (args,) = CommandParser([Arguments], "contextcir data scenes", __doc__).parse(argv)
    output = Path(args.output)
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    building = output.with_name(f".{output.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of an interrupted build
    building.mkdir()
    record = build(args, building)
    splits = {"triplets": ("train", "validation"), **dict.fromkeys(BENCHMARK_CONFIGS, ("validation", "test"))}
    header = {"license": "apache-2.0", "tags": ["composed-image-retrieval", "synthetic"]}
    write_card(building, "scenes.md", splits, header=header, default="triplets", kinds=KINDS, **record)
    replace_folder(building, output)

    for metric, found in record["bounds"].items():
        print(f"{metric}: at most {found['text']:.1f} from the text alone, {found['image']:.1f} from the image alone")
    finish(output, record["counts"], args.push_to_hub)
    return record


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data scenes"))
