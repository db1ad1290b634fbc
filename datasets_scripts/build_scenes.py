"""Build the scenes data: training triplets, and a benchmark that neither half of a query answers.

    python datasets_scripts/build_scenes.py --output data/scenes
    python datasets_scripts/build_scenes.py --output data/scenes_10k --gallery_size 10000 --num_test 1920
    python datasets_scripts/build_scenes.py --output data/scenes --push_to_hub my-name/scenes

Triplets come without noun phrases: `datasets_scripts/add_noun_phrases.py` adds them, as for any other data set. With
`--gold_phrases` they come with those of the trees that the texts were made of.
Training triplets come in families of hard negatives: one change done to one thing after another; or a reference edited
in whole and in part, a near miss of what comes out, and the way back. They keep to what `contextcir/scenes/splits.py`
leaves them. Same version, same arguments: same bytes.

All is written into a hidden folder beside the output, which takes its place at the end: nobody meets half of it, and
data of another version or of other arguments are replaced as a whole.
"""

import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.benchmarks.published import FEATURES
from contextcir.benchmarks.scenes import RECORD, TRUTH_FEATURES
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.hub import upload_dataset
from contextcir.data.images import encode_image
from contextcir.data.parquet import write_parquet
from contextcir.data.triplets import TRIPLET_FEATURES, UNPARSED_FEATURES
from contextcir.metrics.bound import recall_at_1_bound
from contextcir.scenes import (
    KINDS,
    VERSION,
    Picture,
    Question,
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

BENCHMARK_FEATURES = FEATURES | TRUTH_FEATURES


@dataclass
class Arguments:
    """What to build."""

    output: str = HfArg(help="Folder for the Parquet files and the card.")
    num_train: int = HfArg(default=40000, help="Training triplets.")
    num_validation: int = HfArg(default=192, help="Validation queries (a small benchmark and triplets).")
    num_test: int = HfArg(default=408, help="Test queries, a multiple of 24; each needs 4 or 5 pictures.")
    gallery_size: int = HfArg(default=2000, help="Pictures to search in for the test queries.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    seed: int = HfArg(default=0, help="Seed of everything.")
    gold_phrases: bool = HfArg(
        default=False, help="Whether triplets have the noun phrases that were written, instead of none."
    )
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")

    def __post_init__(self):
        if self.num_train < 1:
            raise ValueError(f"num_train must be at least 1, got {self.num_train}.")
        if self.image_size < 48:
            raise ValueError(f"image_size must be at least 48, got {self.image_size}.")


def encode(picture: Picture, image_size: int) -> dict:
    """A picture as `datasets` stores it."""
    image = render(picture.scene, picture.nuisance, image_size)
    return {"bytes": encode_image(image, "JPEG", quality=92), "path": None}


def spans(query: SceneQuery) -> list[dict]:
    """The gold noun phrases of a text, breadth first."""
    return [{"text": phrase.text, "start": phrase.start, "end": phrase.end} for phrase in query.noun_phrases]


def training_triplets(count: int, seed: int, image_size: int, unseen: set[int]) -> Iterator[dict]:
    """Families of triplets, one after the other, without the scenes whose hashes are in `unseen`.

    A scene that is edited is pictured once in its family; every target is a picture of its own.
    """
    rng = random.Random(f"train {seed}")
    made = families = 0
    with tqdm(total=count, desc="triplets", unit="triplet", mininterval=1) as progress:
        while made < count:
            family = sample_family(rng)
            if not unseen.isdisjoint(hash(scene) for query in family for scene in (query.reference, query.target)):
                continue
            prefix, pictures = f"train-{families:06d}", []
            first: dict = {}  # scene -> number of its first picture
            for query in family[: count - made]:
                for scene, again in ((query.reference, False), (query.target, True)):
                    if again or scene not in first:
                        first.setdefault(scene, len(pictures))
                        pictures.append(encode(Picture(scene, rng.getrandbits(48)), image_size))
                reference, target = first[query.reference], len(pictures) - 1
                yield {
                    "id": f"train-{made:06d}",
                    "reference_image": pictures[reference],
                    "target_image": pictures[target],
                    "modification_text": query.text,
                    "noun_phrases": spans(query),
                    "reference_id": f"{prefix}-{reference:06d}",
                    "target_id": f"{prefix}-{target:06d}",
                }
                made += 1
                progress.update()
            families += 1


def validation_triplets(benchmark: SceneBenchmark, image_size: int) -> Iterator[dict]:
    """The queries of a benchmark with their first targets."""
    pictures = dict(benchmark.pictures())
    for question in benchmark.questions:
        target_id = question.target_ids[0]
        yield {
            "id": question.id,
            "reference_image": encode(pictures[question.reference_id], image_size),
            "target_image": encode(pictures[target_id], image_size),
            "modification_text": question.query.text,
            "noun_phrases": spans(question.query),
            "reference_id": question.reference_id,
            "target_id": target_id,
        }


def gallery_rows(benchmark: SceneBenchmark, image_size: int) -> Iterator[dict]:
    """Every picture of the gallery."""
    pictures = tqdm(benchmark.pictures(), f"{benchmark.part} gallery", benchmark.gallery_size, unit="picture")
    return ({"id": id_, "image": encode(picture, image_size)} for id_, picture in pictures)


def truth_rows(benchmark: SceneBenchmark) -> Iterator[dict]:
    """What every picture of the gallery shows."""
    for id_, picture in benchmark.pictures():
        yield {"id": id_, "scene": json.dumps(scene_to_json(picture.scene)), "nuisance": picture.nuisance}


def query_row(question: Question) -> dict:
    """A query; its reference image is the gallery's."""
    return {
        "id": question.id,
        "reference_image": None,
        "reference_id": question.reference_id,
        "modification_text": question.query.text,
        "candidate_ids": list(question.candidate_ids),
        "tags": question.tags,
    }


def phrase_rows(question: Question) -> Iterator[dict]:
    """The gold noun phrases of a query's text and what they denote in its reference picture."""
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


def write_benchmark(benchmark: SceneBenchmark, folder: Path, image_size: int) -> dict[str, int]:
    """All configurations of a benchmark; how many rows each has."""
    questions = benchmark.questions
    rows = {
        "gallery": gallery_rows(benchmark, image_size),
        "queries": map(query_row, questions),
        "relevance": ({"query_id": q.id, "target_id": target} for q in questions for target in q.target_ids),
        "distractors": (
            {"query_id": q.id, "gallery_id": id_, "kind": kind} for q in questions for id_, kind in q.wrong.items()
        ),
        "truth": truth_rows(benchmark),
        "phrases": (row for question in questions for row in phrase_rows(question)),
    }
    return {
        f"{benchmark.part} {name}": write_parquet(some, BENCHMARK_FEATURES[name], folder / name, benchmark.part).rows
        for name, some in rows.items()
    }


def bounds(questions: list[Question]) -> dict[str, dict[str, float]]:
    """The best recall@1, in the gallery and among the candidates, of who sees only the text or only the image."""
    found: dict[str, dict[str, float]] = {}
    for half, seen in (("text", [q.query.text for q in questions]), ("image", [q.reference_id for q in questions])):
        candidates = [frozenset(q.candidate_ids) - {q.reference_id} for q in questions]
        among = [own.intersection(q.target_ids) for own, q in zip(candidates, questions, strict=True)]
        found.setdefault("recall@1", {})[half] = recall_at_1_bound(seen, [q.target_ids for q in questions])
        both = list(zip(seen, candidates, strict=True))
        found.setdefault("recall_subset@1", {})[half] = recall_at_1_bound(both, among)
    return found


def build(args: Arguments, folder: Path) -> dict:
    """Everything but the card, into an empty folder; what it is, as written to `scenes.json`."""
    benchmarks = [
        compose("validation", args.num_validation, None, args.seed),
        compose("test", args.num_test, args.gallery_size, args.seed),
    ]
    counts, unseen = {}, set()
    for benchmark in benchmarks:
        counts |= write_benchmark(benchmark, folder, args.image_size)
        unseen |= {hash(picture.scene) for _, picture in benchmark.pictures()}  # 8 bytes each, not whole scenes
    validation, test = benchmarks
    features = TRIPLET_FEATURES if args.gold_phrases else UNPARSED_FEATURES
    for part, rows in (
        ("validation", validation_triplets(validation, args.image_size)),
        ("train", training_triplets(args.num_train, args.seed, args.image_size, unseen)),
    ):
        counts[f"{part} triplets"] = write_parquet(rows, features, folder / "triplets", part).rows
    kinds = count_kinds(test.questions)
    settings = asdict(args)
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


def write_card(record: dict, folder: Path) -> None:
    """The card of the data set."""
    card_data = DatasetCardData(
        license="apache-2.0",
        tags=["composed-image-retrieval", "synthetic"],
        configs=[
            {"config_name": "triplets", "data_files": _files("triplets", "train", "validation"), "default": True},
            *({"config_name": name, "data_files": _files(name, "validation", "test")} for name in BENCHMARK_FEATURES),
        ],
    )
    template = Path(__file__).parent / "cards" / "scenes.md"
    DatasetCard.from_template(card_data=card_data, template_path=str(template), kinds=KINDS, **record).save(
        folder / "README.md"
    )


def _files(config: str, *splits: str) -> list[dict[str, str]]:
    return [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits]


def replace_folder(new: Path, old: Path) -> None:
    """Put a finished folder in the place of an older one, if there is one."""
    if old.exists():
        aside = new.with_name(new.name + ".old")
        old.rename(aside)
        new.rename(old)
        shutil.rmtree(aside)
    else:
        new.rename(old)


def check_output(output: Path) -> None:
    """
    Refuse to replace what is no scenes data.

    Raises:
        ValueError: The folder holds something else.
    """
    own = {*BENCHMARK_FEATURES, "triplets", RECORD, "README.md"}
    if output.exists() and (not output.is_dir() or {path.name for path in output.iterdir()} - own):
        raise ValueError(f"{output} is no scenes data, or not alone, and would be lost: choose another output.")


def main(argv: Sequence[str] | None = None) -> dict:
    """Build everything into the output folder."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data scenes", __doc__).parse(argv)
    output = Path(args.output)
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    building = output.with_name(f".{output.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of a build that was interrupted
    building.mkdir()
    record = build(args, building)
    write_card(record, building)
    replace_folder(building, output)

    for name, count in record["counts"].items():
        print(f"{name}: {count:,}")
    for metric, found in record["bounds"].items():
        print(f"{metric}: at most {found['text']:.1f} from the text alone, {found['image']:.1f} from the image alone")
    print(f"written to {output}")
    if args.push_to_hub:
        upload_dataset(output, args.push_to_hub)
    return record


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data scenes"))
