"""The files of a stored gallery.

- `plan.json`: the shards with the ids of each, and who embeds. Written first and once. Workers share nothing else.
- `shards/00000.safetensors`: `embeds (rows, dim)`; `valid (rows,)`, 0 for a bad image; `content (rows, 32)`, the
  SHA-256 of each image. In the header: ids, facts of the images, the reasons of bad images, and the fingerprint of the
  plan. Written once.
- `manifest.json`: the shards that belong together, with their SHA-256. Written last. Readers begin here, and see the
  old gallery or the new one.

A change of a gallery is a plan of the next generation. It keeps the shards it does not touch, and names new ones
differently, so that whoever reads the old generation goes on reading it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from contextcir.retrieval.identity import Identity, digest
from contextcir.retrieval.store.files import HEADER, to_json, write_whole

T = TypeVar("T")
VERSION = 1
PLAN, MANIFEST, SHARDS = "plan.json", "manifest.json", "shards"
DTYPES = {"float32": torch.float32, "float16": torch.float16}


class StoreError(ValueError):
    """A stored gallery cannot be used as asked. The message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class ShardPlan:
    """
    A shard to be made, or kept from the generation before.

    Args:
        file (`str`): Its name in `shards/`.
        ids (`tuple[str, ...]`): The ids of its rows.
        kept (`bool`): Whether the generation before has it.
        fresh (`tuple[str, ...]`, *optional*): Ids whose images are read; the other rows are copied from the generation
            before. By default, all are.
    """

    file: str
    ids: tuple[str, ...]
    kept: bool = False
    fresh: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "ShardPlan":
        """A shard of `plan.json`."""
        fresh = facts["fresh"]
        return cls(facts["file"], tuple(facts["ids"]), facts["kept"], None if fresh is None else tuple(fresh))


@dataclass(frozen=True)
class Plan:
    """
    What is to be built.

    Args:
        encoder ([`~contextcir.retrieval.identity.Identity`]): Who embeds.
        sources (`tuple[dict, ...]`): Where the images are, see [`~contextcir.retrieval.store.sources`].
        shards (`tuple[ShardPlan, ...]`): In the order of the gallery.
        dtype (`str`): Type of the stored embeddings: `float32` or `float16`.
        batch_size (`int`): Images that are embedded at a time. It may change the last bit of an embedding.
        generation (`int`): 0 for the first build, one more for each change.
    """

    encoder: Identity
    sources: tuple[dict[str, Any], ...]
    shards: tuple[ShardPlan, ...]
    dtype: str = "float32"
    batch_size: int = 64
    generation: int = 0

    @property
    def fingerprint(self) -> str:
        """`str`: What decides the numbers in a shard, apart from its images."""
        return digest([VERSION, self.encoder.fingerprint, self.dtype, self.batch_size])[:32]

    def to_bytes(self) -> bytes:
        """The content of `plan.json`."""
        return to_json({"version": VERSION, **asdict(self)}) + b"\n"

    @classmethod
    def read(cls, folder: Path) -> "Plan | None":
        """The plan of a folder, or `None` if there is none. Raises a [`StoreError`] for another version."""
        return _read_json(folder / PLAN, lambda facts: cls(**facts | {"shards": _each(ShardPlan.from_json, facts)}))


@dataclass(frozen=True)
class Manifest:
    """
    A whole gallery.

    Args:
        count (`int`): Rows of all shards, holes included.
        dim (`int`): Dimension of an embedding.
        dtype (`str`): Type of the stored embeddings.
        normalised (`bool`): Whether all embeddings have unit length.
        encoder ([`~contextcir.retrieval.identity.Identity`]): Who embeds.
        sources (`tuple[dict, ...]`): Where the images are.
        batch_size (`int`): Images that were embedded at a time.
        generation (`int`): 0 for the first build, one more for each change.
        shards (`tuple[dict, ...]`): `file`, `rows` and `sha256` of each, in the order of the gallery.
        bad (`dict[str, str]`): Id of an image that could not be read -> the reason.
    """

    count: int
    dim: int
    dtype: str
    normalised: bool
    encoder: Identity
    sources: tuple[dict[str, Any], ...]
    batch_size: int
    generation: int
    shards: tuple[dict[str, Any], ...]
    bad: dict[str, str]

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder."""
        write_whole(folder / MANIFEST, to_json({"version": VERSION, **asdict(self)}) + b"\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder, or `None` if nothing is whole yet. Raises a [`StoreError`] for another version."""
        return _read_json(folder / MANIFEST, lambda facts: cls(**facts | {"shards": _each(dict, facts)}))


