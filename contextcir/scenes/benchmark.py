"""A benchmark of scenes: its gallery, its queries, and the types of its wrong pictures.

The gallery shows each reference scene twice, each target scene one to six times, and each mistake once. The other
pictures show scenes unrelated to any query. Places in the gallery are random, and an id is its place, so neither tells
anything about the content.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from contextcir.scenes.blocks import NUM_REFERENCES, NUM_TEXTS, QUERIES, Block, sample_block
from contextcir.scenes.mistakes import KINDS, mistakes, partial_results
from contextcir.scenes.queries import SceneQuery
from contextcir.scenes.world import Scene, sample_scene

MAX_TARGETS = 6
SEVERAL_TARGETS = 0.1  # share of the target scenes with more than one picture
PATTERNS = {  # part -> splits of its blocks, repeated as often as needed
    "validation": ("iid",),  # no tuning on held-out splits
    "test": ("iid", "combinations", "wordings", "longer", "three", "iid", "combinations", "wordings", "longer", "iid"),
}


@dataclass(frozen=True)
class Picture:
    """A scene and the seed of its nuisance: jitter, light and noise."""

    scene: Scene
    nuisance: int


@dataclass(frozen=True)
class Question:
    """A query of the benchmark. `wrong` maps ids of pictures to the type of mistake, one of [`KINDS`]."""

    id: str
    split: str
    query: SceneQuery
    reference_id: str
    target_ids: tuple[str, ...]
    candidate_ids: tuple[str, ...]
    wrong: dict[str, str]

    @property
    def tags(self) -> list[str]:
        """Groups to report results for: the split, the number of edits, and the kinds of edits."""
        edits = self.query.edits
        return [f"split:{self.split}", f"edits:{len(edits)}", *sorted({f"kind:{edit.kind}" for edit in edits})]


@dataclass
class SceneBenchmark:
    """Questions and the pictures of their scenes by place. `pictures` iterates over the whole gallery."""

    part: str
    seed: int
    gallery_size: int
    questions: list[Question]
    placed: dict[int, Picture]

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """Iterate over all pictures with their ids. Pictures unrelated to the queries are sampled on the way."""
        needed = {picture.scene for picture in self.placed.values()}
        for place in range(self.gallery_size):
            yield _name(self.part, place), self.placed.get(place) or self._sample_unrelated(place, needed)

    def _sample_unrelated(self, place: int, needed: set[Scene]) -> Picture:
        rng = random.Random(f"{self.part} {self.seed} {place}")
        while (scene := sample_scene(rng)) in needed:
            pass
        return Picture(scene, rng.getrandbits(48))


def compose(
    part: str, num_queries: int, gallery_size: int | None, seed: int, *, splits: Sequence[str] | None = None
) -> SceneBenchmark:
    """
    Compose a benchmark. The same arguments give the same benchmark.

    Args:
        part (`str`): `validation` or `test`, see [`PATTERNS`].
        num_queries (`int`): A multiple of 24, the size of a block.
        gallery_size (`int`, *optional*): Number of pictures; by default as many as the queries need.
        seed (`int`): Seed of scenes, texts and places.
        splits (`Sequence[str]`, *optional*): Splits of the blocks, repeated as often as needed; by default those of
            the part.

    Returns:
        `SceneBenchmark`

    Raises:
        ValueError: The part or a split is unknown, `num_queries` is no multiple of 24, or the gallery is too small.
    """
    if part not in PATTERNS:
        raise ValueError(f"Got part {part!r} of scenes, expected one of {', '.join(PATTERNS)}.")
    if num_queries < QUERIES or num_queries % QUERIES:
        below = max(QUERIES, num_queries // QUERIES * QUERIES)
        raise ValueError(
            f"Got {num_queries} {part} queries, expected {below}, {below + QUERIES} or another multiple of {QUERIES}:"
            f" scenes come in blocks of {NUM_REFERENCES} references with {NUM_TEXTS} texts each."
        )
    rng = random.Random(f"{part} {seed}")
    album = _Album(rng)
    splits = PATTERNS[part] if splits is None else splits
    sheets = [
        _sheet(rng, album, sample_block(rng, splits[number % len(splits)])) for number in range(num_queries // QUERIES)
    ]
    needed = len(album.pictures)
    if gallery_size is not None and gallery_size < needed:
        raise ValueError(
            f"Got a gallery of {gallery_size} pictures, but {num_queries} {part} queries need at least {needed}. Ask"
            " for a larger gallery or for fewer queries."
        )
    size = gallery_size or needed
    places = rng.sample(range(size), needed)
    names = [_name(part, place) for place in places]
    questions: list[Question] = []
    for sheet in sheets:
        for version, row in enumerate(sheet.block.queries):
            for text in range(len(row)):
                questions.append(_question(f"{part}-query-{len(questions):05d}", sheet, version, text, album, names))
    return SceneBenchmark(part, seed, size, questions, dict(zip(places, album.pictures, strict=True)))


def _name(part: str, place: int) -> str:
    return f"{part}-{place:06d}"


@dataclass
class _Album:
    """Pictures, and for each scene the numbers of the pictures that show it."""

    rng: random.Random
    pictures: list[Picture] = field(default_factory=list)
    shown: dict[Scene, list[int]] = field(default_factory=dict)

    def show(self, scene: Scene, times: int = 1) -> None:
        """Add pictures of a scene until there are at least `times`."""
        numbers = self.shown.setdefault(scene, [])
        while len(numbers) < times:
            numbers.append(len(self.pictures))
            self.pictures.append(Picture(scene, self.rng.getrandbits(48)))


@dataclass
class _Sheet:
    """A block with the mistakes and the candidates (without the reference) of each query, by version and text."""

    block: Block
    mistakes: list[list[dict[str, list[Scene]]]]
    candidates: list[list[Sequence[Scene]]]


def _sheet(rng: random.Random, album: _Album, block: Block) -> _Sheet:
    """Sample the mistakes and candidates of a block, and add all its pictures to the album."""
    wrong = []
    for version, row in zip(block.versions, block.queries, strict=True):
        album.show(version.scene, 2)
        wrong.append([mistakes(rng, query, list(version.edits.values())) for query in row])
        for query, found in zip(row, wrong[-1], strict=True):
            album.show(query.target, rng.randint(2, MAX_TARGETS) if rng.random() < SEVERAL_TARGETS else 1)
            for scene in (scene for scenes in found.values() for scene in scenes):
                album.show(scene)
    candidates: list[list[Sequence[Scene]]] = [[()] * NUM_TEXTS for _ in range(NUM_REFERENCES)]
    for v in range(0, NUM_REFERENCES, 2):
        for t in range(0, NUM_TEXTS, 2):
            four = list(product((v, v + 1), (t, t + 1)))
            chosen = _sample_candidates(rng, block, wrong, four)
            for version_number, text in four:
                candidates[version_number][text] = chosen
    return _Sheet(block, wrong, candidates)


def _sample_candidates(
    rng: random.Random,
    block: Block,
    wrong: Sequence[Sequence[Mapping[str, Sequence[Scene]]]],
    four: Sequence[tuple[int, int]],
) -> list[Scene]:
    """Return five candidates for four queries, which combine two texts with two scenes.

    They are the four targets and a mistake of one of the queries. So the candidates alone tell nothing, and text or
    image alone leave two of the four targets.
    """
    targets = [block.queries[v][t].target for v, t in four]
    excluded = {*targets, *(version.scene for version in block.versions)}
    found = [scene for v, t in four for scenes in wrong[v][t].values() for scene in scenes if scene not in excluded]
    fifth = found or [query.target for query in block.queries[four[0][0]] if query.target not in excluded]
    return rng.sample([*targets, rng.choice(fifth)], len(targets) + 1)


def _question(id_: str, sheet: _Sheet, version: int, text: int, album: _Album, names: Sequence[str]) -> Question:
    query = sheet.block.queries[version][text]
    reference, *copies = album.shown[query.reference]
    wrong = {reference: "reference"} | dict.fromkeys(copies, "copy")
    family = [other.target for other in sheet.block.queries[version]]
    family += [scene for found in sheet.mistakes[version] for scenes in found.values() for scene in scenes]
    named: dict[str, Iterable[Scene]] = {
        **sheet.mistakes[version][text],
        "partial": partial_results(query),
        "other_edit": family,
        "other_scene": [row[text].target for row in sheet.block.queries],
    }
    for kind in KINDS:
        for scene in named.get(kind, ()):
            if scene != query.target:
                for number in album.shown.get(scene, ()):
                    wrong.setdefault(number, kind)
    candidates = [names[album.shown[scene][0]] for scene in sheet.candidates[version][text]]
    return Question(
        id=id_,
        split=sheet.block.split,
        query=query,
        reference_id=names[reference],
        target_ids=tuple(names[number] for number in album.shown[query.target]),
        candidate_ids=(names[reference], *candidates),
        wrong={names[number]: kind for number, kind in wrong.items()},
    )


def count_kinds(questions: Sequence[Question]) -> Counter[str]:
    """Count the wrong pictures of each type over all questions."""
    return Counter(kind for question in questions for kind in question.wrong.values())
