"""Find where the noun phrases of triplets are in the reference images, to train with `--grounding_weight`.

    contextcir ground my-triplets --clip_name_or_path openai/clip-vit-base-patch16
    contextcir train --data my-triplets --clip_name_or_path openai/clip-vit-base-patch16 --grounding_weight 1 \\
        --cc_weight 0 --fusion_direction image_to_text --output_dir runs/grounded

No masks are needed: a teacher learns, from the triplets and a frozen CLIP, which patches a phrase fits. The triplets
have noun phrases (`contextcir phrases`), and get a column `phrase_maps`: for each noun phrase a weight of each patch
of the reference image, row by row from the top left. The weights of a phrase sum to how far they are trusted, which
is at most 1. Take the CLIP, and the `--image_fit`, that the model will be trained from. The latter is kept beside the
maps, and training refuses another.

Look at some maps before you train for days: `--picture maps.png`.

Who has boxes or masks, such as those of a detector, can write that column without this command: zeros for a phrase of
which nothing is known.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser


@dataclass
class GroundArguments:
    """The triplets, the CLIP, and how the teacher learns."""

    _argument_group_name = "Grounding"

    data: str = HfArg(help="Triplets with noun phrases: folder of Parquet files, image folder or Hub name.")
    clip_name_or_path: str = HfArg(help="CLIP model whose states are read, folder or Hub name.")
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of it on the Hub.")
    image_fit: Literal["crop", "padding", "squash"] = HfArg(
        default="crop", help="How an image becomes a square, as in the training to come."
    )
    output_dir: str | None = HfArg(
        default=None, help="Folder for the Parquet files; by default those of the data are replaced."
    )
    picture: str | None = HfArg(default=None, help="PNG file with the maps of some triplets, to look at.")
    picture_triplets: int = HfArg(default=8, help="Triplets of the picture, evenly spaced over the training split.")
    replace_maps: bool = HfArg(default=False, help="Replace maps that the data have, instead of refusing them.")
    config_name: str | None = HfArg(default=None, help="Configuration of the data set, such as triplets.")
    train_split: str = HfArg(default="train", help="Split that the teacher learns from. All splits get maps.")
    steps: int = HfArg(default=800, help="Batches that the teacher learns from.")
    batch_size: int = HfArg(default=64, help="Triplets of a batch.")
    learning_rate: float = HfArg(default=4e-3, help="Highest learning rate of the teacher.")
    seed: int = HfArg(default=0, help="Seed of the teacher's weights and batches.")
    num_workers: int = HfArg(default=0, help="Processes that read images.")
    encode_images_once: bool = HfArg(
        default=False,
        help="Keep the output of the image encoder for each image on disk (in the cache of datasets), instead of "
        "computing it whenever a batch shows the image.",
    )
    device: str | None = HfArg(default=None, help="cpu, cuda or cuda:N (default: the accelerator if there is one).")

    def __post_init__(self):
        if not (self.output_dir or Path(self.data).is_dir()):
            raise ValueError(f"There is no folder {self.data}: give --output_dir to write to.")
        if self.picture_triplets < 1:
            raise ValueError(f"picture_triplets must be at least 1, got {self.picture_triplets}.")
        if self.picture:
            import contextcir.visualization  # noqa: F401 (what it needs is missed now, not after the work)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Learn a teacher, and write its maps. Returns what was found."""
    (args,) = CommandParser([GroundArguments], "contextcir ground", __doc__, ("data",)).parse(argv)
    import torch
    from datasets import Value

    from contextcir.cli.gallery_options import own_device
    from contextcir.cli.train_arguments import ModelArguments
    from contextcir.cli.train_model import build_model
    from contextcir.cli.triplet_files import files_to_replace, write_card, write_split
    from contextcir.data.triplets import MAPS_FEATURE, MAPS_FIT, PHRASE_MAPS, stored_features
    from contextcir.runtime.locations import locate
    from contextcir.training.encoded_images import encode_images
    from contextcir.training.phrase_teacher import Learning, phrase_maps, train_teacher

    how = Learning(args.steps, args.batch_size, args.learning_rate, args.seed, args.num_workers)
    triplets, name = load_splits(args), locate(args.data)
    folder = Path(args.output_dir or name)
    replaced = files_to_replace(name, args.config_name, list(triplets), folder, PHRASE_MAPS)
    names = ("clip_name_or_path", "model_revision", "image_fit")
    model, processor = build_model(ModelArguments(**{field: getattr(args, field) for field in names}))
    model.to(torch.device(args.device) if args.device else own_device())
    encoded = {
        split: encode_images(rows, processor, model) if args.encode_images_once else None
        for split, rows in triplets.items()
    }
    teacher, right, chance = train_teacher(
        model, processor, triplets[args.train_split], how, encoded[args.train_split]
    )
    found: dict[str, Any] = {"found_in_batch": round(right, 4), "by_chance": round(chance, 4)}
    for split, rows in triplets.items():
        trust, maps = Trust(), phrase_maps(teacher, processor, rows, how, encoded[split])
        features = stored_features(rows.features)
        features |= {PHRASE_MAPS: MAPS_FEATURE, MAPS_FIT: Value("string")}
        write_split(trust.counted(rows, maps, args.image_fit), features, folder, split, replaced[split])
        found[split] = {"noun_phrases": trust.phrases, "mean_trust": round(trust.total / max(trust.phrases, 1), 4)}
    if args.picture:
        draw(args.picture, args.picture_triplets, teacher, processor, triplets[args.train_split])
    write_card(folder, name, note(args, found), sum(map(len, triplets.values())))
    print(json.dumps(found, indent=1))
    return found


