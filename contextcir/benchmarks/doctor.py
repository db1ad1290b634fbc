"""Check which benchmarks are on disk, what is missing, and where to get it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.registry import BenchmarkModule


@dataclass(frozen=True)
class Finding:
    """The state of one split of one benchmark."""

    benchmark: str
    split: str
    state: str  # `ready`, `no images` (only these are missing), `incomplete` or `absent`
    detail: str  # the counts, or the first problem


def examine(benchmarks: Mapping[str, BenchmarkModule], root: str | Path) -> list[Finding]:
    """
    Try to load every split of every benchmark, images included.

    Args:
        benchmarks (`Mapping[str, BenchmarkModule]`): Name -> benchmark.
        root (`str` or `Path`): Folder with one subfolder for each benchmark.

    Returns:
        `list[Finding]`: One for each split.
    """
    return [
        _examine_split(name, module, Path(root, name), split)
        for name, module in benchmarks.items()
        for split in module.SPLITS
    ]


def _examine_split(name: str, module: BenchmarkModule, folder: Path, split: str) -> Finding:
    if not folder.is_dir():
        return Finding(name, split, "absent", f"no folder {folder}")
    try:
        return Finding(name, split, "ready", _counts(module.load(str(folder), split)))
    except (ValueError, OSError) as error:
        problem = str(error)
    try:
        counts = _counts(module.load(str(folder), split, check_images=False))
    except (ValueError, OSError):
        return Finding(name, split, "incomplete", problem)
    return Finding(name, split, "no images", f"annotations are complete ({counts}); {problem}")


def _counts(parts: Sequence[Benchmark]) -> str:
    queries = sum(len(part.queries) for part in parts)
    galleries = {id(part.gallery): len(part.gallery) for part in parts}
    return f"{queries:,} queries, {sum(galleries.values()):,} images"


def format_findings(findings: Sequence[Finding], benchmarks: Mapping[str, BenchmarkModule]) -> str:
    """Format one line for each split, and the source of each benchmark that is not ready."""
    names = max(len(f"{found.benchmark} {found.split}") for found in findings)
    states = max(len(found.state) for found in findings)
    lines = [
        f"{f'{found.benchmark} {found.split}'.ljust(names)}  {found.state.ljust(states)}  {found.detail}"
        for found in findings
    ]
    missing = dict.fromkeys(found.benchmark for found in findings if found.state != "ready")
    if missing:
        lines += ["", "Where to get them:", *(f"  {name}: {benchmarks[name].SOURCE}" for name in missing)]
    return "\n".join(lines)
