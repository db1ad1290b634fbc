"""Build a composed image retrieval set from the photographs of the Grocery Store dataset (MIT).

    git clone https://github.com/marcusklasson/GroceryStoreDataset
    contextcir data grocery --source GroceryStoreDataset/dataset --output data/grocery
    contextcir phrases data/grocery/triplets

A query turns one grocery into another: within its kind ("the same kind of fruit but green", which is ambiguous without
the image) or across kinds ("swap the apple for a leek"). Every photograph of that class is a target. Photographs stay
in their original split. The words for the classes (`grocery_words.csv`) come from the class names and product
descriptions of the original, the templates of the texts are in `grocery_texts.yaml`. Same arguments: same data.
"""

import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.data.images import encode_image, load_image
from contextcir.runtime.leaving import leave_with
from datasets_scripts.publishing import finish, write_card

WORDS = Path(__file__).with_name("grocery_words.csv")
TEXTS = yaml.safe_load(Path(__file__).with_name("grocery_texts.yaml").read_text(encoding="utf-8"))
SPLITS = {"train": "train", "validation": "val", "test": "test"}  # our name -> original name
CANDIDATES = 6  # including the reference


@dataclass(frozen=True)
class Grocery:
    """A class of groceries and its words: a row of `grocery_words.csv`."""

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
    """A photograph. Its id is its path in the original dataset without the suffix."""

    id: str
    path: Path
    label: str


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Data"

    source: str = HfArg(help="Folder `dataset` of the original, with classes.csv and train.txt.")
    output: str = HfArg(help="Folder for the Parquet files and the card.")
    image_size: int = HfArg(default=224, help="Longer side of the stored photographs in pixels.")
    triplets_per_photo: int = HfArg(default=2, help="Training triplets for each photograph as reference.")
    queries_per_photo: int = HfArg(default=1, help="Benchmark queries for each photograph as reference.")
    seed: int = HfArg(default=0, help="Seed of pairs and wording.")
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")


def read_words() -> dict[str, Grocery]:
    """Read `grocery_words.csv`. Returns label -> class."""
    with open(WORDS, encoding="utf-8", newline="") as file:
        return {row["class"]: Grocery(row.pop("class"), **row) for row in csv.DictReader(file)}


def read_groceries(source: Path) -> dict[str, Grocery]:
    """Return label -> class, in the order of `classes.csv`. Raises `ValueError` if a class has no words."""
    words = read_words()
    with open(source / "classes.csv", encoding="utf-8-sig", newline="") as file:
        labels = [row["Class Name (str)"] for row in csv.DictReader(file)]
    if missing := [label for label in labels if label not in words]:
        raise ValueError(f"{WORDS.name} has no words for {', '.join(missing)}. Add a row for each.")
    return {label: words[label] for label in labels}


def read_photos(source: Path, split: str, labels: Sequence[str]) -> list[Photo]:
    """Read the list of photographs of an original split, with lines `path, class id, coarse class id`. Raises
    `ValueError` if a line has another form."""
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


def write_text(old: Grocery, new: Grocery, groceries: Sequence[Grocery], rng: random.Random) -> tuple[str, list[str]]:
    """
    Write a text that turns one class into another.

    Two texts in three need the image, if the words allow it: they do not name the target, and only with the class of
    the reference they fit one class.

    Returns:
        `tuple[str, list[str]]`: The text, and two tags: `within` or `across` kinds, `by picture` or `by name`.
    """

    def fits_only_target(**wanted: str) -> bool:
        if "" in wanted.values():
            return False
        fitting = [g.label for g in groceries if all(getattr(g, name) == value for name, value in wanted.items())]
        return [label for label in fitting if label != old.label] == [new.label]

    scope = "within" if old.kind == new.kind else "across"
    implicit = []
    if fits_only_target(kind=old.kind, looks=new.looks):
        implicit += TEXTS["looks"]
    if fits_only_target(kind=old.kind, brand=old.brand, variety=new.variety):
        implicit += TEXTS["variety"]
    if fits_only_target(kind=old.kind, brand=new.brand, variety=old.variety):
        implicit += TEXTS["brand"]
    if old.kind != new.kind and fits_only_target(kind=new.kind, brand=old.brand):
        implicit += TEXTS["kind"]
    by_picture = bool(implicit) and rng.random() < 2 / 3
    template = rng.choice(implicit if by_picture else TEXTS[scope])
    text = template.format(**asdict(new), an=new.article, old=old.name, old_kind=old.kind)
    return text, [scope, "by picture" if by_picture else "by name"]


