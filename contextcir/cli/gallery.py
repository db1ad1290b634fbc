"""Look after stored galleries: add and remove images, check, merge, and say what is in one.

    contextcir gallery info my-gallery
    contextcir gallery add my-gallery more-photos
    contextcir gallery remove my-gallery --ids old/1.jpg old/2.jpg
    contextcir gallery verify my-gallery
    contextcir gallery merge both --galleries my-gallery another-gallery

`verify` exits with 1 if it finds a fault: a missing shard, a flipped byte, a picture that is gone or has changed. To
bring a gallery up to date with its folder, run `contextcir index` again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.gallery_options import EncoderChoice
from contextcir.cli.index import report
from contextcir.cli.options import CommandParser


@dataclass
class GalleryArguments:
    """What to do, and with which gallery."""

    _argument_group_name = "Gallery"

    action: Literal["info", "add", "remove", "verify", "merge"] = HfArg(help="What to do.")
    gallery: str = HfArg(help="Folder of the gallery (of the new one, to merge); or hf://user/name.")
    images: str | None = HfArg(default=None, help="To add: folder, text file of paths, or data set.")
    ids: list[str] | None = HfArg(default=None, help="To remove: ids of images.")
    galleries: list[str] | None = HfArg(default=None, help="To merge: galleries of one model.")
    embeddings_only: bool = HfArg(default=False, help="To verify: do not compare the pictures.")

    def __post_init__(self):
        needed = {"add": "images", "remove": "ids", "merge": "galleries"}.get(self.action)
        for name in ("images", "ids", "galleries"):
            if (getattr(self, name) is not None) != (name == needed):
                raise ValueError(f"{self.action} {'needs' if name == needed else 'takes no'} --{name}.")


def main(argv: Sequence[str]) -> int:
    """Do it. Returns the exit code."""
    kinds = (GalleryArguments, EncoderChoice)
    args, choice = CommandParser(kinds, "contextcir gallery", __doc__, ("action", "gallery", "images")).parse(argv)
    from contextcir.retrieval.store.changes import faults, merge, require
    from contextcir.retrieval.store.hub import PREFIX, fetch
    from contextcir.retrieval.store.operations import Outcome, add_images, remove_images
    from contextcir.retrieval.store.sources import Sources, find_source, open_source

    if args.gallery.startswith(PREFIX) and args.action not in ("info", "verify"):
        raise ValueError(f"{args.gallery} is on the Hub, and stays as it is. {args.action} works on a local folder.")
    folder = fetch(args.gallery)
    if args.action == "merge":
        manifest = merge([Path(one) for one in args.galleries], folder)
        return report(Outcome(manifest, 0, None, {}), args.gallery)
    manifest = require(folder)
    if args.action == "add":
        retriever = choice.retriever(manifest.encoder)
        return report(add_images(folder, find_source(args.images), retriever), args.gallery)
    if args.action == "remove":
        return report(remove_images(folder, args.ids), args.gallery)
    if args.action == "info":
        print(describe(folder, manifest))
        return 0
    sources = None if args.embeddings_only else Sources([open_source(one) for one in manifest.sources])
    found = list(faults(folder, sources))
    print("\n".join(found) if found else f"{manifest.count:,} rows in {len(manifest.shards)} shards: no fault.")
    return 1 if found else 0


def describe(folder: Path, manifest) -> str:
    """A gallery in a few lines."""
    encoder = manifest.encoder
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    lines = [
        f"images      {manifest.count - len(manifest.bad):,}, and {len(manifest.bad):,} bad ones",
        f"embeddings  {manifest.dim} dimensions, {manifest.dtype}, "
        + ("unit length" if manifest.normalised else "of any length"),
        f"model       {encoder.model}" + (f" at {encoder.revision}" if encoder.revision else ""),
        f"weights     {encoder.weights}, {encoder.dtype}"
        + (f" under {encoder.autocast} autocast" if encoder.autocast else ""),
        *(f"source      {one['kind']} {one.get('path') or one.get('name') or ''}" for one in manifest.sources),
        f"on disk     {size:,.1f} MB in {len(manifest.shards)} shards, generation {manifest.generation}",
    ]
    return "\n".join(lines)
