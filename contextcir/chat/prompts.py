"""Prompts as text files. The first line of a file is its version, for people; data sets record its hash.

Data is inserted between tags. Angle brackets inside the data are escaped, so that no caption or object name can close
its tag and be taken for an instruction.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

PLACE = re.compile(r"\{([a-z_]+)\}")  # JSON in a prompt has quotes in its braces


@dataclass(frozen=True)
class Prompt:
    """
    The prompt of one stage or step.

    Args:
        text (`str`): May contain placeholders for data, `{name}`.
        version (`str`): From the first line of its file.
        hash (`str`): 12 hex digits of the SHA-256 of the file.
    """

    text: str
    version: str
    hash: str

    @property
    def places(self) -> set[str]:
        """`set[str]`: Names of the placeholders."""
        return set(PLACE.findall(self.text))

    def render(self, **data: str | Sequence[BaseModel]) -> str:
        """Replace each placeholder by its data, in a tag of the same name."""
        return PLACE.sub(lambda place: tagged(place[1], data[place[1]]), self.text)


def read_prompt(path: Path) -> Prompt:
    """
    Read a prompt.

    Raises:
        `ValueError`: The file does not begin with its version, or has no text.
    """
    content = path.read_bytes()
    first, _, text = content.decode("utf-8").replace("\r\n", "\n").partition("\n")
    version = re.fullmatch(r"version: (\S+)", first.strip())
    if not version or not text.strip():
        raise ValueError(f"{path} begins with {first[:60]!r}, expected a line such as 'version: 1', then the prompt.")
    return Prompt(text.strip(), version[1], hashlib.sha256(content).hexdigest()[:12])


def prompts_hash(prompts: Mapping[str, Prompt]) -> str:
    """Return 12 hex digits that identify several prompts."""
    hashes = json.dumps({stage: prompt.hash for stage, prompt in prompts.items()})
    return hashlib.sha256(hashes.encode()).hexdigest()[:12]


def tagged(name: str, data: str | Sequence[str] | Sequence[BaseModel]) -> str:
    """Put data into a tag with angle brackets escaped: a text as it is, anything else as a JSON list."""
    if isinstance(data, str):
        data = data.replace("<", "&lt;").replace(">", "&gt;")
    else:
        items = [item if isinstance(item, str) else item.model_dump() for item in data]
        data = json.dumps(items, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"<{name}>{data}</{name}>"
