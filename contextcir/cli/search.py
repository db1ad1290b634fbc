"""Search a stored gallery with an image, a text, or both.

    contextcir search my-gallery --image reference.jpg --text "in red, without the belt"
    contextcir search my-gallery --text "a red belt" --filter "price<20" "brand=a|b" -k 20
    contextcir search my-gallery --image reference.jpg --text "at night" --html results.html --open

With an image alone, similar images are found. `contextcir index` makes a gallery, `contextcir serve` serves a page.
"""

import json
import os
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers.hf_argparser import HfArg

from contextcir.cli.engine_options import EngineChoice
from contextcir.cli.gallery_options import ModelChoice
from contextcir.cli.options import CommandParser


@dataclass
class SearchArguments:
    """The query, and how results are shown."""

    _argument_group_name = "Search"

    gallery: str = HfArg(help="Folder of the gallery, or hf://user/name@REVISION for one on the Hub.")
    image: str | None = HfArg(default=None, help="Reference image: a file, or the id of one in the gallery.")
    text: str = HfArg(default="", help="What should be different.")
    k: int = HfArg(default=10, aliases=["-k"], help="Number of results.")
    filter: list[str] | None = HfArg(default=None, help='Conditions on facts, such as "price<20" "brand=a|b".')
    image_weight: float = HfArg(default=0.0, help="Weight of the reference itself, in [0, 1].")
    json: bool = HfArg(default=False, help="Print JSON.")
    html: str | None = HfArg(default=None, help="Write a page with the images.")
    open: bool = HfArg(default=False, help="Open that page.")

    def __post_init__(self):
        if self.image is None and not self.text.strip():
            raise ValueError("Give --image, --text, or both.")
        if self.open and not self.html:
            self.html = "results.html"


@dataclass
class Found:
    """The results of a search, as JSON."""

    gallery: str
    image: str | None
    text: str
    milliseconds: float
    results: list[dict] = field(default_factory=list)


def main(argv: Sequence[str]) -> Found:
    """Search, print, and write the page. Returns the results."""
    kinds = (SearchArguments, ModelChoice, EngineChoice)
    args, choice, engine = CommandParser(kinds, "contextcir search", __doc__, ("gallery",)).parse(argv)
    from contextcir.retrieval.base import Gallery
    from contextcir.retrieval.filters import parse_filters
    from contextcir.retrieval.store.changes import require
    from contextcir.retrieval.store.hub import fetch

    where = parse_filters(args.filter or [])
    folder = fetch(args.gallery)
    retriever = choice.retriever(require(folder).encoder)
    gallery = Gallery.open(folder, retriever)
    engine.open(gallery)
    exclude = [args.image] if args.image in gallery.positions else []
    start = time.perf_counter()
    hits = gallery.search(args.image, args.text, args.k, where=where, image_weight=args.image_weight, exclude=exclude)
    found = Found(args.gallery, args.image, args.text, 1000 * (time.perf_counter() - start))
    found.results = [asdict(hit) | {"path": gallery.path_of(hit.id)} for hit in hits]
    print(json.dumps(asdict(found), indent=2) if args.json else table(found, len(gallery)))
    if args.html:
        from contextcir.visualization.search_page import search_page

        page = search_page(gallery, hits, gallery.reference(args.image), args.text)
        Path(args.html).write_text(page, encoding="utf-8")
        if args.open:
            webbrowser.open(Path(args.html).resolve().as_uri())
    return found


def table(found: Found, size: int) -> str:
    """The results as lines: rank, score, and the path, or else the id."""
    lines = [f"{hit['rank']:>4}  {hit['score']:.3f}  {shown(hit)}" for hit in found.results]
    return "\n".join([*lines, f"{len(lines)} of {size:,} images in {found.milliseconds:.0f} ms"])


def shown(hit: dict) -> str:
    """The path of a result relative to here, or its id, and its facts."""
    path = hit["path"]
    where = os.path.relpath(path) if path else hit["id"]
    where = path if where.startswith(os.pardir) else where
    facts = ", ".join(f"{name} {value}" for name, value in hit["facts"].items() if value is not None)
    return f"{where}  ({facts})" if facts else where
