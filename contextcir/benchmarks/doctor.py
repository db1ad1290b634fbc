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
    state: str  # `ready`, `no images` or `some images` (only images are missing), `incomplete` or `absent`
    detail: str  # the counts, or the first problem
    missing: Sequence[str] = ()  # a line for each missing image, see `write_missing`


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
        parts = module.load(str(folder), split, check_images=False)
    except Exception as error:  # whatever it is, the other benchmarks are examined
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        return Finding(name, split, "incomplete", f"{kind}{error}")
    missing = {
        (id(part.gallery), id_): (part.part, id_, place) for part in parts for id_, place in part.missing.items()
    }
    lines = tuple("\t".join((name, split, *of_image)) for of_image in missing.values())
    state, sentences = "ready", [_counts(parts)]
    if missing:
        size = _gallery_size(parts)
        state = "no images" if len(missing) == size else "some images"
        places = ", ".join(place for _, _, place in list(missing.values())[:3])
        sentences = [
            f"annotations are complete ({_counts(parts)}); {len(missing):,} of {size:,} images are missing or empty,"
            f" such as {places}."
        ]
    sentences += dict.fromkeys(remark for part in parts for remark in part.remarks)
    return Finding(name, split, state, " ".join(sentences), lines)


def _counts(parts: Sequence[Benchmark]) -> str:
    return f"{sum(len(part.queries) for part in parts):,} queries, {_gallery_size(parts):,} images"


def _gallery_size(parts: Sequence[Benchmark]) -> int:
    return sum({id(part.gallery): len(part.gallery) for part in parts}.values())


def write_missing(findings: Sequence[Finding], path: str | Path) -> int:
    """Write one line for each missing image: benchmark, split, part, id, and its official place with the reason,
    separated by tabs. Returns their number."""
    lines = [line for found in findings for line in found.missing]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


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
