"""Galleries on the Hub: a copy to publish, without paths of this machine, and one to search, pinned by its commit.

A published gallery is a data set repository with `manifest.json`, `shards/` and a card. Its images are those of a data
set on the Hub, or `images/*.parquet` in the same repository, or not published.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from contextcir.data.images import encode_image
from contextcir.data.portable import LocalPaths
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.store.gallery import StoredGallery
from contextcir.retrieval.store.layout import MANIFEST, SHARDS, Shard, StoreError, file_digest, read_header
from contextcir.retrieval.store.sources import UNPUBLISHED

logger = logging.getLogger("contextcir")

PREFIX = "hf://"
IMAGES = "images"
IMAGE_SIDE = 1024  # pixels of a published image's longer side; the largest picture that the page shows


def fetch(name: str | os.PathLike) -> Path:
    """
    Find the folder of a gallery.

    Args:
        name (`str` or `os.PathLike`): A folder; or `hf://user/name` or `hf://user/name@REVISION` for one on the Hub,
            of which a copy is kept in the Hub's cache.

    Returns:
        `Path`

    Raises:
        [`StoreError`]: The Hub has no such gallery, or cannot be reached and there is no copy.
    """
    if not str(name).startswith(PREFIX):
        return Path(name)
    from huggingface_hub import snapshot_download

    repo, _, revision = str(name).removeprefix(PREFIX).partition("@")
    try:
        patterns = [MANIFEST, f"{SHARDS}/*"]
        folder = snapshot_download(repo, repo_type="dataset", revision=revision or None, allow_patterns=patterns)
    except (OSError, ValueError) as error:  # all errors of the Hub's client are one of these
        raise StoreError(
            f"{name} cannot be read from the Hub ({error}). Check the name; a private one needs `hf auth login`."
        ) from error
    if not revision:
        logger.warning("To search this state of the gallery later on, write %s%s@%s.", PREFIX, repo, Path(folder).name)
    return Path(folder)


def is_on_hub(source: Mapping[str, Any]) -> bool:
    """Whether anybody finds the images of a source, as far as its description tells."""
    return source["kind"] == "dataset" and not os.path.isabs(source["name"])


def portable_gallery(folder: Path, encoder: Identity, name: str, to: Path, *, with_images: bool) -> dict[str, Path]:
    """
    Make what is published of a gallery.

    Args:
        folder (`Path`): The gallery. It is not changed.
        encoder ([`~contextcir.retrieval.identity.Identity`]): Who embedded it, by its name on the Hub.
        name (`str`): The gallery's own name on the Hub.
        to (`Path`): An empty folder for what is written anew.
        with_images (`bool`): Whether to write the images, at most 1024 pixels wide and with nothing but their pixels.

    Returns:
        `dict[str, Path]`: Name in the repository -> file.
    """
    gallery = StoredGallery.load(folder)
    manifest, paths = gallery.manifest, LocalPaths(folder)
    contents: dict[str, Path] = {}
    shards: list[dict[str, Any]] = []
    for facts in manifest.shards:
        path = _portable_shard(folder / SHARDS / facts["file"], paths, to)
        contents[f"{SHARDS}/{facts['file']}"] = path
        shards.append(facts | {"sha256": file_digest(path)})
    own = {"kind": "dataset", "name": name, "config": IMAGES, "image_column": "image", "id_column": "id"}
    others = [one if is_on_hub(one) else {"kind": UNPUBLISHED} for one in manifest.sources]
    changed = replace(
        manifest,
        encoder=encoder,
        sources=(own,) if with_images else tuple({str(one): one for one in others}.values()),
        shards=tuple(shards),
        bad={id_: paths.replace(reason) for id_, reason in manifest.bad.items()},
    )
    changed.write(to)
    if with_images:
        from datasets import Features, Image, Value

        from contextcir.data.parquet import write_parquet

        features = Features({"id": Value("string"), "image": Image()})
        write_parquet(_image_rows(gallery), features, to / IMAGES, "train")
        contents |= {f"{IMAGES}/{path.name}": path for path in sorted((to / IMAGES).iterdir())}
    return contents | {MANIFEST: to / MANIFEST}


def _portable_shard(path: Path, paths: LocalPaths, to: Path) -> Path:
    """A shard whose reasons for bad images name no path of this machine: the file itself, or a copy."""
    shard, header = Shard.read(path), read_header(path)
    bad = {id_: paths.replace(reason) for id_, reason in shard.bad.items()}
    if bad == shard.bad or header is None:
        return path
    replace(shard, bad=bad).write(to / path.name, header["fingerprint"])
    return to / path.name


def _image_rows(gallery: StoredGallery) -> Iterator[dict[str, Any]]:
    for id_ in gallery.ids:
        small = gallery.image(id_).copy()
        small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
        small.info.clear()  # Pillow would write a comment that the file had
        yield {"id": id_, "image": {"bytes": encode_image(small, "JPEG", quality=90), "path": None}}
