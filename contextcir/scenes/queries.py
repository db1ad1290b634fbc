"""Triplets and a benchmark out of the world: queries, their targets, and distractors that a lazy model falls for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .edits import Edit, apply, inverse, sample_edits
from .grammar import describe, word_edits
from .render import BASE_SIZE, background_mask, cell_mask, thing_mask
from .trees import Denotation, Node, NounPhrase, realise
from .world import Scene, Thing, sample_scene

VERSION = "2"
MAX_EDITS = 5
EDIT_OF = {"colour": "recolour", "pattern": "repattern", "shape": "replace", "size": "resize"}


@dataclass(frozen=True)
class SceneQuery:
    """A reference scene, what the text asks for, and what comes out.

    `sentences` are the gold constituency trees of `text`, `noun_phrases` its gold noun phrases, breadth first.
    """

    reference: Scene
    edits: tuple[Edit, ...]
    target: Scene
    text: str
    noun_phrases: tuple[NounPhrase, ...]
    sentences: tuple[Node, ...]


def make_query(rng: random.Random, reference: Scene, edits: Sequence[Edit]) -> SceneQuery:
    """Word some edits of a scene and apply them."""
    sentences = word_edits(rng, reference, edits)
    text, noun_phrases = realise(sentences)
    return SceneQuery(reference, tuple(edits), apply(reference, edits), text, tuple(noun_phrases), tuple(sentences))


def sample_query(rng: random.Random, num_edits: int) -> SceneQuery:
    """A random query of exactly `num_edits` edits (1 to 5)."""
    if not 1 <= num_edits <= MAX_EDITS:
        raise ValueError(f"num_edits must be 1 to {MAX_EDITS}, got {num_edits}")
    while True:
        reference = sample_scene(rng)
        edits = sample_edits(rng, reference, num_edits)
        if len(edits) == num_edits:
            return make_query(rng, reference, edits)


def sample_family(rng: random.Random) -> list[SceneQuery]:
    """Queries that are hard negatives of each other, up to four: [`_siblings`] or [`_there_and_back`], evenly."""
    return rng.choice((_siblings, _there_and_back))(rng)


def _siblings(rng: random.Random) -> list[SceneQuery]:
    """The same change of one thing after another, in one scene. The text alone says which thing, so that nobody finds
    the targets who does not look it up in the picture."""
    while True:
        first = sample_query(rng, 1)
        (edit,) = first.edits
        if edit.old is None:
            continue
        others = [_done_to(thing, edit) for thing in first.reference.things if thing != edit.old]
        others = [other for other in others if other.new != other.old]
        if others:
            others = rng.sample(others, min(3, len(others)))
            return [first, *(make_query(rng, first.reference, [other]) for other in others)]


def _there_and_back(rng: random.Random) -> list[SceneQuery]:
    """Queries on two scenes that edits lead from and to.

    - The whole: one to five edits of a reference.
    - Part of it: some of the edits, where there are several. Its target is the other's with something left undone.
    - A near miss: from the whole's target to a scene that differs from it by one edit, by one thing's place, or by two
      things that exchange an attribute.
    - The way back: from the whole's target to the reference scene, which a model must not return for the others. (The
      reference picture itself is a weaker negative, told from any target by its jitter and noise.)
    """
    whole = sample_query(rng, rng.choice((1, 2, 2, 3, 4, 5)))
    family = [whole]
    if len(whole.edits) > 1:
        kept = rng.sample(range(len(whole.edits)), rng.randint(1, len(whole.edits) - 1))
        family.append(make_query(rng, whole.reference, [whole.edits[place] for place in sorted(kept)]))
    family.append(make_query(rng, whole.target, near_miss(rng, whole.target)))
    family.append(make_query(rng, whole.target, [inverse(edit, whole.reference) for edit in whole.edits]))
    return family


def near_miss(rng: random.Random, scene: Scene) -> list[Edit]:
    """Edits after which a scene is easily taken for what it was: one, or two by which an attribute is exchanged."""
    kind = rng.choice(("exchange", "move", "any"))
    found = []
    if kind == "exchange":
        found = _exchange(rng, scene)
    elif kind == "move" and scene.free_cells():
        thing = rng.choice(scene.things)
        found = [Edit("move", old=thing, new=replace(thing, cell=rng.choice(scene.free_cells())))]
    return found or sample_edits(rng, scene, 1)


def distractors(rng: random.Random, query: SceneQuery) -> dict[str, list[Scene]]:
    """Scenes that are nearly right, by the mistake that retrieves them; none equals the target.

    - `reference`: nothing was changed; - `partial`: one edit was forgotten; - `over`: one more was done;
    - `binding`: two things have exchanged an attribute; - `wrong_thing`: an edit was done to another thing;
    - `other_scene`: the same edit, somewhere else (what a model finds that reads only the text).
    """
    reference, target = query.reference, query.target
    found: dict[str, list[Scene]] = {"reference": [reference]}
    if len(query.edits) > 1:
        left_out = rng.sample(query.edits, min(2, len(query.edits)))
        found["partial"] = [apply(reference, [e for e in query.edits if e != omitted]) for omitted in left_out]
    found["over"] = [apply(target, sample_edits(rng, target, 1))]
    exchange = _exchange(rng, target)
    found["binding"] = [apply(target, exchange)] if exchange else []
    found["wrong_thing"] = [scene for scene in [_wrong_thing(rng, query)] if scene is not None]
    found["other_scene"] = [_elsewhere(rng, query)]
    return {kind: [s for s in scenes if s != target] for kind, scenes in found.items()}


def _exchange(rng: random.Random, scene: Scene) -> list[Edit]:
    """Two edits by which two things exchange an attribute; none where all are alike."""
    pairs = [
        (one, other, name)
        for one in scene.things
        for other in scene.things
        for name in EDIT_OF
        if one.cell < other.cell and getattr(one, name) != getattr(other, name)
    ]
    rng.shuffle(pairs)
    for one, other, name in pairs:
        if one.look() == replace(other, **{name: getattr(one, name)}).look():
            continue  # alike but for this attribute: exchanging it is moving them
        return [
            Edit(EDIT_OF[name], old=one, new=replace(one, **{name: getattr(other, name)})),
            Edit(EDIT_OF[name], old=other, new=replace(other, **{name: getattr(one, name)})),
        ]
    return []


def _wrong_thing(rng: random.Random, query: SceneQuery) -> Scene | None:
    """One edit is done to a thing that no edit speaks of."""
    touched = {edit.old for edit in query.edits}
    innocent = [thing for thing in query.reference.things if thing not in touched]
    candidates = [edit for edit in query.edits if edit.old is not None and edit.kind != "move"]
    if not innocent or not candidates:
        return None
    edit, victim = rng.choice(candidates), rng.choice(innocent)
    return apply(query.reference, [_done_to(victim, e) if e == edit else e for e in query.edits])


def _done_to(thing: Thing, edit: Edit) -> Edit:
    """The same change as `edit`, of another thing."""
    if edit.new is None:
        return replace(edit, old=thing)
    names = ("cell", "shape", "colour", "size", "pattern")
    changes = {n: getattr(edit.new, n) for n in names if getattr(edit.new, n) != getattr(edit.old, n)}
    return replace(edit, old=thing, new=replace(thing, **changes))


def _elsewhere(rng: random.Random, query: SceneQuery) -> Scene:
    """Another scene in which all that the text asks for holds."""
    asked = [edit.new for edit in query.edits if edit.new is not None]
    taken = {thing.cell for thing in asked} | {edit.old.cell for edit in query.edits if edit.old is not None}
    other = sample_scene(rng)
    things = asked + [thing for thing in other.things if thing.cell not in taken]
    backgrounds = [edit.background for edit in query.edits if edit.background]
    return Scene(backgrounds[0] if backgrounds else other.background, tuple(sorted(things)))


def denoted_mask(scene: Scene, nuisance: int, denotes: Denotation, size: int = BASE_SIZE) -> np.ndarray:
    """The pixels of the reference picture that a noun phrase speaks of: `(size, size)` booleans, maybe none."""
    mask = np.zeros((size, size), dtype=bool)
    for thing in denotes.things:
        mask |= thing_mask(scene, nuisance, thing, size)
    for cell in denotes.cells:
        mask |= cell_mask(cell, size)
    if denotes.background:
        mask |= background_mask(scene, nuisance, size)
    return mask


def sample_trees(n: int, seed: int) -> Iterator[str]:
    """`n` gold constituency trees in bracketed form, one a sentence, for training and testing parsers.

    Three out of four are sentences of modification texts, the others captions.
    """
    rng = random.Random(f"trees {seed}")
    made = 0
    while made < n:
        scene = sample_scene(rng)
        if rng.random() < 0.25:
            sentences = describe(rng, scene)
        else:
            sentences = word_edits(rng, scene, sample_edits(rng, scene, rng.randint(1, MAX_EDITS)))
        for sentence in sentences[: n - made]:
            made += 1
            yield sentence.ptb()


def fingerprint(seed: int = 0, n: int = 200) -> str:
    """A hash of scenes, texts and spans: equal fingerprints mean the same data for the same seed."""
    rng = random.Random(seed)
    digest = hashlib.sha256(VERSION.encode())
    for _ in range(n):
        for query in sample_family(rng):
            digest.update(repr((query.reference, query.target, query.text, query.noun_phrases)).encode())
    return digest.hexdigest()[:16]
