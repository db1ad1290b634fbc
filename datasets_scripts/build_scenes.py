"""Build the scenes data: training triplets, and a benchmark whose gallery holds the mistakes a lazy model makes.

    python datasets_scripts/build_scenes.py --output data/scenes
    python datasets_scripts/build_scenes.py --output data/scenes --push_to_hub my-name/scenes

Triplets come without noun phrases: `datasets_scripts/add_noun_phrases.py` adds them, as for any other data set.
Training triplets come in families of hard negatives: a reference edited in whole and in part, a near miss of what
comes out, and the way back. Test queries hold two edits or more. Same version, same arguments: same scenes, texts and
pictures.
"""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from tqdm import tqdm
from transformers import HfArgumentParser

from contextcir.benchmarks.published import FEATURES
from contextcir.scenes import VERSION, Scene, SceneQuery, distractors, fingerprint, render, sample_family, sample_query
from contextcir.triplets import TRIPLET_FEATURES

PUBLISHED = datasets.Features({name: kind for name, kind in TRIPLET_FEATURES.items() if name != "noun_phrases"})
EDITS_OF_TEST_QUERIES = (2, 2, 2, 3, 3, 4, 5)
CANDIDATES = 6  # with the reference


@dataclass
class Arguments:
    """What to build."""

    output: str = field(metadata={"help": "Folder for the Parquet files and the card."})
    num_train: int = field(default=40000, metadata={"help": "Training triplets."})
    num_validation: int = field(default=200, metadata={"help": "Validation queries (a small benchmark and triplets)."})
    num_test: int = field(default=500, metadata={"help": "Test queries; each brings 6 to 9 pictures to the gallery."})
    image_size: int = field(default=96, metadata={"help": "Side of the pictures in pixels."})
    seed: int = field(default=0, metadata={"help": "Seed of everything."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Hub name to publish under (private)."})


class Album:
    """Pictures of scenes under unique ids; each picture has a nuisance of its own."""

    def __init__(self, prefix: str, rng: random.Random, image_size: int):
        self.prefix, self.rng, self.image_size = prefix, rng, image_size
        self.scenes: dict[str, Scene] = {}
        self.pictures: dict[str, dict] = {}

    def add(self, scene: Scene) -> str:
        """Take a picture of a scene and return its id."""
        name = f"{self.prefix}-{len(self.pictures):06d}"
        self.scenes[name] = scene
        self.pictures[name] = encode(scene, self.rng.getrandbits(48), self.image_size)
        return name


def encode(scene: Scene, nuisance: int, image_size: int) -> dict:
    """A picture as `datasets` stores it."""
    buffer = io.BytesIO()
    render(scene, nuisance, image_size).save(buffer, format="JPEG", quality=92)
    return {"bytes": buffer.getvalue(), "path": None}


def training_triplets(count: int, seed: int, image_size: int, unseen: set[Scene]) -> Iterator[dict]:
    """Families of triplets, one after the other, without the scenes in `unseen`.

    A scene that is edited is pictured once in its family; every target is a picture of its own.
    """
    rng = random.Random(f"train {seed}")
    made = families = 0
    with tqdm(total=count, desc="triplets", unit="triplet", mininterval=1) as progress:
        while made < count:
            family = sample_family(rng)
            if any(query.target in unseen or query.reference in unseen for query in family):
                continue
            album = Album(f"train-{families:06d}", rng, image_size)
            first: dict[Scene, str] = {}  # scene -> its first picture
            for query in family[: count - made]:
                if query.reference not in first:
                    first[query.reference] = album.add(query.reference)
                reference_id, target_id = first[query.reference], album.add(query.target)
                first.setdefault(query.target, target_id)
                yield {
                    "id": f"train-{made:06d}",
                    "reference_image": album.pictures[reference_id],
                    "target_image": album.pictures[target_id],
                    "modification_text": query.text,
                    "reference_id": reference_id,
                    "target_id": target_id,
                }
                made += 1
                progress.update()
            families += 1


def benchmark(split: str, count: int, args: Arguments) -> tuple[Album, list[dict], list[dict], list[dict]]:
    """Gallery, queries, relevance and triplets of a split.

    Whatever shows the same scene as the target is relevant, the queries' own targets and chance hits alike.
    """
    rng = random.Random(f"{split} {args.seed}")
    album = Album(split, rng, args.image_size)
    queries, triplets = [], []
    for number in tqdm(range(count), desc=split, unit="query"):
        query = sample_query(rng, rng.choice(EDITS_OF_TEST_QUERIES))
        reference_id, target_id = album.add(query.reference), album.add(query.target)
        mistakes = [(kind, album.add(scene)) for kind, found in distractors(rng, query).items() for scene in found]
        hard = [name for _, name in mistakes]
        candidates = [reference_id, target_id, *rng.sample(hard, min(CANDIDATES - 2, len(hard)))]
        row = {
            "id": f"{split}-query-{number:05d}",
            "reference_image": album.pictures[reference_id],
            "reference_id": reference_id,
            "modification_text": query.text,
        }
        queries.append({**row, "candidate_ids": rng.sample(candidates, len(candidates)), "tags": tags_of(query)})
        triplets.append({**row, "target_image": album.pictures[target_id], "target_id": target_id})
    shown: dict[Scene, list[str]] = {}
    for name, scene in album.scenes.items():
        shown.setdefault(scene, []).append(name)
    relevance = [
        {"query_id": query["id"], "target_id": name}
        for query, triplet in zip(queries, triplets, strict=True)
        for name in shown[album.scenes[triplet["target_id"]]]
    ]
    return album, queries, relevance, triplets


def tags_of(query: SceneQuery) -> list[str]:
    """What results are reported by."""
    return [f"edits:{len(query.edits)}", *sorted({f"kind:{edit.kind}" for edit in query.edits})]


def write(rows, features: datasets.Features, path: Path) -> None:
    """One Parquet file with the images inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(list(rows), features=features).to_parquet(path)


def main(argv=None) -> None:
    """Build everything into the output folder."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    root = Path(args.output)
    unseen: set[Scene] = set()
    counts = {}
    for split, count in (("validation", args.num_validation), ("test", args.num_test)):
        album, queries, relevance, triplets = benchmark(split, count, args)
        unseen |= set(album.scenes.values())
        gallery = [{"id": name, "image": picture} for name, picture in album.pictures.items()]
        for name, rows in (("gallery", gallery), ("queries", queries), ("relevance", relevance)):
            write(rows, FEATURES[name], root / name / f"{split}-00000-of-00001.parquet")
            counts[f"{split} {name}"] = len(rows)
        if split == "validation":
            write(triplets, PUBLISHED, root / "triplets" / "validation-00000-of-00001.parquet")
    train = training_triplets(args.num_train, args.seed, args.image_size, unseen)
    write(train, PUBLISHED, root / "triplets" / "train-00000-of-00001.parquet")
    counts["train triplets"] = args.num_train

    card_data = DatasetCardData(
        license="apache-2.0",
        tags=["composed-image-retrieval", "synthetic"],
        configs=[
            {"config_name": "triplets", "data_files": _files("triplets", "train", "validation"), "default": True},
            *({"config_name": name, "data_files": _files(name, "validation", "test")} for name in FEATURES),
        ],
    )
    card = DatasetCard.from_template(
        card_data=card_data,
        template_path=str(Path(__file__).parent / "cards" / "scenes.md"),
        counts=counts,
        version=VERSION,
        fingerprint=fingerprint(args.seed),
        seed=args.seed,
        image_size=args.image_size,
    )
    card.save(root / "README.md")
    print("\n".join(f"{name}: {count:,}" for name, count in counts.items()), f"written to {root}", sep="\n")
    if args.push_to_hub:
        api = HfApi()
        api.create_repo(args.push_to_hub, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=args.push_to_hub, repo_type="dataset", folder_path=root)


def _files(config: str, *splits: str) -> list[dict[str, str]]:
    return [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits]


if __name__ == "__main__":
    main()
