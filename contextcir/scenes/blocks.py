"""Blocks of test queries: the same texts for several scenes, so that neither half of a query is enough.

A block combines each of four reference scenes with each of six texts. A model that sees the text only has one answer
for four queries with four different targets. A model that sees the image only has one answer for six. This limits the
recall of both, whatever they know. The six texts compose a few single edits in different ways. So the result of a
mistake is often the target of another text: `ab` half done is `a`, and `a` overdone is `ab`.

A text means the same edits in every scene. This needs no interpretation of the text: the grammar words the edits in
each scene, and a text is used only if all four results are equal. Each of its expressions then fits exactly one thing
of each scene.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from contextcir.scenes.edits import Edit, changed_attributes, sample_edits, transfer
from contextcir.scenes.queries import KEPT, SceneQuery, make_query
from contextcir.scenes.splits import HELD_OUT_COLOUR, SPLITS, Split, any_held_out, has_held_out_word, is_held_out
from contextcir.scenes.world import (
    BACKGROUNDS,
    CELLS,
    MAX_OBJECTS,
    MIN_OBJECTS,
    VALUES,
    Cell,
    Scene,
    Thing,
    sample_scene,
    sample_thing,
)

NUM_REFERENCES, NUM_TEXTS = 4, 6
TRIES = 40  # attempts before a new start
QUERIES = NUM_REFERENCES * NUM_TEXTS


@dataclass(frozen=True)
class Version:
    """A reference scene of a block, and the single edits of this scene by letter."""

    scene: Scene
    edits: dict[str, Edit]

    def chosen(self, letters: str) -> list[Edit]:
        """Return the edits that a text composes."""
        return [self.edits[letter] for letter in letters]


@dataclass(frozen=True)
class Block:
    """Four versions of a scene, and `queries[version][text]`."""

    split: str
    versions: tuple[Version, ...]
    queries: tuple[tuple[SceneQuery, ...], ...]


def sample_block(rng: random.Random, split: str) -> Block:
    """
    Sample a block.

    Args:
        rng (`random.Random`): Source of randomness.
        split (`str`): One of [`~contextcir.scenes.splits.SPLITS`].

    Returns:
        `Block`: Its references and targets are all different scenes.

    Raises:
        ValueError: The split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"Got split {split!r} of scenes, expected one of {', '.join(SPLITS)}.")
    while True:
        versions = _sample_versions(rng, SPLITS[split])
        texts = [_word_alike(rng, versions, letters, SPLITS[split]) for letters in SPLITS[split].texts if versions]
        if len(texts) < NUM_TEXTS or not all(texts):
            continue
        queries = tuple(zip(*texts, strict=True))
        scenes = [version.scene for version in versions] + [query.target for row in queries for query in row]
        if len(set(scenes)) == len(scenes) and all(scene.things for scene in scenes):
            return Block(split, tuple(versions), queries)


def _sample_versions(rng: random.Random, split: Split) -> list[Version]:
    """Return four scenes with the same single edits, which can be composed in any way; empty if the attempt failed."""
    scene = sample_scene(rng)
    edits = sample_edits(rng, scene, len(split.letters))
    if any_held_out(scene.things) or any_held_out(edit.new for edit in edits if edit.new):
        return []
    if split.new_combinations:
        scene, edits = _with_held_out_pairs(scene, [edit for edit in edits if edit.kind != "background"])
    added, removed = (sum(edit.kind == kind for edit in edits) for kind in ("add", "remove"))
    if len(edits) < len(split.letters) or len(scene.things) + added > MAX_OBJECTS or len(scene.things) - removed < 1:
        return []
    versions = [Version(scene, dict(zip(split.letters, edits, strict=True)))]
    for _ in range(TRIES):
        other = _sample_other_version(rng, versions[0])
        if other and other.scene not in [version.scene for version in versions]:
            versions.append(other)
        if len(versions) == NUM_REFERENCES:
            return versions
    return []


def _with_held_out_pairs(scene: Scene, edits: Sequence[Edit]) -> tuple[Scene, list[Edit]]:
    """Recolour a scene and edits, so that each edit adds, removes or changes a thing in its held-out colour."""
    changed = []
    for edit in edits:
        old, new = edit.old, edit.new
        if new and edit.kind in ("recolour", "replace", "add"):
            new = replace(new, colour=HELD_OUT_COLOUR[new.shape])
        elif old:
            recoloured = replace(old, colour=HELD_OUT_COLOUR[old.shape])
            new = new and replace(new, colour=recoloured.colour)
            scene = scene.changed(old, recoloured)
            old = recoloured
        changed.append(replace(edit, old=old, new=new))
    return scene, changed


def _sample_other_version(rng: random.Random, version: Version) -> Version | None:
    """Return another scene with the same edits: things that they change may differ a little, all others are new.

    `None` if the edits would not be the same.
    """
    edits = version.edits.values()
    olds = [edit.old for edit in edits if edit.old]
    taken = {edit.new.cell for edit in edits if edit.new} | {old.cell for old in olds}
    free = [cell for cell in CELLS if cell not in taken]
    rng.shuffle(free)
    background = rng.choice((version.scene.background, *BACKGROUNDS))
    varied = rng.sample(olds, min(len(olds), rng.randint(0, 2)))
    variants = {old: _vary(rng, old, free) if old in varied else old for old in olds}
    new_edits = {
        letter: transfer(edit, variants[edit.old]) if edit.old else edit for letter, edit in version.edits.items()
    }

    added = sum(edit.kind == "add" for edit in edits)
    count = rng.randint(max(MIN_OBJECTS, len(olds)), MAX_OBJECTS - added)
    others = [sample_thing(rng, cell) for cell in free[: count - len(olds)]]
    scene = Scene(background, tuple(sorted([*variants.values(), *others])))
    same = all(_alike(edit, version.edits[letter]) for letter, edit in new_edits.items())
    if not same or any_held_out(others) or background in [edit.background for edit in edits]:
        return None
    return Version(scene, new_edits)


def _vary(rng: random.Random, thing: Thing, free: list[Cell]) -> Thing:
    """Return the thing with another attribute or in one of the `free` cells, which is used up; or return it as is."""
    name = rng.choice(("cell", "cell", "colour", "size", "pattern"))
    if name == "cell" and free:
        return replace(thing, cell=free.pop())
    return thing.with_value(name, rng.choice(VALUES[name])) if name in VALUES else thing


def _alike(edit: Edit, other: Edit) -> bool:
    """Return whether two edits change the same attributes, and agree in which things are held out."""
    for one, another in ((edit.old, other.old), (edit.new, other.new)):
        if one and another and is_held_out(one) != is_held_out(another):
            return False
    return edit.old is None or edit.new is None or changed_attributes(edit) == changed_attributes(other)


def _word_alike(
    rng: random.Random, versions: Sequence[Version], letters: str, split: Split
) -> tuple[SceneQuery, ...] | None:
    """Return the queries of one text, one per version; `None` if no text was found that fits all versions."""
    others = [letter for letter in split.letters if letter not in letters and versions[0].edits[letter].old]
    kept = rng.choice(others) if others and rng.random() < KEPT else None
    for _ in range(TRIES):
        seed = rng.getrandbits(48)
        queries: list[SceneQuery] = []
        for version in versions:
            untouched = version.edits[kept].old if kept else None
            query = make_query(random.Random(seed), version.scene, version.chosen(letters), untouched)
            if query.text != (queries or [query])[0].text or has_held_out_word(query.text) != split.new_words:
                break
            queries.append(query)
        if len(queries) == len(versions):
            return tuple(queries)
    return None
