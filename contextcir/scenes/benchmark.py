"""A whole benchmark of scenes: its gallery, its queries, and what each wrong picture of a query would mean.

The gallery holds each reference scene twice, each target scene one to six times, each mistake once, and for the rest
scenes that have nothing to do with any query. A picture's id is its place, and places are drawn by lot: neither says
anything about what is shown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from contextcir.scenes.blocks import NUM_REFERENCES, NUM_TEXTS, QUERIES, Block, sample_block
from contextcir.scenes.mistakes import KINDS, mistakes, partly_done
from contextcir.scenes.queries import SceneQuery
from contextcir.scenes.world import Scene, sample_scene

MAX_TARGETS = 6
SEVERAL_TARGETS = 0.1  # share of the target scenes with more than one picture
PATTERNS = {  # the splits of each part's blocks, over and over
    "validation": ("iid",),  # what is held out is not for tuning
    "test": ("iid", "combinations", "wordings", "longer", "three", "iid", "combinations", "wordings", "longer", "iid"),
}


@dataclass(frozen=True)
class Picture:
    """What a picture shows, and the seed of everything else about it."""

    scene: Scene
    nuisance: int


@dataclass(frozen=True)
class Question:
    """A query of the benchmark: `wrong` says of pictures, by their ids, which mistake they are."""

    id: str
    split: str
    query: SceneQuery
    reference_id: str
    target_ids: tuple[str, ...]
    candidate_ids: tuple[str, ...]
    wrong: dict[str, str]

    @property
    def tags(self) -> list[str]:
        """What results are reported by."""
        edits = self.query.edits
        return [f"split:{self.split}", f"edits:{len(edits)}", *sorted({f"kind:{edit.kind}" for edit in edits})]


@dataclass
class SceneBenchmark:
    """Questions, and the pictures of their scenes by place; `pictures` has those of the whole gallery."""

    part: str
    seed: int
    gallery_size: int
    questions: list[Question]
    placed: dict[int, Picture]

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """All pictures with their ids, one at a time. Those that no query asks for are made as they are needed."""
        meant = {picture.scene for picture in self.placed.values()}
        for place in range(self.gallery_size):
            yield _name(self.part, place), self.placed.get(place) or self._filler(place, meant)

    def _filler(self, place: int, meant: set[Scene]) -> Picture:
        rng = random.Random(f"{self.part} {self.seed} {place}")
        while (scene := sample_scene(rng)) in meant:
            pass
        return Picture(scene, rng.getrandbits(48))


def compose(part: str, num_queries: int, gallery_size: int | None, seed: int) -> SceneBenchmark:
    """
    Compose a benchmark; the same arguments give the same one.

    Args:
        part (`str`): `validation` or `test`, see [`PATTERNS`].
        num_queries (`int`): A multiple of 24, the size of a block.
        gallery_size (`int`, *optional*): Number of pictures; by default as many as the queries need.
        seed (`int`): Seed of everything.

    Returns:
        `SceneBenchmark`

    Raises:
        ValueError: There is no such part, or not so many queries or pictures can be had. The message says which can.
    """
    if part not in PATTERNS:
        raise ValueError(f"there is no part {part!r} of scenes; there are {', '.join(PATTERNS)}")
    if num_queries < QUERIES or num_queries % QUERIES:
        below = max(QUERIES, num_queries // QUERIES * QUERIES)
        raise ValueError(
            f"scenes come in blocks of {QUERIES} queries, {NUM_REFERENCES} references with {NUM_TEXTS} texts each:"
            f" there can be {below} or {below + QUERIES} {part} queries, not {num_queries}"
        )
    rng = random.Random(f"{part} {seed}")
    album = _Album(rng)
    pattern = PATTERNS[part]
    sheets = [
        _sheet(rng, album, sample_block(rng, pattern[number % len(pattern)]))
        for number in range(num_queries // QUERIES)
    ]
    needed = len(album.pictures)
    if gallery_size is not None and gallery_size < needed:
        raise ValueError(
            f"{num_queries} {part} queries need a gallery of {needed} pictures or more, not {gallery_size}: ask for"
            " a larger gallery or for fewer queries"
        )
    size = gallery_size or needed
    places = rng.sample(range(size), needed)
    names = [_name(part, place) for place in places]
    questions = []
    for sheet in sheets:
        for version, row in enumerate(sheet.block.queries):
            for text in range(len(row)):
                questions.append(_question(f"{part}-query-{len(questions):05d}", sheet, version, text, album, names))
    return SceneBenchmark(part, seed, size, questions, dict(zip(places, album.pictures, strict=True)))


def _name(part: str, place: int) -> str:
    return f"{part}-{place:06d}"


@dataclass
class _Album:
    """Pictures, and which of them show a scene."""

    rng: random.Random
    pictures: list[Picture] = field(default_factory=list)
    shown: dict[Scene, list[int]] = field(default_factory=dict)

    def show(self, scene: Scene, times: int = 1) -> None:
        """See to it that there are so many pictures of a scene."""
        numbers = self.shown.setdefault(scene, [])
        while len(numbers) < times:
            numbers.append(len(self.pictures))
            self.pictures.append(Picture(scene, self.rng.getrandbits(48)))


@dataclass
class _Sheet:
    """A block, and of each of its queries the mistakes and the candidates without the reference."""

    block: Block
    mistakes: list[list[dict[str, list[Scene]]]]
    candidates: list[list[Sequence[Scene]]]


def _sheet(rng: random.Random, album: _Album, block: Block) -> _Sheet:
    """Draw what each query of a block can be mistaken for, and take all pictures of it."""
    wrong = []
    for version, row in zip(block.versions, block.queries, strict=True):
        album.show(version.scene, 2)
        wrong.append([mistakes(rng, query, list(version.edits.values())) for query in row])
        for query, found in zip(row, wrong[-1], strict=True):
            album.show(query.target, rng.randint(2, MAX_TARGETS) if rng.random() < SEVERAL_TARGETS else 1)
            for scene in (scene for scenes in found.values() for scene in scenes):
                album.show(scene)
    candidates: list[list[Sequence[Scene]]] = [[()] * NUM_TEXTS for _ in range(NUM_REFERENCES)]
    for version in range(0, NUM_REFERENCES, 2):
        for text in range(0, NUM_TEXTS, 2):
            four = [(v, t) for v in (version, version + 1) for t in (text, text + 1)]
            chosen = _candidates(rng, block, wrong, four)
            for v, t in four:
                candidates[v][t] = chosen
    return _Sheet(block, wrong, candidates)


def _candidates(rng, block: Block, wrong, four: Sequence[tuple[int, int]]) -> list[Scene]:
    """The targets of two texts in two scenes, and a mistake of one of these four queries, which all share the five:
    the candidates alone say nothing, and the text or the image alone leave two of four."""
    targets = [block.queries[v][t].target for v, t in four]
    apart = {*targets, *(version.scene for version in block.versions)}
    found = [scene for v, t in four for scenes in wrong[v][t].values() for scene in scenes if scene not in apart]
    fifth = found or [query.target for query in block.queries[four[0][0]] if query.target not in apart]
    return rng.sample([*targets, rng.choice(fifth)], len(targets) + 1)


def _question(id_: str, sheet: _Sheet, version: int, text: int, album: _Album, names: Sequence[str]) -> Question:
    query = sheet.block.queries[version][text]
    reference, *copies = album.shown[query.reference]
    wrong = {reference: "reference"} | dict.fromkeys(copies, "copy")
    family = [other.target for other in sheet.block.queries[version]]
    family += [scene for found in sheet.mistakes[version] for scenes in found.values() for scene in scenes]
    named = {
        **sheet.mistakes[version][text],
        "partial": partly_done(query),
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
    """How many wrong pictures there are of each kind, over all questions."""
    return Counter(kind for question in questions for kind in question.wrong.values())
