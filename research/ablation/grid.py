"""A grid of trainings: options that all share, and parts, each with a claim and the variants that test it."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextcir.cli.options import read_yaml

NAME = re.compile(r"[a-z0-9_.+-]+")


@dataclass(frozen=True)
class Part:
    """
    A claim and the trainings that test it: the content of a file of the grid.

    Args:
        name (`str`): The name of the file, without number and suffix.
        title (`str`): Heading on the page.
        claim (`str`): The claim, as text.
        variants (`dict[str, dict]`): Name -> options that differ from the base, or from the variant named under
            `like`. Without options, the variant of this name in an earlier part.
        verdict (`str`): Conclusion, as text.
        paper (`list[dict]`): Differences in `recall@1` that the paper reports: `of` a variant, `against` another.
        prepare (`dict[str, str]`): Path -> the command that creates it if it is missing.
        beside (`str`): JSON file of `contextcir benchmark` whose results are shown in the same table.
    """

    name: str
    title: str
    claim: str
    variants: dict[str, dict[str, Any]]
    verdict: str = ""
    paper: list[dict[str, Any]] = field(default_factory=list)
    prepare: dict[str, str] = field(default_factory=dict)
    beside: str = ""

    def __post_init__(self):
        for claim in self.paper:
            names = {claim.get("of"), claim.get("against")} - {None}
            if claim.keys() - {"against"} != {"of", "recall@1"} or names - self.variants.keys():
                raise ValueError(
                    f"{self.name}: expected claims of the paper with `of` and, unless it is `default`, `against`,"
                    f" which name variants, and `recall@1`, got {claim}."
                )


@dataclass(frozen=True)
class Run:
    """One training: a variant and a seed."""

    variant: str
    seed: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """`str`: The name of its files."""
        return f"{self.variant}-{self.seed}"

    @property
    def digest(self) -> str:
        """`str`: Digest of all options and the seed. A result with another digest is of another run."""
        return hashlib.sha256(json.dumps([self.options, self.seed], sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Grid:
    """Options of the base, the parts, all options of each variant, and title and paper for the page."""

    base: dict[str, Any]
    parts: list[Part]
    variants: dict[str, dict[str, Any]]
    title: str
    paper: str


def read_grid(folder: Path, names: Sequence[str] | None = None) -> Grid:
    """
    Read a grid.

    Args:
        folder (`Path`): Holds `base.yaml`, with the options and with `title` and `paper` (the paper and its
            measurement) for the page, and the parts `<number>_<name>.yaml`.
        names (`Sequence[str]`, *optional*): Parts to use; by default all, in the order of their numbers.

    Raises:
        ValueError: A part does not exist, a key is unknown, one name has two sets of options, or a variant is `like`
            one that is not defined before it.
    """
    base = read_yaml(folder / "base.yaml")
    title, paper = base.pop("title", folder.name), base.pop("paper", "")
    files = {path.stem.partition("_")[2]: path for path in sorted(folder.glob("[0-9]*_*.yaml"))}
    if unknown := [name for name in names or () if name not in files]:
        raise ValueError(f"{folder} has the parts {', '.join(files)}, got {unknown[0]!r}.")
    parts = []
    for name, path in files.items():
        try:
            parts.append(Part(name, **read_yaml(path)))
        except TypeError as error:
            raise ValueError(
                f"{path}: expected title, claim, variants, verdict, paper, prepare and beside ({error})."
            ) from error
    meaning: dict[str, dict[str, Any]] = {}
    full: dict[str, dict[str, Any]] = {}
    for part in parts:
        for variant, options in part.variants.items():
            if not NAME.fullmatch(variant):
                raise ValueError(
                    f"{part.name}: expected names of lower-case letters, digits and _.+-, got {variant!r}."
                )
            if options is None:
                options = part.variants[variant] = meaning.get(variant, {"like": variant})
            if meaning.setdefault(variant, options) != options:
                raise ValueError(f"{part.name}: {variant!r} is {options}, but {meaning[variant]} in an earlier part.")
            if (other := options.get("like")) and other not in full:
                raise ValueError(f"{part.name}: {variant!r} is like {other!r}, which is not defined before it.")
            own = {name: value for name, value in options.items() if name != "like"}
            full[variant] = (full[other] if other else base) | own
    chosen = [part for part in parts if names is None or part.name in names]
    variants = {
        # Null takes back an option of the base, or of the variant under `like`.
        name: {option: value for option, value in full[name].items() if value is not None}
        for part in chosen
        for name in part.variants
    }
    return Grid(base, chosen, variants, title, paper)


def planned(grid: Grid, seeds: Sequence[int]) -> list[Run]:
    """Return every run once, first all variants of the first seed: an interrupted grid already has results."""
    return [Run(name, seed, options) for seed in seeds for name, options in grid.variants.items()]


def result_of(run: Run, folder: Path) -> dict[str, Any] | None:
    """Return the result of a run, or `None` if there is none with the same options."""
    path = folder / f"{run.name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record if record.get("digest") == run.digest else None
