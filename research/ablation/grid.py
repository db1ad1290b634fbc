"""What a grid of trainings is: options that all share, and parts, each a claim and its variants."""

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
    """A claim and what is compared for it: trainings, and `beside` them the results of a file of `benchmark.py`. What
    `prepare` names is made by its command where it is missing. A variant may be `like` an earlier one but for
    what it says; one that says nothing at all is that of an earlier part."""

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
                    f"{self.name}: a claim of the paper is `of` a variant (`against` another than `default`) and a"
                    f" difference of `recall@1`, got {claim}."
                )


@dataclass(frozen=True)
class Run:
    """One training: a variant and a seed."""

    variant: str
    seed: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.variant}-{self.seed}"

    @property
    def digest(self) -> str:
        """Of all options: a result with another one is of another run."""
        return hashlib.sha256(json.dumps([self.options, self.seed], sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Grid:
    """The base's options, the parts, those of each variant in full, and what the page is called and compared with."""

    base: dict[str, Any]
    parts: list[Part]
    variants: dict[str, dict[str, Any]]
    title: str
    paper: str


def read_grid(folder: Path, names: Sequence[str] | None = None) -> Grid:
    """
    Base and parts, in the order of their file names. `title` and `paper` (which paper, what it measured) stand in
    `base.yaml` beside the options.

    Raises:
        ValueError: for a part that does not exist, a key that has no meaning, one name for two sets of options, or a
            variant like one that does not stand before it.
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
    meaning, full = {}, {}
    for part in parts:
        for variant, options in part.variants.items():
            if not NAME.fullmatch(variant):
                raise ValueError(
                    f"{part.name}: a variant is called by small letters, digits and _.+-, got {variant!r}."
                )
            if options is None:
                options = part.variants[variant] = meaning.get(variant, {"like": variant})
            if meaning.setdefault(variant, options) != options:
                raise ValueError(f"{part.name}: {variant!r} is {options}, and elsewhere {meaning[variant]}.")
            if (other := options.get("like")) and other not in full:
                raise ValueError(f"{part.name}: {variant!r} is like {other!r}, which does not stand before it.")
            own = {name: value for name, value in options.items() if name != "like"}
            full[variant] = (full[other] if other else base) | own
    chosen = [part for part in parts if names is None or part.name in names]
    variants = {name: _given(full[name]) for part in chosen for name in part.variants}
    return Grid(base, chosen, variants, title, paper)


def planned(grid: Grid, seeds: Sequence[int]) -> list[Run]:
    """Every run once, all variants of the first seed before the second: an interrupted grid can be read early."""
    return [Run(name, seed, options) for seed in seeds for name, options in grid.variants.items()]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without those that are null, by which a variant takes an option of the base, or of its like, back."""
    return {name: value for name, value in options.items() if value is not None}


def result_of(run: Run, folder: Path) -> dict[str, Any] | None:
    """The finished result of a run, if there is one of these very options."""
    path = folder / f"{run.name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record if record.get("digest") == run.digest else None