def _each(make: Callable[[Any], T], facts: Mapping[str, Any]) -> tuple[T, ...]:
    return tuple(map(make, facts["shards"]))


def _read_json(path: Path, make: Callable[[dict[str, Any]], T]) -> T | None:
    """Read a plan or a manifest, if it is there."""
    version = None
    try:
        facts = json.loads(path.read_bytes())
        version = facts.pop("version")
        if version == VERSION:
            shared = {"encoder": Identity(**facts["encoder"]), "sources": tuple(facts["sources"])}
            return make(facts | shared)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is damaged ({error}). Restore it, or build the gallery again.") from error
    raise StoreError(f"{path} has version {version}, this code reads {VERSION}. Build the gallery again.")


@dataclass(frozen=True)
class Shard:
    """
    The content of a shard.

    Args:
        ids (`Sequence[str]`): One for each row.
        embeds (`torch.Tensor` of shape `(rows, dim)`): Zeros for a bad image.
        valid (`torch.Tensor` of shape `(rows,)`): uint8, 0 for a bad image.
        content (`torch.Tensor` of shape `(rows, 32)`): uint8, SHA-256 of each image; zeros if it could not be read.
        bad (`dict[str, str]`): Id -> reason.
        facts (`dict[str, list]`): Column -> one value for each row.
    """

    ids: Sequence[str]
    embeds: torch.Tensor
    valid: torch.Tensor
    content: torch.Tensor
    bad: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def write(self, path: Path, fingerprint: str) -> None:
        """Write the shard whole or not at all."""
        tensors = {"content": self.content, "embeds": self.embeds.contiguous(), "valid": self.valid}
        header: dict[str, Any] = {"bad": self.bad, "fingerprint": fingerprint, "ids": self.ids, "facts": self.facts}
        header |= {"dim": self.embeds.shape[1], "normalised": self.is_normalised()}
        write_whole(path, tensors, to_json(header).decode())

    def is_normalised(self) -> bool:
        """Whether all embeddings of good images have unit length, to the precision of their type."""
        pieces = zip(self.embeds.split(4096), self.valid.split(4096), strict=True)
        return all(
            bool(((embeds.float().norm(dim=1) - 1).abs() < 1e-2)[valid.bool()].all()) for embeds, valid in pieces
        )

    @classmethod
    def read(cls, path: Path) -> "Shard":
        """Map a shard into memory. Raises a [`StoreError`] if it is missing or damaged."""
        try:
            with safe_open(path, "pt") as file:
                header = json.loads(file.metadata()[HEADER])
                tensors = {name: file.get_tensor(name) for name in ("embeds", "valid", "content")}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path} is missing or damaged ({error}). `contextcir gallery verify` looks at the others."
            ) from error
        return cls(header["ids"], bad=header["bad"], facts=header["facts"], **tensors)


def read_header(path: Path) -> dict[str, Any] | None:
    """What a shard says of itself: `ids`, `bad`, `facts`, `fingerprint`, `dim`, `normalised`. `None` if it is missing
    or torn, which the lengths in its header show."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()[HEADER])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def is_whole(path: Path, ids: Sequence[str], fingerprint: str) -> bool:
    """Whether a shard is there, by the plan that asks."""
    header = read_header(path)
    return header is not None and header["fingerprint"] == fingerprint and header["ids"] == list(ids)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
