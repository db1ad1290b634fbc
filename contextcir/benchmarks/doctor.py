"""What of each benchmark is on disk, what is missing, and where to get it: the question before every download."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Finding:
    """One split of one benchmark.

    Attributes:
        benchmark: Its name.
        split: Its split.
        state: `ready`, `no images` (annotations are whole, images are not), `incomplete` or `absent`.
        detail: What is there, or the first thing that is not.
    """

    benchmark: str
    split: str
    state: str
    detail: str


def examine(benchmarks: Mapping[str, ModuleType], root: str | Path) -> list[Finding]:
    """
    Try to load every split of every benchmark, images included.

    Args:
        benchmarks (`Mapping[str, ModuleType]`): Name -> module with `SPLITS`, `SOURCE` and `load`.
        root (`str` or `Path`): Folder with a folder for each benchmark.

    Returns:
        `list[Finding]`
    """
    return [
        _examine_split(name, module, root, split) for name, module in benchmarks.items() for split in module.SPLITS
    ]


def _examine_split(name: str, module: ModuleType, root: str | Path, split: str) -> Finding:
    folder = Path(root, name)
    if not folder.is_dir():
        return Finding(name, split, "absent", f"no folder {folder}")
    try:
        parts = module.load(str(folder), split)
    except (ValueError, OSError) as error:
        try:
            parts = module.load(str(folder), split, check_images=False)
        except (ValueError, OSError):
            return Finding(name, split, "incomplete", str(error))
        return Finding(name, split, "no images", f"annotations are whole ({_counts(parts)}); {error}")
    return Finding(name, split, "ready", _counts(parts))


def _counts(parts) -> str:
    queries = sum(len(part.queries) for part in parts)
    galleries = {id(part.gallery): len(part.gallery) for part in parts}
    return f"{queries:,} queries, {sum(galleries.values()):,} images"


def format_findings(findings: list[Finding], benchmarks: Mapping[str, ModuleType]) -> str:
    """A line for each split, and for each benchmark that is not ready where to get it."""
    names = max(len(f"{found.benchmark} {found.split}") for found in findings)
    states = max(len(found.state) for found in findings)
    lines = [
        f"{f'{found.benchmark} {found.split}'.ljust(names)}  {found.state.ljust(states)}  {found.detail}"
        for found in findings
    ]
    wanting = dict.fromkeys(found.benchmark for found in findings if found.state != "ready")
    if wanting:
        lines += ["", "Where to get them:"]
        lines += [f"  {name}: {benchmarks[name].SOURCE}" for name in wanting]
    return "\n".join(lines)
