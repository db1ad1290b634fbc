"""Queries out of the world, and the families of them that training sees.

Training keeps to what `splits` leaves it: at most two edits, and neither pairs of shape and colour nor words that are
held out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from contextcir.scenes.edits import Edit, apply, done_to, exchange, inverse, sample_edits
from contextcir.scenes.grammar import describe, word_edits
from contextcir.scenes.splits import any_held_out, has_held_out_word
from contextcir.scenes.trees import Node, NounPhrase, realise
from contextcir.scenes.world import Scene, Thing, sample_scene

MAX_EDITS = 5
KEPT = 0.1  # share of the texts that also say what is to stay as it is


@dataclass(frozen=True)
class SceneQuery:
    """A reference scene, what the text asks for, and what comes out.

    `sentences` are the gold constituency trees of `text`, `noun_phrases` its gold noun phrases, breadth first. `kept`
    is what the text says is to stay as it is, if it does.
    """

    reference: Scene
    edits: tuple[Edit, ...]
    target: Scene
    text: str
    noun_phrases: tuple[NounPhrase, ...]
    sentences: tuple[Node, ...]
    kept: Thing | None = None


def make_query(rng: random.Random, reference: Scene, edits: Sequence[Edit], kept: Thing | None = None) -> SceneQuery:
    """Word some edits of a scene and apply them."""
    sentences = word_edits(rng, reference, edits, kept)
    text, noun_phrases = realise(sentences)
    target = apply(reference, edits)
    return SceneQuery(reference, tuple(edits), target, text, tuple(noun_phrases), tuple(sentences), kept)


def sample_kept(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> Thing | None:
    """Now and then, a thing that no edit touches."""
    touched = {edit.old for edit in edits}
    untouched = [thing for thing in scene.things if thing not in touched]
    return rng.choice(untouched) if untouched and rng.random() < KEPT else None


def sample_query(rng: random.Random, num_edits: int) -> SceneQuery:
    """A random query of exactly `num_edits` edits (1 to 5), from the whole world: also what `splits` keeps from
    training, so not to train on before a test on its splits."""
    if not 1 <= num_edits <= MAX_EDITS:
        raise ValueError(f"num_edits must be 1 to {MAX_EDITS}, got {num_edits}")
    while True:
        reference = sample_scene(rng)
        edits = sample_edits(rng, reference, num_edits)
        if len(edits) == num_edits:
            return make_query(rng, reference, edits, sample_kept(rng, reference, edits))


def sample_family(rng: random.Random) -> list[SceneQuery]:
    """Queries to train on that are hard negatives of each other, up to four: [`_siblings`] or [`_there_and_back`],
    evenly."""
    plan = rng.choice((_siblings, _there_and_back))
    while True:
        reference = sample_scene(rng)
        plans = [] if any_held_out(reference.things) else plan(rng, reference)
        if plans and not any_held_out(edit.new for _, edits in plans for edit in edits if edit.new):
            return [_known_words(rng, scene, edits) for scene, edits in plans]


def _known_words(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> SceneQuery:
    """Words of training for some edits."""
    kept = sample_kept(rng, scene, edits)
    while True:
        query = make_query(rng, scene, edits, kept)
        if not has_held_out_word(query.text):
            return query


Plan = tuple[Scene, Sequence[Edit]]  # a query before it has words


def _siblings(rng: random.Random, reference: Scene) -> list[Plan]:
    """The same change of one thing after another, in one scene. The text alone says which thing, so that nobody finds
    the targets who does not look it up in the picture. None where the change makes no sense for two things."""
    edits = sample_edits(rng, reference, 1)
    if not edits or edits[0].old is None:
        return []
    (edit,) = edits
    others = [done_to(thing, edit) for thing in reference.things if thing != edit.old]
    others = [other for other in others if other.new != other.old]
    others = rng.sample(others, min(3, len(others)))
    return [(reference, [some]) for some in (edit, *others)] if others else []


def _there_and_back(rng: random.Random, reference: Scene) -> list[Plan]:
    """Queries on two scenes that edits lead from and to.

    - The whole: one or two edits of a reference.
    - Part of it: one of the edits, where there are two. Its target is the other's with something left undone.
    - A near miss: from the whole's target to a scene that differs from it by one edit, by one thing's place, or by two
      things that exchange an attribute.
    - The way back: from the whole's target to the reference scene, which a model must not return for the others. (The
      reference picture itself is a weaker negative, told from any target by its jitter and noise.)
    """
    count = rng.choice((1, 2, 2))
    edits = sample_edits(rng, reference, count)
    if len(edits) < count:
        return []
    target = apply(reference, edits)
    part = [(reference, [rng.choice(edits)])] if count > 1 else []
    near, back = near_miss(rng, target), [inverse(edit, reference) for edit in edits]
    return [(reference, edits), *part, (target, near), (target, back)]


def near_miss(rng: random.Random, scene: Scene) -> list[Edit]:
    """Edits after which a scene is easily taken for what it was: one, or two by which an attribute is exchanged."""
    kind = rng.choice(("exchange", "move", "any"))
    found = []
    if kind == "exchange":
        found = exchange(rng, scene)
    elif kind == "move" and scene.free_cells():
        thing = rng.choice(scene.things)
        found = [Edit("move", old=thing, new=replace(thing, cell=rng.choice(scene.free_cells())))]
    return found or sample_edits(rng, scene, 1)


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
            edits = sample_edits(rng, scene, rng.randint(1, MAX_EDITS))
            sentences = word_edits(rng, scene, edits, sample_kept(rng, scene, edits))
        for sentence in sentences[: n - made]:
            made += 1
            yield sentence.ptb()
