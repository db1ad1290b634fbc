"""Publish a gallery: its manifest, its shards and a card. Others search it by its name on the Hub.

    contextcir publish gallery my-gallery my-name/my-gallery --model my-name/mine

Others then run `contextcir search hf://my-name/my-gallery@COMMIT ...`, or `serve`. They load the model that made the
gallery, so it has to be on the Hub: `--model` names it where the gallery was made with a local copy, and is checked.

The images stay here, unless they are those of a data set on the Hub. `--with_images` publishes them as well: at most
1024 pixels wide, without what cameras wrote into them. Paths of this machine are not published. Facts of images are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.gallery_options import ModelChoice
from contextcir.cli.options import CommandParser

CARD = "model_cards/gallery_template.md"
TAGS = ("composed-image-retrieval", "contextcir-gallery")
TOLD = ("tags", "language", "source_datasets")  # of the header of the images' data set


@dataclass
class GalleryArguments:
    """What to publish, and where."""

    _argument_group_name = "Publishing"

    gallery: str = HfArg(help="Folder of the gallery.")
    name: str = HfArg(help="Hub name, such as my-name/my-gallery.")
    model: str | None = HfArg(default=None, help="Hub name of the model that made the gallery, if it was a local one.")
    with_images: bool = HfArg(default=False, help="Publish the images as well, made smaller and without EXIF.")
    license: str | None = HfArg(
        default=None, help="Licence of the images, in the card; by default that of their data set's card, or other."
    )
    public: bool = HfArg(default=False, help="Publish the gallery for everybody to see.")


def main(argv: Sequence[str]) -> str:
    """Publish the gallery. Returns the commit."""
    parser = CommandParser([GalleryArguments], "contextcir publish gallery", __doc__, ("gallery", "name"))
    (args,) = parser.parse(argv)
    from contextcir.data.hub import publish_files
    from contextcir.retrieval.store.changes import require
    from contextcir.retrieval.store.hub import portable_gallery

    folder = Path(args.gallery)
    encoder = encoder_on_hub(require(folder), args.model, folder)
    with TemporaryDirectory() as to:
        copy = Path(to)
        contents = portable_gallery(folder, encoder, args.name, copy, with_images=args.with_images)
        (copy / "README.md").write_text(card(require(copy), args), encoding="utf-8")
        contents["README.md"] = copy / "README.md"
        options = {"public": args.public, "replace": ("shards/*", "images/*")}
        commit = publish_files(contents, args.name, kind="dataset", **options)
    print(f"Published: {args.name}. To search it: contextcir search hf://{args.name}@{commit} --text ...")
    return commit


def encoder_on_hub(manifest: Any, model: str | None, folder: Path) -> Any:
    """Who embedded a gallery, by a name that others find. Raises a `ValueError` if it is a model of this machine."""
    from contextcir.retrieval.store.gallery import check_encoder

    encoder = manifest.encoder
    if model is not None:
        retriever = ModelChoice(model=model).retriever(encoder)
        check_encoder(manifest, retriever, folder)
        encoder = retriever.identity
    if encoder.revision is None:
        raise ValueError(
            f"{folder} was embedded by {encoder.model}, which is on this machine only. Publish the model, with"
            f" `contextcir publish model {encoder.model} NAME`, and give its name as --model."
        )
    return encoder


def card(manifest: Any, args: GalleryArguments) -> str:
    """The card of a gallery, from its manifest as it is published."""
    from huggingface_hub import DatasetCardData
    from jinja2 import Template

    from contextcir.data.card_fields import TASKS, size_category
    from contextcir.data.hub import COMMIT
    from contextcir.data.source_card import inherited
    from contextcir.retrieval.store.hub import IMAGES
    from contextcir.runtime.locations import shipped

    sources = [one["name"] for one in manifest.sources if one.get("name") not in (None, args.name)]
    header, _ = inherited(sources[0] if len(sources) == 1 else None, tags=TAGS)
    kept = TOLD if args.license else (*TOLD, "license", "license_name", "license_link")
    header = {key: value for key, value in header.items() if key in kept}
    header.setdefault("license", args.license)
    count, title = manifest.count - len(manifest.bad), args.name.split("/")[-1]
    header |= {"pretty_name": title, "task_categories": TASKS, "size_categories": [size_category(count)]}
    files = [{"config_name": IMAGES, "data_files": [{"split": "train", "path": f"{IMAGES}/*.parquet"}]}]
    header |= {"configs": files} if args.with_images else {"viewer": False}
    images = f"in `{IMAGES}/`, made smaller" if args.with_images else ", ".join(sources) or "not published"
    return Template(shipped(CARD).read_text(encoding="utf-8"), keep_trailing_newline=True).render(
        header=DatasetCardData(**header).to_yaml(),
        title=title,
        name=args.name,
        commit=COMMIT,
        count=count,
        bad=len(manifest.bad),
        images=images,
        licence=header["license"],
        manifest=manifest,
    )
