"""Render the results of a search as one HTML file with all images in it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from contextcir.data.images import ImageError, data_uri
from contextcir.retrieval.store.gallery import Hit, StoredGallery

TEMPLATE = Path(__file__).with_name("search_page.html")
SIDE = 320  # pixels


def search_page(gallery: StoredGallery, hits: Sequence[Hit], reference: Image.Image | None, text: str) -> str:
    """
    Render results.

    Args:
        gallery ([`~contextcir.retrieval.store.gallery.StoredGallery`]): Has the images. One that is gone since is left
            blank.
        hits (`Sequence[Hit]`): Best first.
        reference (`PIL.Image.Image`, *optional*): The reference image.
        text (`str`): The modification text.

    Returns:
        `str`: The page.
    """
    shown = []
    for hit in hits:
        try:
            image = data_uri(gallery.image(hit.id), SIDE)
        except ImageError:
            image = None
        shown.append(asdict(hit) | {"image": image})
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            hits=shown,
            reference=None if reference is None else data_uri(reference, SIDE),
            text=text,
            size=f"{len(gallery):,}",
        )
    )
