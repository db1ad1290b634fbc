"""What is known of images, by their content: captions by captioner and prompt, embeddings by CLIP.

Keys are digests of content, never the name of a data set: an image that several galleries share is described once, and
nothing is taken for another captioner's. Both are kept as they come, so that an interrupted preparation goes on where
it was. Each process appends to files of its own.
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

CHUNK = 4096  # embeddings that an interruption may cost


def weights_id(model: torch.nn.Module) -> str:
    """
    What a model is known by: its weights, whatever folder they lie in.

    Args:
        model (`torch.nn.Module`): Such as a CLIP.

    Returns:
        `str`: A digest.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class CaptionCache:
    """
    The captions that one captioner gives on one prompt.

    Args:
        folder (`str` or `os.PathLike`): Where the caches of all captioners are.
        model (`str`): The captioner.
        prompt (`str`): What it is asked.
    """

    def __init__(self, folder: str | os.PathLike, model: str, prompt: str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = f"captions-{hashlib.sha256(json.dumps([model, prompt]).encode()).hexdigest()[:16]}"

    def read(self) -> dict[str, str]:
        """`dict[str, str]`: Content id -> caption, from the files of all processes."""
        return {row["image"]: row["caption"] for row in self.rows()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """`Iterator[dict]`: What was kept of each: `image`, `caption` and facts."""
        for file in sorted(self.folder.glob(f"{self.name}.*.jsonl")):
            for line in file.read_bytes().split(b"\n"):
                try:
                    yield json.loads(line)
                except ValueError:  # the end of a file, or a line that a killed process has not finished
                    continue

    def add(self, image: str, caption: str, process: int, **facts: Any) -> None:
        """
        Keep a caption.

        Args:
            image (`str`): The content id of its image.
            caption (`str`): The caption.
            process (`int`): The process that asked for it.
            **facts: What else is worth knowing, such as its tokens.
        """
        line = json.dumps({"image": image, "caption": caption, **facts}, ensure_ascii=False)
        with open(self.folder / f"{self.name}.{process}.jsonl", "ab") as file:
            file.write(b"\n" + line.encode())  # a break in front: the last line may be unfinished


class EmbedCache:
    """
    Embeddings under keys, in files that are written once.

    Args:
        folder (`str` or `os.PathLike`): Where they are. One for each model and kind of thing that is embedded.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def get(self, keys: Sequence[str], encode: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
        """
        Embeddings of all keys, those that are missing newly encoded, `CHUNK` at a time. All processes take part.

        Args:
            keys (`Sequence[str]`): What was embedded, or a digest of it. Some may be the same.
            encode (`Callable[[list[int]], torch.Tensor]`): Places in `keys` -> their embeddings, `(places, dim)`.

        Returns:
            `torch.Tensor` of shape `(len(keys), dim)`, float32, on the CPU.
        """
        state = process_state()
        known = {key for _, names in self._shards() for key in names}
        state.wait_for_everyone()  # nobody is to see what another one has begun to add
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
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        found = None
        for file, names in self._shards():
            rows = [row for row, key in enumerate(names) if key in places]
            if not rows:
                continue
            with safe_open(file, framework="pt") as shard:
                embeds = shard.get_tensor("embeds")[rows]
            if found is None:
                found = torch.empty(len(keys), embeds.shape[1])
            for embed, row in zip(embeds, rows, strict=True):
                found[places[names[row]]] = embed
        return found