def choose_target(old: Grocery, present: Sequence[Grocery], rng: random.Random) -> Grocery:
    """Choose another class: mostly of the same kind, sometimes of the same brand or section, rarely any other."""
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
    reference: Photo,
    target: Photo,
    by_label: Mapping[str, Sequence[Photo]],
    groceries: Mapping[str, Grocery],
    rng: random.Random,
) -> list[str]:
    """Choose six photographs: the reference, the target, another of the reference's class, and some of similar
    classes. Returns their ids in random order; fewer than six if the split has too few classes."""
    old, new = groceries[reference.label], groceries[target.label]

    def distance(label: str) -> int:
        grocery = groceries[label]
        return [grocery.kind == new.kind, grocery.kind == old.kind, grocery.section == new.section, True].index(True)

    others = sorted(by_label.keys() - {old.label, new.label})
    rng.shuffle(others)
    others.sort(key=distance)  # stable: equally similar classes stay in random order
    alike = [[photo for photo in by_label[old.label] if photo != reference], *(by_label[label] for label in others)]
    hard = [rng.choice(photos) for photos in alike if photos][: CANDIDATES - 2]
    chosen = [reference, target, *hard]
    return [photo.id for photo in rng.sample(chosen, len(chosen))]


def compose(
    photos: Sequence[Photo], groceries: Mapping[str, Grocery], count: int, split: str, seed: int
) -> list[tuple[Photo, Photo, dict[str, Any]]]:
    """Compose `count` queries for each photograph as reference. Returns reference, one target, and the row of the
    query without images."""
    rng = random.Random(f"{split} {seed}")
    by_label: dict[str, list[Photo]] = {}
    for photo in photos:
        by_label.setdefault(photo.label, []).append(photo)
    present = [grocery for label, grocery in groceries.items() if label in by_label]
    composed: list[tuple[Photo, Photo, dict[str, Any]]] = []
    for reference in photos:
        for _ in range(count):
            old = groceries[reference.label]
            new = choose_target(old, present, rng)
            target = rng.choice(by_label[new.label])
            text, tags = write_text(old, new, list(groceries.values()), rng)
            row = {"id": f"{split}-{len(composed):05d}", "modification_text": text, "tags": tags}
            row["candidate_ids"] = choose_candidates(reference, target, by_label, groceries, rng)
            composed.append((reference, target, row))
    return composed


def encode(photo: Photo, image_size: int) -> dict[str, Any]:
    """Encode a photograph as `datasets` stores it, reduced to the given longer side."""
    image = load_image(photo.path)
    image.thumbnail((image_size, image_size))
    return {"bytes": encode_image(image, "JPEG", quality=85), "path": None}


def build_split(split: str, groceries: Mapping[str, Grocery], args: Arguments) -> dict[str, list[dict[str, Any]]]:
    """Return configuration -> rows. `train` has triplets, `test` a benchmark, `validation` both."""
    photos = read_photos(Path(args.source), SPLITS[split], list(groceries))
    images = {photo.id: encode(photo, args.image_size) for photo in tqdm(photos, desc=split, unit="photo")}
    count = args.triplets_per_photo if split == "train" else args.queries_per_photo
    parts: dict[str, list[dict[str, Any]]] = {}
    for reference, target, row in compose(photos, groceries, count, split, args.seed):
        row |= {"reference_image": images[reference.id], "reference_id": reference.id}
        if split != "test":
            triplet = row | {"target_image": images[target.id], "target_id": target.id}
            parts.setdefault("triplets", []).append(triplet)
        if split != "train":
            relevant = [photo.id for photo in photos if photo.label == target.label]
            parts.setdefault("queries", []).append(row)
            parts.setdefault("relevance", []).extend({"query_id": row["id"], "target_id": id_} for id_ in relevant)
    if split != "train":
        parts["gallery"] = [{"id": id_, "image": image} for id_, image in images.items()]
    return parts


def main(argv: Sequence[str]) -> None:
    """Build everything into the output folder."""
    (args,) = CommandParser([Arguments], "contextcir data grocery", __doc__).parse(argv)
    from contextcir.benchmarks.grocery import CITATION
    from contextcir.benchmarks.published import FEATURES
    from contextcir.data.parquet import write_parquet
    from contextcir.data.triplets import UNPARSED_FEATURES

    source, root = Path(args.source), Path(args.output)
    if not (source / "classes.csv").is_file():
        raise ValueError(f"{source} has no classes.csv. Give the folder `dataset` of the original as --source.")
    groceries = read_groceries(source)
    features = FEATURES | {"triplets": UNPARSED_FEATURES}
    counts: dict[str, int] = {}
    splits: dict[str, list[str]] = {}
    tags: Counter[str] = Counter()
    for split in SPLITS:
        for config, rows in build_split(split, groceries, args).items():
            counts[f"{split} {config}"] = write_parquet(rows, features[config], root / config, split).rows
            splits.setdefault(config, []).append(split)
            if (split, config) == ("test", "queries"):
                tags.update(tag for row in rows for tag in row["tags"])
    write_card(
        root,
        "grocery.md",
        splits,
        header={"license": "mit", "pretty_name": "Grocery", "tags": ["composed-image-retrieval", "groceries"]},
        rows=sum(counts.values()),
        default="triplets",
        classes=len(groceries),
        kinds=len({grocery.kind for grocery in groceries.values()}),
        counts=counts,
        tags=dict(sorted(tags.items())),
        seed=args.seed,
        image_size=args.image_size,
        citation=CITATION,
    )
    finish(root, counts, args.push_to_hub)


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data grocery"))
