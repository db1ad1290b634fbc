"""Prompts are text, not code: `contextcir/prompts/<recipe>/<stage>.txt`, or a folder of the user's with such files.

The first line of a file is its version, for people; what stands in data sets is the hash of the whole file. Data goes
in at `{name}`, wrapped in a tag of that name. Its own angle brackets are escaped, so that no caption or object name
can end its tag and pass for an instruction.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

FOLDER = Path(__file__).parent.parent / "prompts"
RECIPES = {  # recipe -> stage -> what its prompt is given
    "good4cir": {
        "reference_objects": (),
        "target_objects": ("reference_objects",),
        "differences": ("reference_objects", "target_objects"),
    },
    "instructcir": {"image_caption": (), "reformulation": ("caption_a", "caption_b")},
}
PLACE = re.compile(r"\{([a-z_]+)\}")  # JSON in a prompt has quotes in its braces


@dataclass(frozen=True)
class Prompt:
    """
    The text of one stage.

    Args:
        text (`str`): With places for data.
        version (`str`): As its first line says.
        hash (`str`): 12 digits of the SHA-256 of the file.
    """

    text: str
    version: str
    hash: str

    def render(self, **data: str | Sequence[BaseModel]) -> str:
        """The prompt with data in its places: texts as they are, objects as a JSON list."""
        return PLACE.sub(lambda place: _tagged(place[1], data[place[1]]), self.text)


def load_prompts(recipe: str, folder: str | Path | None = None) -> dict[str, Prompt]:
    """
    Read the prompts of a recipe.

    Args:
        recipe (`str`): `good4cir` or `instructcir`.
        folder (`str` or `Path`, *optional*): Files in it take the place of ours; those it has not stay.

    Returns:
        `dict[str, Prompt]`: One for each stage.

    Raises:
        `ValueError`: The folder has none of the files, or a file has no version or other places than its stage fills.
    """
    stages, folder = RECIPES[recipe], Path(folder) if folder else None
    files = {stage: FOLDER / recipe / f"{stage}.txt" for stage in stages}
    if folder:
        own = {stage: folder / path.name for stage, path in files.items() if (folder / path.name).is_file()}
        if not own:
            names = ", ".join(path.name for path in files.values())
            raise ValueError(f"{folder} holds no prompts of {recipe}. Put one or more of {names} there.")
        files |= own
    return {stage: _read(path, stages[stage]) for stage, path in files.items()}


def _read(path: Path, places: tuple[str, ...]) -> Prompt:
    content = path.read_bytes()
    first, _, text = content.decode("utf-8").replace("\r\n", "\n").partition("\n")
    version = re.fullmatch(r"version: (\S+)", first.strip())
    if not version or not text.strip():
        raise ValueError(f"{path} begins with {first[:60]!r}, expected a line such as 'version: 1', then the prompt.")
    found = set(PLACE.findall(text))
    if found != set(places):
        wanted = ", ".join(f"{{{name}}}" for name in places) or "none"
        raise ValueError(f"{path} has the places {sorted(found)}, expected {wanted}. They are where the data goes.")
    return Prompt(text.strip(), version[1], hashlib.sha256(content).hexdigest()[:12])


def prompts_hash(prompts: dict[str, Prompt]) -> str:
    """12 digits for all prompts of a recipe together."""
    hashes = json.dumps({stage: prompt.hash for stage, prompt in prompts.items()})
    return hashlib.sha256(hashes.encode()).hexdigest()[:12]


def _tagged(name: str, data: str | Sequence[BaseModel]) -> str:
    if isinstance(data, str):
        data = data.replace("<", "&lt;").replace(">", "&gt;")
    else:
        data = json.dumps([item.model_dump() for item in data], ensure_ascii=False)
        data = data.replace("<", "\\u003c").replace(">", "\\u003e")
    return f"<{name}>{data}</{name}>"
