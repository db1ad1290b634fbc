"""Build a composed image retrieval set from the photographs of the Grocery Store dataset (MIT).

    git clone https://github.com/marcusklasson/GroceryStoreDataset
    python datasets_scripts/build_grocery.py --source GroceryStoreDataset/dataset --output data/grocery
    python datasets_scripts/add_noun_phrases.py data/grocery/triplets

A query turns one grocery into another, within its kind ("the same kind of fruit but green": says nothing without the
picture) or across kinds ("swap the apple for a leek"); every photograph of that class is a target. Photographs stay in
the split that the original has them in. The words for the classes stand in `grocery_words.csv`, taken from the
original's class names and product descriptions. Same arguments: same data.
"""

import csv
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.benchmarks.grocery import CITATION
from contextcir.benchmarks.published import FEATURES
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.hub import upload_dataset
from contextcir.data.images import encode_image, load_image
from contextcir.data.parquet import write_parquet
from contextcir.data.triplets import UNPARSED_FEATURES

WORDS = Path(__file__).parent / "grocery_words.csv"
SPLITS = {"train": "train", "validation": "val", "test": "test"}  # ours -> the original's
CANDIDATES = 6  # with the reference

WITHIN = [  # one kind, and the text names the target
    "the same kind of {section} but {an} {name}",
    "make it {an} {name}",
    "{an} {name} instead of the {old}",
    "I would rather have the {name}",
    "not the {old}, the {name}",
    "exchange this {kind} for {an} {name}",
    "not quite this {section}: find {an} {name}",
    "it should be the {name} and not the {old}",
]
ACROSS = [  # from one kind to another
    "swap the {old_kind} for {an} {name}",
    "replace the {old} with {an} {name}",
    "show {an} {name} instead of the {old_kind}",
    "put {an} {name} where the {old_kind} is",
    "no {old_kind} please, take {an} {name}",
    "{an} {name} rather than the {old_kind}",
    "leave the {old} and pick {an} {name}",
    "no longer the {old}, now {an} {name}",
]
BY_LOOKS = [  # the rest needs the picture: what kind, brand or variety it shows
    "the same kind of {section} but {looks}",
    "the {looks} variety of this",
    "replace it with the {looks} one",
    "like this, only {looks}",
]
BY_VARIETY = [
    "the same brand but {variety}",
    "keep the brand and make it {variety}",
    "the {variety} one from the same maker",
]
BY_BRAND = [
    "the same, but from {brand}",
    "the {brand} version of this",
    "keep the flavour and change the brand to {brand}",
]
BY_KIND = ["{kind} of the same brand", "the same brand, but {kind} instead of {old_kind}"]


@dataclass(frozen=True)
class Grocery:
    """A class of groceries and the words for it: a row of `grocery_words.csv`."""

    label: str
    article: str
    name: str
    kind: str
    section: str
    looks: str
    brand: str
    variety: str


@dataclass(frozen=True)
class Photo:
    """One photograph: `id` is its path in the original without the suffix."""

    id: str
    path: Path
    label: str


@dataclass
class Arguments:
    """What to build."""

    source: str = HfArg(help="The original's folder `dataset`, with classes.csv and train.txt.")
    output: str = HfArg(help="Folder for the Parquet files and the card.")
    image_size: int = HfArg(default=224, help="Longer side of the stored photographs in pixels.")
    triplets_per_photo: int = HfArg(default=2, help="Training triplets with each photo as reference.")
    queries_per_photo: int = HfArg(default=1, help="Queries of a benchmark with each as reference.")
    seed: int = HfArg(default=0, help="Seed of pairs and wordings.")
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")


def read_groceries(source: Path) -> dict[str, Grocery]:
    """The classes of `classes.csv` in its order, with our words; `ValueError` where a class has none."""
    with open(WORDS, encoding="utf-8", newline="") as file:
        words = {row["class"]: Grocery(row.pop("class"), **row) for row in csv.DictReader(file)}
    with open(source / "classes.csv", encoding="utf-8-sig", newline="") as file:
        labels = [row["Class Name (str)"] for row in csv.DictReader(file)]
    if missing := [label for label in labels if label not in words]:
        raise ValueError(f"{WORDS.name} has no words for {', '.join(missing)}. Add a row for each.")
    return {label: words[label] for label in labels}


