"""Plan a change of a stored gallery: add, remove or update images, and merge galleries.

A change keeps the shards that it does not touch. The others are made again from the embeddings that are there, by the
content of the images: only images that are new or have changed are embedded.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contextcir.data.content import image_digest
from contextcir.data.images import ImageError
from contextcir.retrieval.store.build import cut
from contextcir.retrieval.store.files import write_whole
from contextcir.retrieval.store.layout import PLAN, SHARDS, Manifest, Plan, Shard, ShardPlan, StoreError, file_digest
from contextcir.retrieval.store.sources import HasImages, Source


@dataclass(frozen=True)
class Change:
    """
    What is to change.

    Args:
        new (`list[str]`): Ids that are added at the end.
        changed (`set[str]`): Ids whose image or facts have changed.
        removed (`set[str]`): Ids that go.
    """

    new: list[str]
    changed: set[str]
    removed: set[str]

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.removed)


def compare(source: Source, shards: Sequence[Shard]) -> Change:
    """Compare a source with what is stored. Reads the content of every image."""
    now, stored, changed = set(source.ids), set[str](), set[str]()
    for shard in shards:
        stored |= set(shard.ids)
        for row, id_ in enumerate(shard.ids):
            if id_ in now:
                facts = {name: values[row] for name, values in shard.facts.items() if values[row] is not None}
                given = {name: value for name, value in source.facts(id_).items() if value is not None}
                if _digest(source, id_) != shard.content[row].numpy().tobytes() or facts != given:
                    changed.add(id_)
    return Change([id_ for id_ in source.ids if id_ not in stored], changed, stored - now)


def _digest(source: HasImages, id_: str) -> bytes:
    try:
        return image_digest(source.image(id_))
    except ImageError:
        return bytes(32)


def next_plan(manifest: Manifest, shards: Sequence[Shard], change: Change, sources, shard_size: int) -> Plan:
    """
    Plan the next generation.

    Args:
        manifest ([`Manifest`]): The generation that is there.
        shards (`Sequence[Shard]`): Its shards.
        change ([`Change`]): What is to change.
        sources (`Sequence[dict]`): Where the images are afterwards.
        shard_size (`int`): Most rows of new shards.
    """
    generation, planned = manifest.generation + 1, list[ShardPlan]()
    for facts, shard in zip(manifest.shards, shards, strict=True):
        left = [id_ for id_ in shard.ids if id_ not in change.removed]
        kept = len(left) == len(shard.ids) and change.changed.isdisjoint(left)
        name = facts["file"] if kept else f"{facts['file'].split('.')[0]}.{generation}.safetensors"
        if left:
            fresh = tuple(id_ for id_ in left if id_ in change.changed)
            planned.append(ShardPlan(name, tuple(left), kept, fresh))
    first = 1 + max((int(facts["file"].split(".")[0]) for facts in manifest.shards), default=-1)
    planned += cut(change.new, shard_size, lambda number: f"{first + number:05d}.{generation}.safetensors")
    return Plan(manifest.encoder, tuple(sources), tuple(planned), manifest.dtype, manifest.batch_size, generation)


def merge(folders: Sequence[Path], output: Path) -> Manifest:
    """
    Merge galleries of one encoder into a new one. Shards are copied, nothing is embedded.

    Raises:
        [`StoreError`]: Encoders or types differ, an id is in two of them, or the output exists.
    """
    manifests = [require(folder) for folder in folders]
    first = manifests[0]
    if Manifest.read(output) is not None:
        raise StoreError(f"{output} holds a gallery already. Choose another output.")
    for folder, other in zip(folders, manifests, strict=True):
        if other.encoder.fingerprint != first.encoder.fingerprint or other.dtype != first.dtype:
            difference = first.encoder.difference(other.encoder) or f"dtype {first.dtype}, got {other.dtype}"
            raise StoreError(f"{folder} cannot be merged with {folders[0]}: {difference}.")
    seen: dict[str, Path] = {}
    planned: list[
        tuple[Path, dict[str, Any], ShardPlan]
    ] = []  # where a shard is, what the manifest says, and its copy
    for folder, manifest in zip(folders, manifests, strict=True):
        for one in manifest.shards:
            path = folder / SHARDS / one["file"]
            ids = Shard.read(path).ids
            for id_ in ids:
                if id_ in seen:
                    raise StoreError(f"{id_!r} is in {seen[id_]} and in {folder}. Remove it from one of them.")
                seen[id_] = folder
            copy = ShardPlan(f"{len(planned):05d}.safetensors", tuple(ids), kept=True)
            planned.append((path, {**one, "file": copy.file}, copy))
    (output / SHARDS).mkdir(parents=True, exist_ok=True)
    for path, _, copy in planned:
        shutil.copyfile(path, output / SHARDS / copy.file)
    sources = tuple({str(source): source for manifest in manifests for source in manifest.sources}.values())
    merged = replace(
        first,
        count=len(seen),
        normalised=all(manifest.normalised for manifest in manifests),
        sources=sources,
        generation=0,
        shards=tuple(facts for _, facts, _ in planned),
        bad={id_: reason for manifest in manifests for id_, reason in manifest.bad.items()},
    )
    plan = Plan(first.encoder, sources, tuple(copy for *_, copy in planned), first.dtype, first.batch_size)
    write_whole(output / PLAN, plan.to_bytes())
    merged.write(output)
    return merged


def require(folder: Path) -> Manifest:
    """The manifest of a folder. Raises a [`StoreError`] if nothing is whole there."""
    if (manifest := Manifest.read(folder)) is not None:
        return manifest
    if Plan.read(folder) is not None:
        raise StoreError(f"{folder} is not finished: run the same `contextcir index` command again.")
    raise StoreError(
        f"{folder} holds no gallery. `contextcir index PHOTOS --model MODEL --output {folder}` makes one."
    )


def read_shards(folder: Path, manifest: Manifest) -> list[Shard]:
    """Map all shards of a generation into memory. Raises a [`StoreError`] if one is missing or damaged."""
    return [Shard.read(folder / SHARDS / facts["file"]) for facts in manifest.shards]


def faults(folder: Path, source: HasImages | None) -> Iterator[str]:
    """
    Look for faults of a stored gallery: a missing shard, a flipped byte, a picture that is gone or has changed.

    Args:
        folder (`Path`): The gallery.
        source (*optional*): Its images, to compare their content.

    Yields:
        `str`: One fault.
    """
    for facts in require(folder).shards:
        path = folder / SHARDS / facts["file"]
        if not path.is_file():
            yield f"{path.name}: is missing"
            continue
        if (found := file_digest(path)) != facts["sha256"]:
            yield f"{path.name}: has SHA-256 {found[:12]}, expected {facts['sha256'][:12]}: the file was changed"
            continue
        shard = Shard.read(path)
        for row, id_ in enumerate(shard.ids if source is not None else []):
            now, then = _digest(source, id_), shard.content[row].numpy().tobytes()  # type: ignore[arg-type]
            if now != then:
                yield f"{id_}: " + ("the picture has changed" if any(now) else "the picture is gone")


def unknown(ids: Collection[str], shards: Sequence[Shard]) -> list[str]:
    """Those of `ids` that are not stored."""
    stored = {id_ for shard in shards for id_ in shard.ids}
    return [id_ for id_ in ids if id_ not in stored]
