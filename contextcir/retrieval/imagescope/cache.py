"""Caches of captions (by captioner and prompt) and of embeddings (by model), keyed by the content of images and texts.

An image that several galleries share is captioned and embedded once. Results are saved as they arrive, so that an
interrupted preparation continues where it stopped. Each process writes files of its own.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from contextcir.runtime.distributed import process_state

CHUNK = 4096  # embeddings in a file, and the most that an interruption loses


class CaptionCache:
    """The captions of one captioner (`model`) for one prompt. The folder holds those of all captioners."""

    def __init__(self, folder: str | os.PathLike, model: str, prompt: str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = f"captions-{hashlib.sha256(json.dumps([model, prompt]).encode()).hexdigest()[:16]}"

    def read(self) -> dict[str, str]:
        """`dict[str, str]`: Content id of an image -> caption, from the files of all processes."""
        return {row["image"]: row["caption"] for row in self.rows()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """`Iterator[dict]`: The entries, each with `image`, `caption` and other facts."""
        for file in sorted(self.folder.glob(f"{self.name}.*.jsonl")):
            for line in file.read_bytes().split(b"\n"):
                try:
                    yield json.loads(line)
                except ValueError:  # the end of the file, or a line that a killed process did not finish
                    continue

    def add(self, image: str, caption: str, process: int, **facts: Any) -> None:
        """Save the caption of an image, given by its content id, with other facts such as its tokens. `process` is the
        index of the calling process."""
        line = json.dumps({"image": image, "caption": caption, **facts}, ensure_ascii=False)
        with open(self.folder / f"{self.name}.{process}.jsonl", "ab") as file:
            file.write(b"\n" + line.encode())  # the line break comes first, as the last line may be unfinished


class EmbedCache:
    """Embeddings by key, in files that are written once. The folder is for one model and one kind of input."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def get(self, keys: Sequence[str], encode: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
        """
        Return the embeddings of all keys, and encode missing ones, `CHUNK` at a time. All processes must call it.

        Args:
            keys (`Sequence[str]`): The inputs or digests of them, at least one. Keys may be repeated.
            encode (`Callable[[list[int]], torch.Tensor]`): Places in `keys` -> their embeddings, `(places, dim)`.

        Returns:
            `torch.Tensor` of shape `(len(keys), dim)`: float32, on the CPU.
        """
        state = process_state()
        known = {key for _, names in self._shards() for key in names}
        state.wait_for_everyone()  # no process may see what another one adds below
        missing = {key: place for place, key in enumerate(keys) if key not in known}
        names = list(missing)
        for start in range(0, len(names), CHUNK):
            some = names[start : start + CHUNK]
            embeds = encode([missing[key] for key in some])
            if state.is_main_process:
                self._write(some, embeds)
        state.wait_for_everyone()
        return self._read(keys)

    def _shards(self) -> Iterator[tuple[Path, list[str]]]:
        for file in sorted(self.folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as shard:
                yield file, json.loads(shard.metadata()["keys"])

    def _write(self, keys: list[str], embeds: torch.Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        temporary = self.folder / f"{name}.tmp"
        tensors = {"embeds": embeds.float().cpu().contiguous()}
        save_file(tensors, temporary, metadata={"keys": json.dumps(keys)})
        os.replace(temporary, self.folder / f"{name}.safetensors")

    def _read(self, keys: Sequence[str]) -> torch.Tensor:
        wanted, found = set(keys), dict[str, torch.Tensor]()
        for file, names in self._shards():
            rows = [row for row, key in enumerate(names) if key in wanted]
            if rows:
                with safe_open(file, framework="pt") as shard:
                    embeds = shard.get_tensor("embeds")[rows]
                found.update(zip([names[row] for row in rows], embeds, strict=True))
        return torch.stack([found[key] for key in keys])