def read_photos(source: Path, split: str, labels: list[str]) -> list[Photo]:
    """The photographs of one of the original's splits; lines read `path, class id, coarse class id`."""
    photos = []
    for number, line in enumerate((source / f"{split}.txt").read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            path, label, _ = line.split(",")
            photos.append(Photo(path.rpartition(".")[0], source / path, labels[int(label)]))
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{split}.txt, line {number}: expected 'path, class, coarse class', got {line!r}."
            ) from error
    return photos


def word(old: Grocery, new: Grocery, groceries: list[Grocery], rng: random.Random) -> tuple[str, list[str]]:
    """
    A text that turns one class into another, and tags of what it takes to understand it.

    Where possible, two in three leave to the picture what it shows. These do not name the target, and together with
    the class of the reference they fit no other class.
    """

    def only(**wanted) -> bool:
        fitting = [g for g in groceries if g != old and all(getattr(g, name) == v for name, v in wanted.items())]
        return "" not in wanted.values() and fitting == [new]

    scope = "within" if old.kind == new.kind else "across"
    implicit = []
    if only(kind=old.kind, looks=new.looks):
        implicit += BY_LOOKS
    if only(kind=old.kind, brand=old.brand, variety=new.variety):
        implicit += BY_VARIETY
    if only(kind=old.kind, brand=new.brand, variety=old.variety):
        implicit += BY_BRAND
    if old.kind != new.kind and only(kind=new.kind, brand=old.brand):
        implicit += BY_KIND
    by_picture = bool(implicit) and rng.random() < 2 / 3
    template = rng.choice(implicit if by_picture else WITHIN if scope == "within" else ACROSS)
    text = template.format(
        an=new.article,
        name=new.name,
        kind=new.kind,
        section=new.section,
        looks=new.looks,
        brand=new.brand,
        variety=new.variety,
        old=old.name,
        old_kind=old.kind,
    )
    return text, [scope, "by picture" if by_picture else "by name"]


def choose_target(old: Grocery, present: list[Grocery], rng: random.Random) -> Grocery:
    """Another class: mostly of the same kind, else of the same brand or section, as far as there are any."""
    others = [grocery for grocery in present if grocery != old]
    within = [grocery for grocery in others if grocery.kind == old.kind]
    section = [grocery for grocery in others if grocery.section == old.section and grocery.kind != old.kind]
    brand = [grocery for grocery in section if grocery.brand and grocery.brand == old.brand]
    draw = rng.random()
    for share, pool in ((0.75, within), (0.85, brand), (0.95, section)):
        if draw < share and pool:
            return rng.choice(pool)
    return rng.choice(others)


def choose_candidates(
    reference: Photo, target: Photo, shelf: dict[str, list[Photo]], groceries: dict[str, Grocery], rng: random.Random
) -> list[str]:
    """Six photographs: reference, one target, another of the reference's class, and some of the nearest classes."""
    old, new = groceries[reference.label], groceries[target.label]

    def distance(label: str) -> int:
        grocery = groceries[label]
        return [grocery.kind == new.kind, grocery.kind == old.kind, grocery.section == new.section, True].index(True)

    others = sorted(shelf.keys() - {old.label, new.label})
    rng.shuffle(others)
    others.sort(key=distance)  # stable: still in random order where equally near
    alike = [[photo for photo in shelf[old.label] if photo != reference], *(shelf[label] for label in others)]
    hard = [rng.choice(photos) for photos in alike if photos][: CANDIDATES - 2]
    chosen = [reference, target, *hard]
    return [photo.id for photo in rng.sample(chosen, len(chosen))]


