"""Random queries, and the families of them for training.

Training uses at most two edits, and none of the words and pairs of shape and colour that `splits` holds out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from contextcir.scenes.edits import Edit, apply, exchange, inverse, sample_edits, transfer
from contextcir.scenes.grammar import describe, word_edits
from contextcir.scenes.splits import any_held_out, has_held_out_word
from contextcir.scenes.trees import Node, NounPhrase, realise
from contextcir.scenes.world import Scene, Thing, sample_scene

MAX_EDITS = 5
KEPT = 0.1  # share of the texts that name a thing to leave unchanged


@dataclass(frozen=True)
class SceneQuery:
    """A reference scene, the edits and their text, and the target scene.

    `sentences` are the gold constituency trees of `text`, and `noun_phrases` its gold noun phrases, breadth first.
    `kept` is the thing that the text tells to leave unchanged, if any.
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
    """Return a thing that no edit changes with probability [`KEPT`], otherwise `None`."""
    touched = {edit.old for edit in edits}
    untouched = [thing for thing in scene.things if thing not in touched]
    return rng.choice(untouched) if untouched and rng.random() < KEPT else None


def sample_query(rng: random.Random, num_edits: int) -> SceneQuery:
    """
    Sample a query from the whole world.

    It may contain what `splits` holds out: do not train on such queries before testing on these splits.

    Args:
        rng (`random.Random`): Source of randomness.
        num_edits (`int`): Exact number of edits, 1 to 5.

    Raises:
        ValueError: `num_edits` is out of range.
    """
    if not 1 <= num_edits <= MAX_EDITS:
        raise ValueError(f"num_edits must be 1 to {MAX_EDITS}, got {num_edits}.")
    while True:
        reference = sample_scene(rng)
        edits = sample_edits(rng, reference, num_edits)
        if len(edits) == num_edits:
            return make_query(rng, reference, edits, sample_kept(rng, reference, edits))


def sample_family(rng: random.Random) -> list[SceneQuery]:
    """Sample up to four training queries that are hard negatives of each other.

    Half of the families are made by [`_plan_siblings`], the other half by [`_plan_round_trip`].
    """
    plan = rng.choice((_plan_siblings, _plan_round_trip))
    while True:
        reference = sample_scene(rng)
        plans = [] if any_held_out(reference.things) else plan(rng, reference)
        if plans and not any_held_out(edit.new for _, edits in plans for edit in edits if edit.new):
            return [_make_training_query(rng, scene, edits) for scene, edits in plans]


def _make_training_query(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> SceneQuery:
    """Word some edits without held-out words."""
    kept = sample_kept(rng, scene, edits)
    while True:
        query = make_query(rng, scene, edits, kept)
        if not has_held_out_word(query.text):
            return query


Plan = tuple[Scene, Sequence[Edit]]  # a reference scene and its edits, not worded yet


def _plan_siblings(rng: random.Random, reference: Scene) -> list[Plan]:
    """Plan the same change for two to four things of one scene.

    Only the text says which thing changes, so a model must find this thing in the picture. The list is empty if the
    change is possible for one thing only.
    """
    edits = sample_edits(rng, reference, 1)
    if not edits or edits[0].old is None:
        return []
    (edit,) = edits
    others = [transfer(edit, thing) for thing in reference.things if thing != edit.old]
    others = [other for other in others if other.new != other.old]
    others = rng.sample(others, min(3, len(others)))
    return [(reference, [some]) for some in (edit, *others)] if others else []


def _plan_round_trip(rng: random.Random, reference: Scene) -> list[Plan]:
    """Plan queries from a reference scene to a target scene and back.

    - Whole: one or two edits of the reference.
    - Part: one of two edits. Its target is the target of the whole with one edit undone.
    - Near miss: from the target of the whole to a similar scene, see [`near_miss`].
    - Back: from the target of the whole to the reference scene, which is a wrong result for the other queries. (The
      reference picture itself is a weaker negative: its jitter and noise differ from those of any target.)
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
    """Return edits with a result similar to the scene.

    They exchange an attribute of two things, move a thing, or are one random edit.
    """
    kind = rng.choice(("exchange", "move", "any"))
    found = []
    if kind == "exchange":
        found = exchange(rng, scene)
    elif kind == "move" and scene.free_cells():
        thing = rng.choice(scene.things)
        found = [Edit("move", old=thing, new=replace(thing, cell=rng.choice(scene.free_cells())))]
    return found or sample_edits(rng, scene, 1)


def sample_trees(n: int, seed: int) -> Iterator[str]:
    """Iterate over `n` gold constituency trees in bracketed form, one per sentence, to train and test parsers.

    75 % are sentences of modification texts, the others captions.
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
