"""Build a gallery: plan it, embed its shards with any number of workers, and finish it.

Workers share nothing but the folder. Each takes its own shards first and then those that nobody has made, so that a
survivor does the work of a dead one. A shard is the same whoever makes it, and appears whole or not at all: a worker
can be killed at any moment, and the same command goes on.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from contextcir.data.image_fit import warn_of_wide
from contextcir.data.images import ImageError
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.index import nonfinite_row
from contextcir.retrieval.loading import ImageLoader, image_batches
from contextcir.retrieval.store.files import claim, publish_once, remove_parts
from contextcir.retrieval.store.layout import (
    DTYPES,
    MANIFEST,
    PLAN,
    SHARDS,
    Manifest,
    Plan,
    Shard,
    ShardPlan,
    StoreError,
    file_digest,
    is_whole,
    read_header,
)
from contextcir.retrieval.store.sources import Source

SHARD_SIZE = 1024  # rows: what a killed worker loses at the most
WAIT = 0.2  # seconds between looks at the shards of other workers
STEPS = ("all", "plan", "encode", "finish")


@dataclass(frozen=True)
class Worker:
    """
    Which of several workers this is.

    Args:
        rank (`int`): Its number, from 0.
        world_size (`int`): Number of workers.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self):
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"Got worker {self.rank} of {self.world_size}, expected 0 to {self.world_size - 1}.")

    @classmethod
    def from_environment(cls) -> "Worker":
        """As `accelerate launch` and `torchrun` say (`RANK`, `WORLD_SIZE`), or else an array of SLURM jobs
        (`SLURM_ARRAY_TASK_ID`), or else `srun` (`SLURM_PROCID`)."""
        number = {name: int(value) for name, value in os.environ.items() if value.isdecimal()}
        if "RANK" in number and "WORLD_SIZE" in number:
            return cls(number["RANK"], number["WORLD_SIZE"])
        if "SLURM_ARRAY_TASK_COUNT" in number:
            first = number.get("SLURM_ARRAY_TASK_MIN", 0)
            step = max(1, number.get("SLURM_ARRAY_TASK_STEP", 1))
            return cls((number["SLURM_ARRAY_TASK_ID"] - first) // step, number["SLURM_ARRAY_TASK_COUNT"])
        return cls(number.get("SLURM_PROCID", 0), number.get("SLURM_NTASKS", 1))

    def order(self, count: int) -> list[int]:
        """Its own shards, and then those of others, from the end: where workers cannot see each other's claims, they
        meet in the middle."""
        mine = range(self.rank, count, self.world_size)
        return [*mine, *(number for number in reversed(range(count)) if number not in mine)]


@dataclass
class Build:
    """
    One build of a gallery, or of its next generation.

    Args:
        folder (`Path`): The gallery.
        source: Where the images are. `ids` and `metadata` are asked for when a plan is made.
        retriever ([`~contextcir.retrieval.dense.DenseRetriever`], *optional*): Embeds the images; not needed to remove
            some.
        worker ([`Worker`]): Which of several workers this is.
        strict (`bool`): Stop at the first bad image, instead of leaving a hole.
        quiet (`bool`): Show no progress.
    """

    folder: Path
    source: Any
    retriever: DenseRetriever | None
    worker: Worker = field(default_factory=Worker)
    strict: bool = False
    quiet: bool = False
    made: int = 0  # images that this worker embedded
    wide: int = 0  # those of them that are wider or higher than 2:1

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """
        Return the plan of the folder, or make one if nobody has.

        Raises:
            [`StoreError`]: The plan is that of another encoder, or has other settings.
        """
        (self.folder / SHARDS).mkdir(parents=True, exist_ok=True)
        found = Plan.read(self.folder)
        if found is None:
            publish_once(self.folder / PLAN, make().to_bytes())
            found = Plan.read(self.folder)
        assert found is not None  # somebody wrote it
        return found

    def encode(self, plan: Plan, reuse: "Reuse | None" = None) -> None:
        """Make every shard that is not there: first one's own, then those of others."""
        remove_parts(self.folder / SHARDS)
        reuse = reuse or Reuse()
        waiting = self.worker.order(len(plan.shards))
        total = sum(len(shard.ids) for shard in plan.shards if not shard.kept)
        with tqdm(total=total, desc="Embedding", unit="image", disable=self.quiet, mininterval=0.5) as bar:
            while waiting:
                waiting = [number for number in waiting if not self._try(plan, plan.shards[number], reuse, bar)]
                if waiting:  # somebody else has them
                    time.sleep(WAIT)
        if self.retriever is not None:
            warn_of_wide(self.wide, self.made, self.retriever.image_fit)

    def _try(self, plan: Plan, shard: ShardPlan, reuse: "Reuse", bar: tqdm) -> bool:
        """Make a shard if nobody has. Returns whether it is there."""
        path = self.folder / SHARDS / shard.file
        if shard.kept or is_whole(path, shard.ids, plan.fingerprint):
            bar.update(0 if shard.kept else len(shard.ids))
            return True
        with claim(path.with_name(f".{shard.file}.claim")) as free:
            if not free:
                return False
            if not is_whole(path, shard.ids, plan.fingerprint):
                self._encode_shard(plan, shard, reuse, bar).write(path, plan.fingerprint)
        return True

    def _encode_shard(self, plan: Plan, shard: ShardPlan, reuse: "Reuse", bar: tqdm) -> Shard:
        """Embed the fresh images of a shard, and copy its other rows from the generation before."""
        rows = _Rows(shard.ids, DTYPES[plan.dtype])
        fresh = list(shard.ids if shard.fresh is None else shard.fresh)
        for id_ in set(shard.ids) - set(fresh):
            rows.copy(id_, *reuse.by_id[id_])
        bar.update(len(shard.ids) - len(fresh))
        if fresh:
            self._embed(fresh, rows, plan, reuse, bar)
        return rows.shard()

    def _embed(self, ids: list[str], rows: "_Rows", plan: Plan, reuse: "Reuse", bar: tqdm) -> None:
        """Embed images. One whose content the generation before has is not embedded again."""
        retriever = self.retriever
        assert retriever is not None  # whoever plans to read images has one
        images = _Images(self.source, ids)
        loader = ImageLoader(ids, images, retriever.prepare, reuse.by_content, retriever.draft_side)
        batches = image_batches(loader, range(len(ids)), batch_size=plan.batch_size, num_workers=retriever.num_workers)
        with torch.inference_mode():
            for batch in batches:
                embeds: dict[int, torch.Tensor] = {}
                if batch.places:
                    made = retriever.encode_images(batch.pixels).float().cpu()
                    if (row := nonfinite_row(made)) is not None:
                        raise StoreError(
                            f"The embedding of {ids[batch.places[row]]!r} holds NaN or infinity. Check the model's"
                            " weights and the precision it ran in. Nothing of this shard was written."
                        )
                    embeds = dict(zip(batch.places, made, strict=True))
                    self.made += len(batch.places)
                    self.wide += batch.num_wide
                for one in batch.loaded:
                    if one.error is not None and self.strict:
                        raise ImageError(f"{one.error} Leave out --strict to go on without it.")
                    if one.error is None and one.place not in embeds:
                        embeds[one.place] = reuse.embed(one.digest)
                    id_ = ids[one.place]
                    rows.set(id_, embeds.get(one.place), one.digest, one.error, self.source.facts(id_))
                bar.update(len(batch.loaded))

    def finish(self, plan: Plan) -> Manifest:
        """
        Write the manifest, and remove what the new generation does not need.

        Raises:
            [`StoreError`]: A shard is missing.
        """
        facts: list[dict[str, Any]] = []
        bad: dict[str, str] = {}
        normalised, dim = True, 0
        for shard in plan.shards:
            path = self.folder / SHARDS / shard.file
            header = read_header(path)
            if header is None or not (shard.kept or is_whole(path, shard.ids, plan.fingerprint)):
                raise StoreError(f"{path} has not been made: run the encode step, or the whole command, again.")
            normalised &= header["normalised"]
            dim = max(dim, header["dim"])
            bad |= header["bad"]
            facts.append({"file": shard.file, "rows": len(shard.ids), "sha256": file_digest(path)})
        manifest = Manifest(
            count=sum(shard["rows"] for shard in facts),
            dim=dim,
            dtype=plan.dtype,
            normalised=normalised,
            encoder=plan.encoder,
            sources=plan.sources,
            batch_size=plan.batch_size,
            generation=plan.generation,
            shards=tuple(facts),
            bad=bad,
        )
        manifest.write(self.folder)
        keep = {shard.file for shard in plan.shards}
        for path in (self.folder / SHARDS).iterdir():
            if path.suffix == ".claim" or (path.suffix == ".safetensors" and path.name not in keep):
                path.unlink(missing_ok=True)
        return manifest

    def is_finished(self, plan: Plan) -> bool:
        """Whether the manifest is that of the plan."""
        manifest = Manifest.read(self.folder) if (self.folder / MANIFEST).exists() else None
        return manifest is not None and manifest.generation >= plan.generation


class Reuse:
    """
    The rows of the generation before.

    Attributes:
        by_id (`dict[str, tuple[Shard, int]]`): Id -> shard and row.
        by_content (`dict[bytes, tuple[Shard, int]]`): Digest of a good image -> shard and row.
    """

    def __init__(self, shards: Sequence[Shard] = ()):
        self.by_id: dict[str, tuple[Shard, int]] = {}
        self.by_content: dict[bytes, tuple[Shard, int]] = {}
        for shard in shards:
            self.by_id.update({id_: (shard, row) for row, id_ in enumerate(shard.ids)})
            for row in shard.valid.nonzero().flatten().tolist():
                self.by_content[shard.content[row].numpy().tobytes()] = shard, row

    def embed(self, digest: bytes) -> torch.Tensor:
        """The embedding of a known image, `(dim,)`."""
        shard, row = self.by_content[digest]
        return shard.embeds[row].float()


class _Rows:
    """The rows of a shard that is being made."""

    def __init__(self, ids: Sequence[str], dtype: torch.dtype):
        self.ids, self.dtype = ids, dtype
        self.places = {id_: place for place, id_ in enumerate(ids)}
        self.embeds: torch.Tensor | None = None
        self.valid = torch.zeros(len(ids), dtype=torch.uint8)
        self.content = torch.zeros(len(ids), 32, dtype=torch.uint8)
        self.bad: dict[str, str] = {}
        self.facts: list[Mapping[str, Any]] = [{}] * len(ids)

    def set(self, id_: str, embed: torch.Tensor | None, digest: bytes, error: str | None, facts: Mapping) -> None:
        """Fill a row: with an embedding, or with the reason why there is none."""
        place = self.places[id_]
        self.content[place] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        self.facts[place] = facts
        if error is not None:
            self.bad[id_] = error
        if embed is not None:
            if self.embeds is None:
                self.embeds = torch.zeros(len(self.ids), *embed.shape, dtype=self.dtype)
            self.embeds[place], self.valid[place] = embed, 1

    def copy(self, id_: str, shard: Shard, row: int) -> None:
        """Fill a row with that of another shard."""
        facts = {name: values[row] for name, values in shard.facts.items() if values[row] is not None}
        embed = shard.embeds[row] if shard.valid[row] else None
        self.set(id_, embed, shard.content[row].numpy().tobytes(), shard.bad.get(id_), facts)

    def shard(self) -> Shard:
        """The shard. Where all images are bad, nobody knows the dimension: it is 0."""
        embeds = torch.zeros(len(self.ids), 0, dtype=self.dtype) if self.embeds is None else self.embeds
        columns = sorted({name for facts in self.facts for name in facts})
        facts = {name: [row.get(name) for row in self.facts] for name in columns}
        return Shard(self.ids, embeds, self.valid, self.content, dict(sorted(self.bad.items())), facts)


class _Images(Sequence):
    """The images of a source, by place."""

    def __init__(self, source: Source, ids: Sequence[str]):
        self.source, self.ids = source, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        return self.source.image(self.ids[place])


def cut(ids: Sequence[str], size: int, name: Callable[[int], str]) -> Iterator[ShardPlan]:
    """Cut ids into shards of at most `size`."""
    for number, start in enumerate(range(0, len(ids), size)):
        yield ShardPlan(name(number), tuple(ids[start : start + size]))