def compose(
    photos: list[Photo], groceries: dict[str, Grocery], each: int, split: str, seed: int
) -> list[tuple[Photo, Photo, dict]]:
    """Reference, one target and the row of a query, `each` times for every photograph as reference."""
    rng = random.Random(f"{split} {seed}")
    shelf: dict[str, list[Photo]] = {}
    for photo in photos:
        shelf.setdefault(photo.label, []).append(photo)
    present = [grocery for label, grocery in groceries.items() if label in shelf]
    composed = []
    for reference in photos:
        for _ in range(each):
            old = groceries[reference.label]
            new = choose_target(old, present, rng)
            target = rng.choice(shelf[new.label])
            text, tags = word(old, new, list(groceries.values()), rng)
            row = {"id": f"{split}-{len(composed):05d}", "modification_text": text, "tags": tags}
            row["candidate_ids"] = choose_candidates(reference, target, shelf, groceries, rng)
            composed.append((reference, target, row))
    return composed


def encode(photo: Photo, image_size: int) -> dict:
    """A photograph as `datasets` stores it, scaled down to the given longer side."""
    image = load_image(photo.path)
    image.thumbnail((image_size, image_size))
    return {"bytes": encode_image(image, "JPEG", quality=85), "path": None}


def build_split(split: str, groceries: dict[str, Grocery], args: Arguments) -> dict[str, list[dict]]:
    """The rows of each part of a split: triplets for training, the benchmark for testing, both for validation."""
    photos = read_photos(Path(args.source), SPLITS[split], list(groceries))
    images = {photo.id: encode(photo, args.image_size) for photo in tqdm(photos, desc=split, unit="photo")}
    each = args.triplets_per_photo if split == "train" else args.queries_per_photo
    parts: dict[str, list[dict]] = {}
    for reference, target, row in compose(photos, groceries, each, split, args.seed):
        row |= {"reference_image": images[reference.id], "reference_id": reference.id}
        if split != "test":
            triplet = {name: row[name] for name in UNPARSED_FEATURES if name in row}
            triplet |= {"target_image": images[target.id], "target_id": target.id}
            parts.setdefault("triplets", []).append(triplet)
        if split != "train":
            relevant = [photo.id for photo in photos if photo.label == target.label]
            parts.setdefault("queries", []).append(row)
            parts.setdefault("relevance", []).extend({"query_id": row["id"], "target_id": id_} for id_ in relevant)
    if split != "train":
        parts["gallery"] = [{"id": id_, "image": image} for id_, image in images.items()]
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    """Build everything into the output folder."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data grocery", __doc__).parse(argv)
    source, root = Path(args.source), Path(args.output)
    if not (source / "classes.csv").is_file():
        raise ValueError(f"{source} has no classes.csv. Give the folder `dataset` of the original as --source.")
    groceries = read_groceries(source)
    counts, tags, splits_of = {}, Counter(), {}
    for split in SPLITS:
        for part, rows in build_split(split, groceries, args).items():
            features = UNPARSED_FEATURES if part == "triplets" else FEATURES[part]
            counts[f"{split} {part}"] = write_parquet(rows, features, root / part, split).rows
            splits_of.setdefault(part, []).append({"split": split, "path": f"{part}/{split}-*.parquet"})
            if (split, part) == ("test", "queries"):
                tags.update(tag for row in rows for tag in row["tags"])

    card_data = DatasetCardData(
        license="mit",
        language="en",
        tags=["composed-image-retrieval", "groceries"],
        configs=[
            {"config_name": part, "data_files": files, **({"default": True} if part == "triplets" else {})}
            for part, files in splits_of.items()
        ],
    )
    card = DatasetCard.from_template(
        card_data=card_data,
        template_path=str(Path(__file__).parent / "cards" / "grocery.md"),
        classes=len(groceries),
        kinds=len({grocery.kind for grocery in groceries.values()}),
        counts=counts,
        tags=dict(sorted(tags.items())),
        seed=args.seed,
        image_size=args.image_size,
        citation=CITATION,
    )
    card.save(root / "README.md")
    print("\n".join(f"{name}: {count:,}" for name, count in counts.items()), f"written to {root}", sep="\n")
    if args.push_to_hub:
        upload_dataset(root, args.push_to_hub)


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data grocery"))
