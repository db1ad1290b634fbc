"""Blocks of test queries: a few scenes, each asked with the same few texts, so that neither half of a query will do.

In a block, each of four reference scenes goes with each of six texts. Whoever sees the text alone has one answer for
four queries with four different targets; whoever sees the image alone has one for six. This bounds both, whatever they
know, and however clever they are. The six texts compose a few single edits in different ways, so that one's target is
what another's mistakes lead to: `ab` half done is `a`, and `a` overdone is `ab`.

A text means in every scene exactly what was done there. It need not be interpreted for this: where the grammar, asked
to word the corresponding edits of another scene, comes to the very same words, each of its expressions fits exactly
one thing there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from contextcir.scenes.edits import Edit, changes, done_to, sample_edits
from contextcir.scenes.queries import KEPT, SceneQuery, make_query
from contextcir.scenes.splits import HELD_OUT_COLOUR, SPLITS, Split, any_held_out, has_held_out_word, is_held_out
from contextcir.scenes.world import (
    BACKGROUNDS,
    CELLS,
    MAX_OBJECTS,
    MIN_OBJECTS,
    VALUES,
    Scene,
    Thing,
    sample_scene,
    sample_thing,
)

NUM_REFERENCES, NUM_TEXTS = 4, 6
TRIES = 40  # before something else is begun
QUERIES = NUM_REFERENCES * NUM_TEXTS


@dataclass(frozen=True)
class Version:
    """A reference scene of a block, and the single edits as they are done there, by letter."""

    scene: Scene
    edits: dict[str, Edit]

    def chosen(self, letters: str) -> list[Edit]:
        """The edits that a text composes."""
        return [self.edits[letter] for letter in letters]


@dataclass(frozen=True)
class Block:
    """Four versions of a scene, and `queries[version][text]`."""

    split: str
    versions: tuple[Version, ...]
    queries: tuple[tuple[SceneQuery, ...], ...]


def sample_block(rng: random.Random, split: str) -> Block:
    """
    A random block.

    Args:
        rng (`random.Random`): Source of everything.
        split (`str`): One of [`~contextcir.scenes.splits.SPLITS`].

    Returns:
        `Block`: Its references and targets are all different scenes.

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r} of scenes; there are {', '.join(SPLITS)}")
    while True:
        versions = _sample_versions(rng, SPLITS[split])
        texts = [_same_words(rng, versions, letters, SPLITS[split]) for letters in SPLITS[split].texts if versions]
        if len(texts) < NUM_TEXTS or not all(texts):
            continue
        queries = tuple(zip(*texts, strict=True))
        scenes = [version.scene for version in versions] + [query.target for row in queries for query in row]
        if len(set(scenes)) == len(scenes) and all(scene.things for scene in scenes):
            return Block(split, tuple(versions), queries)


def _sample_versions(rng: random.Random, split: Split) -> list[Version]:
    """Four scenes in which the same single edits can be done, in any composition; none where it did not work out."""
    scene = sample_scene(rng)
    edits = sample_edits(rng, scene, len(split.letters))
    if any_held_out(scene.things) or any_held_out(edit.new for edit in edits if edit.new):
        return []
    if split.new_combinations:
        scene, edits = _about_held_out(scene, [edit for edit in edits if edit.kind != "background"])
    added, removed = (sum(edit.kind == kind for edit in edits) for kind in ("add", "remove"))
    if len(edits) < len(split.letters) or len(scene.things) + added > MAX_OBJECTS or len(scene.things) - removed < 1:
        return []
    versions = [Version(scene, dict(zip(split.letters, edits, strict=True)))]
    for _ in range(TRIES):
        other = _another_version(rng, versions[0])
        if other and other.scene not in [version.scene for version in versions]:
            versions.append(other)
        if len(versions) == NUM_REFERENCES:
            return versions
    return []


def _about_held_out(scene: Scene, edits: Sequence[Edit]) -> tuple[Scene, list[Edit]]:
    """A scene and edits by which a thing in its held-out colour comes, goes or changes, and is there at least once."""
    changed = []
    for edit in edits:
        old, new = edit.old, edit.new
        if edit.kind in ("recolour", "replace", "add"):
            new = replace(new, colour=HELD_OUT_COLOUR[new.shape])
        else:
            old = replace(old, colour=HELD_OUT_COLOUR[old.shape])
            new = new and replace(new, colour=old.colour)
            scene = scene.changed(edit.old, old)
        changed.append(replace(edit, old=old, new=new))
    return scene, changed


def _another_version(rng: random.Random, version: Version) -> Version | None:
    """Another scene that the same edits can be done to: what they touch may look and stand a little differently, the
    rest is new. None where they would not be the same edits."""
    edits = version.edits.values()
    olds = [edit.old for edit in edits if edit.old]
    taken = {edit.new.cell for edit in edits if edit.new} | {old.cell for old in olds}
    free = [cell for cell in CELLS if cell not in taken]
    rng.shuffle(free)
    background = rng.choice((version.scene.background, *BACKGROUNDS))
    varied = rng.sample(olds, min(len(olds), rng.randint(0, 2)))
    there = {old: _variation(rng, old, free) if old in varied else old for old in olds}
    done = {letter: done_to(there[edit.old], edit) if edit.old else edit for letter, edit in version.edits.items()}

    added = sum(edit.kind == "add" for edit in edits)
    count = rng.randint(max(MIN_OBJECTS, len(olds)), MAX_OBJECTS - added)
    others = [sample_thing(rng, cell) for cell in free[: count - len(olds)]]
    scene = Scene(background, tuple(sorted([*there.values(), *others])))
    same = all(_alike(edit, version.edits[letter]) for letter, edit in done.items())
    if not same or any_held_out(others) or background in [edit.background for edit in edits]:
        return None
    return Version(scene, done)


def _variation(rng: random.Random, thing: Thing, free: list[tuple[int, int]]) -> Thing:
    """A thing itself, or one that differs in an attribute or stands in one of the `free` cells, which it takes."""
    name = rng.choice(("cell", "cell", "colour", "size", "pattern"))
    if name == "cell" and free:
        return replace(thing, cell=free.pop())
    return replace(thing, **{name: rng.choice(VALUES[name])}) if name in VALUES else thing


def _alike(edit: Edit, other: Edit) -> bool:
    """Whether two edits change the same attributes, and the same of the things before and after are held out."""
    things = [(edit.old, other.old), (edit.new, other.new)]
    if any(one and is_held_out(one) != is_held_out(another) for one, another in things):
        return False
    return edit.old is None or edit.new is None or changes(edit).keys() == changes(other).keys()


def _same_words(
    rng: random.Random, versions: Sequence[Version], letters: str, split: Split
) -> tuple[SceneQuery, ...] | None:
    """The queries of one text, a version each; None where no words were found that fit all."""
    others = [letter for letter in split.letters if letter not in letters and versions[0].edits[letter].old]
    kept = rng.choice(others) if others and rng.random() < KEPT else None
    for _ in range(TRIES):
        seed = rng.getrandbits(48)
        queries = []
        for version in versions:
            untouched = version.edits[kept].old if kept else None
            query = make_query(random.Random(seed), version.scene, version.chosen(letters), untouched)
            if query.text != (queries or [query])[0].text or has_held_out_word(query.text) != split.new_words:
                break
            queries.append(query)
        if len(queries) == len(versions):
            return tuple(queries)
    return None
