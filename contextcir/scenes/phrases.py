"""Noun phrases for things, places and backgrounds.

A referring expression ("the small red circle left of the star") fits exactly one thing of the reference scene. *Left
of* and *right of* mean the same row, *above* and *below* the same column, and *directly* the next cell. Corners, edges
and the centre name the nine cells.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from contextcir.scenes.trees import Denotation, Node, node
from contextcir.scenes.world import Cell, Scene, Thing

WORDS = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big"),
    "plain": ("plain", "plain", "solid"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "checked": ("checked", "checkered"),
}
MARKS = {"striped": ("stripes",), "dotted": ("dots", "spots"), "checked": ("checks", "squares")}
BACKDROPS = {  # background -> noun phrases for it, as (article, words with tags)
    "plain": (
        ("a", "JJ plain", "JJ gray", "NN backdrop"),
        ("a", "JJ blank", "NN wall"),
        ("a", "JJ plain", "NN background"),
    ),
    "meadow": (("a", "NN meadow"), ("a", "JJ green", "NN lawn"), ("", "NN grass"), ("", "NN greenery")),
    "beach": (("a", "JJ sandy", "NN beach"), ("", "NN sand"), ("a", "NN beach")),
    "sea": (("the", "NN sea"), ("", "NN water"), ("", "JJ blue", "NNS waves")),
    "brick": (("a", "NN brick", "NN wall"), ("", "NNS bricks"), ("a", "NN wall", "of bricks")),
    "night": (("a", "NN night", "NN sky"), ("a", "JJ dark", "NN sky"), ("the", "NN night", "NN sky")),
    "wood": (("a", "JJ wooden", "NN floor"), ("", "NN wood"), ("", "JJ wooden", "NNS boards")),
}
RELATIONS = {
    "left": (("IN left", "of"), ("to the", "NN left", "of"), ("on the", "NN left", "of")),
    "right": (("IN right", "of"), ("to the", "NN right", "of"), ("on the", "NN right", "of")),
    "above": (("IN above",), ("IN over",)),
    "below": (("IN below",), ("IN under",), ("IN beneath",)),
}


def refer(rng: random.Random, scene: Scene, thing: Thing) -> Node:
    """Return a noun phrase that fits `thing` and nothing else in the scene."""
    base, twins = _definite(rng, scene, thing)
    if not twins and rng.random() < 0.75:
        return base
    modifier = None
    if rng.random() < 0.6:
        modifier = _distinguishing_relation(rng, scene, thing, twins)
    modifier = modifier or location(rng, thing.cell)
    if rng.random() < 0.25:
        verb = rng.choice(("VBZ is", "VBZ sits"))
        modifier = node(
            "SBAR", node("WHNP", rng.choice(("WDT that", "WDT which"))), node("S", node("VP", verb, modifier))
        )
    return node("NP", base, modifier, denotes=base.denotes)


def refer_by_adjectives(rng: random.Random, scene: Scene, thing: Thing) -> Node | None:
    """Return a noun phrase without modifiers that fits `thing` only, or `None` if another thing looks the same."""
    base, twins = _definite(rng, scene, thing, all_adjectives=True)
    return None if twins else base


def _definite(
    rng: random.Random, scene: Scene, thing: Thing, all_adjectives: bool = False
) -> tuple[Node, list[Thing]]:
    """Return "the" with adjectives and a noun, and the other things of the scene that this phrase fits."""
    wanted = [name for name, chance in (("colour", 0.8), ("size", 0.35), ("pattern", 0.35)) if rng.random() < chance]
    if all_adjectives:
        wanted = ["colour", "size", "pattern"]
    generic = rng.random() < 0.08 and len(wanted) > 0
    names = wanted if generic else ["shape", *wanted]
    twins = [other for other in scene.things if _alike(other, thing, names) and other != thing]
    for name in (*rng.sample(("colour", "size", "pattern"), 3), "shape"):
        if twins and name not in names:
            names.append(name)
            twins = [other for other in twins if _alike(other, thing, names)]
    return describe_thing(rng, thing, names, "the"), twins


def indefinite(rng: random.Random, thing: Thing, article: str = "a") -> Node:
    """Return a full description of a thing that may be absent: "a large striped green heart"."""
    names = ["shape", "colour", "size"] + (["pattern"] if thing.pattern != "plain" or rng.random() < 0.3 else [])
    return describe_thing(rng, thing, names, article, denoting=False)


def _alike(one: Thing, other: Thing, names: Sequence[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


def describe_thing(
    rng: random.Random, thing: Thing, names: Sequence[str], article: str, denoting: bool = True
) -> Node:
    """Describe a thing by the attributes in `names`. `denoting`: it is in the reference image."""
    denotes = Denotation(things=(thing,)) if denoting else Denotation()
    adjectives = []
    if "size" in names:
        adjectives.append("JJ " + rng.choice(WORDS[thing.size]))
    trailing = None
    if "pattern" in names:
        if thing.pattern in MARKS and rng.random() < 0.15:
            marks = node("NP", "NNS " + rng.choice(MARKS[thing.pattern]), denotes=denotes)
            trailing = node("PP", "IN with", marks)
        else:
            adjectives.append("JJ " + rng.choice(WORDS[thing.pattern]))
    if "colour" in names:
        adjectives.append("JJ " + thing.colour)
    noun = thing.shape if "shape" in names else rng.choice(("thing", "object", "shape"))
    words = [*adjectives, "NN " + noun]
    inner = node("NP", *with_article(article, words), denotes=denotes)
    return inner if trailing is None else node("NP", inner, trailing, denotes=denotes)


def with_article(article: str, words: list[str]) -> list[str]:
    """Return tagged words after an article. "a" becomes "an" before a vowel; an empty article adds nothing."""
    if not article:
        return words
    if article == "a" and words[0].split(" ")[1][0] in "aeiou":
        article = "an"
    return ["DT " + article, *words]


def _distinguishing_relation(rng: random.Random, scene: Scene, thing: Thing, twins: Sequence[Thing]) -> Node | None:
    """Return a relation to another thing that holds for `thing` and for none of its twins."""
    choices = []
    for anchor in scene.things:
        relation = _relation(thing.cell, anchor.cell)
        if relation and all(_relation(twin.cell, anchor.cell) != relation for twin in twins):
            named = refer_by_adjectives(rng, scene, anchor)
            if named is not None:
                choices.append((relation, named))
    return _relative(rng, *rng.choice(choices)) if choices else None


def _relation(cell: Cell, anchor: Cell) -> str | None:
    rows, columns = cell[0] - anchor[0], cell[1] - anchor[1]
    if rows == 0 and columns:
        return "left" if columns < 0 else "right"
    if columns == 0 and rows:
        return "above" if rows < 0 else "below"
    return None


def _relative(rng: random.Random, relation: str, anchor: Node, directly: bool = False) -> Node:
    words = rng.choice(RELATIONS[relation])
    adverb = ["RB " + rng.choice(("directly", "right", "just"))] if directly and relation in ("above", "below") else []
    if directly and not adverb:
        adverb = ["RB directly"]
    if len(words) == 1:
        return node("PP", *adverb, words[0], anchor)
    of = node("PP", "IN of", anchor)
    if len(words) == 2:
        return node("PP", *adverb, words[0], of)
    preposition, article = words[0].split(" ")
    side = node("NP", node("NP", f"DT {article}", words[1]), of)
    return node("PP", *adverb, f"IN {preposition}", side)


def location(rng: random.Random, cell: Cell, short: bool = False) -> Node:
    """Return a prepositional phrase for a cell: "in the top left corner"."""
    preposition, place = name_cell(rng, cell, short)
    return node("PP", f"IN {preposition}", place)


def name_cell(rng: random.Random, cell: Cell, short: bool = False) -> tuple[str, Node]:
    """Return a noun phrase for a cell, such as "the top left corner", and the preposition before it."""
    denotes = Denotation(cells=(cell,))
    row, column = ("top", None, "bottom")[cell[0]], ("left", None, "right")[cell[1]]
    if row and column:
        if short or rng.random() < 0.6:
            words = ["DT the", f"JJ {row}", f"JJ {column}"]
            if not short or rng.random() < 0.5:
                return "in", node("NP", *words, "NN corner", denotes=denotes)
            return "at", node("NP", *words[:2], f"NN {column}", denotes=denotes)
        outer = node("NP", "DT the", f"JJ {column}", "NN side", denotes=denotes)
        inner = node("NP", "DT the", f"NN {row}", denotes=denotes)
        return "at", node("NP", inner, node("PP", "IN of", outer), denotes=denotes)
    if not row and not column:
        return "in", node("NP", "DT the", "NN " + rng.choice(("center", "middle")), denotes=denotes)
    side = row or column
    if short or rng.random() < 0.6:
        words = ["DT the", f"JJ {side}", "NN middle"] if row else ["DT the", "JJ middle", f"NN {column}"]
        return rng.choice(("in", "at")), node("NP", *words, denotes=denotes)
    edge = node("NP", "DT the", f"JJ {side}", "NN edge", denotes=denotes)
    middle = node("NP", "DT the", "NN " + rng.choice(("middle", "center")), denotes=denotes)
    return "in", node("NP", middle, node("PP", "IN of", edge), denotes=denotes)


def destination(rng: random.Random, scene: Scene, cell: Cell) -> Node:
    """Return a prepositional phrase for a target cell: its name, or its relation to the thing next to it."""
    if rng.random() < 0.4:
        neighbours = []
        for anchor in scene.things:
            relation = _relation(cell, anchor.cell)
            steps = abs(anchor.cell[0] - cell[0]) + abs(anchor.cell[1] - cell[1])
            named = refer_by_adjectives(rng, scene, anchor) if steps == 1 else None
            if relation is not None and named is not None:
                neighbours.append((relation, named))
        if neighbours:
            return _relative(rng, *rng.choice(neighbours), directly=True)
    return location(rng, cell)


def backdrop(rng: random.Random, background: str, definite: bool = False, denoting: bool = False) -> Node:
    """Return a noun phrase for a background. `denoting`: it is the background of the reference image."""
    denotes = Denotation(background=denoting)
    article, *words = rng.choice(BACKDROPS[background])
    article = "the" if definite else article
    if words[-1] == "of bricks":
        inner = node("NP", *with_article(article, words[:-1]), denotes=denotes)
        return node("NP", inner, node("PP", "IN of", node("NP", "NNS bricks", denotes=denotes)), denotes=denotes)
    return node("NP", *with_article(article, list(words)), denotes=denotes)
