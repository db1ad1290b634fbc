"""A cache of captions, keyed by captioner, prompt and the content of images.

An image that several galleries share is captioned once. Captions are saved as they arrive, so that an interrupted
preparation continues where it stopped. Each process writes files of its own.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
