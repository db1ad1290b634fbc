"""Index images, add and remove some, and bring a stored gallery up to date."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextcir.data.folders import left_out_sentence
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.store.build import SHARD_SIZE, STEPS, WAIT, Build, Reuse, Worker, cut
from contextcir.retrieval.store.changes import Change, compare, next_plan, read_shards, require, unknown
from contextcir.retrieval.store.files import claim, write_whole
from contextcir.retrieval.store.gallery import StoredGallery, check_encoder
from contextcir.retrieval.store.layout import DTYPES, PLAN, SHARDS, Manifest, Plan, StoreError
from contextcir.retrieval.store.sources import MemorySource, Source, Sources, find_source


@dataclass(frozen=True)
class Outcome:
    """
    What was done.

    Args:
        manifest ([`Manifest`], *optional*): The gallery; `None` if a step alone was done and it is not whole yet.
        embedded (`int`): Images that this process embedded.
        change ([`Change`], *optional*): What changed in a gallery that was there.
        left_out (`dict[str, int]`): Kind of file that cannot be read -> how many.
    """

    manifest: Manifest | None
    embedded: int
    change: Change | None
    left_out: dict[str, int]


def as_source(images: Any) -> Source:
    """A source as it is, one of a gallery in memory, or one found by its name."""
    if isinstance(images, (str, os.PathLike)):
        return find_source(images)
    return MemorySource(images) if isinstance(images, Gallery) else images


def build_gallery(images: Any, retriever: DenseRetriever, output: str | os.PathLike, **options: Any) -> StoredGallery:
    """See [`~contextcir.retrieval.base.Gallery.build`]."""
    source = as_source(images)
    index_images(source, retriever, output, **options)
    gallery = StoredGallery.load(output, retriever)
    if isinstance(source, MemorySource):
        gallery.sources = Sources([source])
    return gallery


def index_images(
    source: Source,
    retriever: DenseRetriever,
    output: str | os.PathLike,
    *,
    dtype: str = "float32",
    shard_size: int = SHARD_SIZE,
    worker: Worker | None = None,
    step: str = "all",
    strict: bool = False,
    quiet: bool = False,
) -> Outcome:
    """
    Embed the images of a source, or bring a gallery up to date with it.

    Args:
        source: Where the images are.
        retriever ([`~contextcir.retrieval.dense.DenseRetriever`]): Embeds the images, `batch_size` at a time.
        output (`str` or `os.PathLike`): The folder of the gallery.
        dtype (`str`, *optional*, defaults to `float32`): Type to store: `float32` or `float16`.
        shard_size (`int`, *optional*, defaults to 1024): Images of a shard: what a killed worker loses at the most.
        worker ([`Worker`], *optional*): Which of several workers this is; by default as the environment says.
        step (`str`, *optional*, defaults to `all`): `plan`, `encode` or `finish`, for workers on several hosts.
        strict (`bool`, *optional*, defaults to `False`): Stop at a bad image.
        quiet (`bool`, *optional*, defaults to `False`): Show no progress.

    Raises:
        `ImageError`: A bad image, if `strict`.
        `StoreError`: The folder has another encoder, type or batch size, or the source has no images.
    """
    if dtype not in DTYPES or step not in STEPS or shard_size < 1:
        raise ValueError(
            f"Got dtype={dtype!r}, step={step!r}, shard_size={shard_size}; expected a dtype of {', '.join(DTYPES)}, a"
            f" step of {', '.join(STEPS)}, and at least 1 image."
        )
    folder = Path(output)
    build = Build(folder, source, retriever, worker or Worker.from_environment(), strict, quiet)
    manifest, change = Manifest.read(folder), None
    if manifest is not None:
        check_encoder(manifest, retriever, folder)
        plan = Plan.read(folder)
        if plan is None or plan.generation == manifest.generation:
            shards = read_shards(folder, manifest)
            change = compare(source, shards)
            plan = next_plan(manifest, shards, change, [source.describe()], shard_size) if change else None
            if plan is None:
                return Outcome(manifest, 0, change, source.left_out)
            write_whole(folder / PLAN, plan.to_bytes())
    else:
        plan = build.plan(lambda: first_plan(source, retriever, dtype, shard_size))
        check_plan(plan, retriever, dtype, folder)
    manifest = _carry_out(build, plan, step)
    return Outcome(manifest, build.made, change, source.left_out)


def first_plan(source: Source, retriever: DenseRetriever, dtype: str, shard_size: int) -> Plan:
    """The plan of a gallery that is not there yet. Raises a [`StoreError`] if there are no images."""
    if not source.ids:
        raise StoreError(f"There are no images in {source.describe()}. {left_out_sentence(source.left_out)}".rstrip())
    shards = cut(source.ids, shard_size, lambda number: f"{number:05d}.safetensors")
    return Plan(retriever.identity, (source.describe(),), tuple(shards), dtype, retriever.batch_size)


def check_plan(plan: Plan, retriever: DenseRetriever, dtype: str, folder: Path) -> None:
    """Raise a [`StoreError`] if a build that goes on was begun with other settings."""
    mine = retriever.identity
    if difference := plan.encoder.fingerprint != mine.fingerprint and plan.encoder.difference(mine):
        raise StoreError(f"{folder} was begun with another encoder: {difference}. Choose another output.")
    for name, begun, got in (("dtype", plan.dtype, dtype), ("batch_size", plan.batch_size, retriever.batch_size)):
        if begun != got:
            raise StoreError(f"{folder} was begun with {name} {begun}, got {got}. Choose another output.")


def add_images(folder: str | os.PathLike, source: Source, retriever: DenseRetriever, **options: Any) -> Outcome:
    """
    Add the images of another source at the end of a gallery.

    Args:
        folder (`str` or `os.PathLike`): The gallery.
        source: The new images. Ids that are there already are left alone.
        retriever ([`~contextcir.retrieval.dense.DenseRetriever`]): The one that made the gallery.
        **options: `strict` and `quiet`, as for [`index_images`].
    """
    path = Path(folder)
    manifest = require(path)
    check_encoder(manifest, retriever, path)
    shards = read_shards(path, manifest)
    change = Change(unknown(source.ids, shards), set(), set())
    described = source.describe()
    sources = [*manifest.sources, *([described] if described not in manifest.sources else [])]
    return _change(path, manifest, change, sources, source, retriever, **options)


def remove_images(folder: str | os.PathLike, ids: Sequence[str]) -> Outcome:
    """Remove images by id. No image is read. Raises a [`StoreError`] that names an id that is not there."""
    path = Path(folder)
    manifest = require(path)
    if missing := unknown(ids, read_shards(path, manifest)):
        raise StoreError(f"{path} has no image {missing[0]!r}.")
    return _change(path, manifest, Change([], set(), set(ids)), manifest.sources, None, None)


def _change(path, manifest, change, sources, source, retriever, *, strict=False, quiet=False) -> Outcome:
    if change:
        plan = next_plan(manifest, read_shards(path, manifest), change, sources, SHARD_SIZE)
        write_whole(path / PLAN, plan.to_bytes())
        build = Build(path, source, retriever, Worker(), strict, quiet)
        return Outcome(_carry_out(build, plan, "all"), build.made, change, getattr(source, "left_out", {}))
    return Outcome(manifest, 0, change, getattr(source, "left_out", {}))


def _carry_out(build: Build, plan: Plan, step: str) -> Manifest | None:
    """Encode and finish, or one of both. One worker finishes, the others wait for it."""
    if step in ("all", "encode") and not build.is_finished(plan):
        before = Manifest.read(build.folder)
        build.encode(plan, Reuse(read_shards(build.folder, before)) if before else None)
    while step in ("all", "finish") and not build.is_finished(plan):
        with claim(build.folder / SHARDS / ".manifest.claim") as free:
            if free and not build.is_finished(plan):
                return build.finish(plan)
        time.sleep(WAIT)
    return Manifest.read(build.folder) if build.is_finished(plan) else None