def load_splits(args: GroundArguments) -> dict[str, Any]:
    """All splits of the triplets, with all columns. Maps that are there are not replaced unasked."""
    import datasets

    from contextcir.data.triplets import PHRASE_MAPS, load_triplets
    from contextcir.runtime.locations import locate

    name = locate(args.data)
    splits = list(map(str, datasets.get_dataset_split_names(name, args.config_name)))
    if args.train_split not in splits:
        raise ValueError(f"{args.data} has the splits {', '.join(splits)}, not {args.train_split!r}.")
    triplets = {split: load_triplets(name, split, config_name=args.config_name, columns=None) for split in splits}
    there = [split for split, rows in triplets.items() if PHRASE_MAPS in rows.column_names]
    if there and args.output_dir is None and not args.replace_maps:
        raise ValueError(
            f"{args.data} has {PHRASE_MAPS} already ({', '.join(there)}). Give --output_dir, or --replace_maps."
        )
    return triplets


def draw(path: str, count: int, teacher: Any, processor: Any, rows: Any) -> None:
    """Draw the maps of a number of triplets that have any."""
    import numpy as np

    from contextcir.data.triplet_images import triplet_image
    from contextcir.data.triplets import IMAGE_COLUMNS
    from contextcir.training.phrase_teacher import Learning, phrase_maps
    from contextcir.visualization import GivenMaps, given_maps_figure, save_png
    from contextcir.visualization.concepts import seen_image

    some = [place for place, phrases in enumerate(rows["noun_phrases"]) if phrases]
    spaced = np.linspace(0, len(some) - 1, min(count, len(some))).round().astype(int)
    shown = rows.select([some[place] for place in spaced])
    drawn = []
    for row, maps in zip(shown, phrase_maps(teacher, processor, shown, Learning()), strict=True):
        reference, target = (seen_image(processor, triplet_image(row, name)) for name in IMAGE_COLUMNS)
        names = [phrase["text"] for phrase in row["noun_phrases"]]
        squares = [np.reshape(one, (math.isqrt(len(one)), -1)) for one in maps]
        drawn.append(GivenMaps(reference, target, row["modification_text"], names, squares))
    save_png(given_maps_figure(drawn), path)


class Trust:
    """How far the maps of a split are trusted, counted as they are written."""

    def __init__(self):
        self.phrases, self.total = 0, 0.0

    def counted(self, rows: Any, maps: Iterable[list[list[float]]], fit: str) -> Iterator[dict[str, Any]]:
        """The rows with their maps, and the `image_fit` of these."""
        from contextcir.data.triplets import MAPS_FIT, PHRASE_MAPS, embedded_rows

        for row, found in zip(embedded_rows(rows), maps, strict=True):
            self.phrases += len(found)
            self.total += sum(map(sum, found))
            yield row | {PHRASE_MAPS: found, MAPS_FIT: fit}


def note(args: GroundArguments, found: dict[str, Any]) -> str:
    """What a card says about the maps."""
    source = Path(args.data).resolve().name if Path(args.data).exists() else args.data
    clip = Path(args.clip_name_or_path).name if Path(args.clip_name_or_path).exists() else args.clip_name_or_path
    return (
        f"The triplets of `{source}`, with a column `phrase_maps` beside `noun_phrases`: where each of these is in the"
        " reference image, a weight of each patch, row by row from the top left. The weights of a phrase sum to how"
        f" far they are trusted. Made by `contextcir ground` with `{clip}` and images fitted by `{args.image_fit}`,"
        f" from {args.steps} batches of {args.batch_size} triplets, seed {args.seed}. At the end,"
        f" {found['found_in_batch']:.0%} of the phrases found their triplet in the batch, by chance"
        f" {found['by_chance']:.0%}."
    )


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("ground")
