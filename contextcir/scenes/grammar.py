"""Modification texts for edits and captions for scenes, in many wordings, with gold constituency trees.

A text mentions only what changes; everything else stays as it is. `phrases` builds the noun phrases; this file builds
clauses and sentences.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from contextcir.scenes.edits import Edit
from contextcir.scenes.phrases import (
    MARKS,
    WORDS,
    backdrop,
    describe_thing,
    destination,
    indefinite,
    location,
    name_cell,
    refer,
    with_article,
)
from contextcir.scenes.trees import Denotation, Leaf, Node, node
from contextcir.scenes.world import Scene, Thing


def word_edits(rng: random.Random, scene: Scene, edits: Sequence[Edit], kept: Thing | None = None) -> list[Node]:
    """Word edits of a scene as a modification text of one or two sentences.

    Args:
        rng (`random.Random`): Source of the wording.
        scene (`Scene`): The reference scene. Referring expressions are unique in it.
        edits (`Sequence[Edit]`): At least one.
        kept (`Thing`, *optional*): A thing that no edit changes. The text says that it stays as it is.

    Returns:
        `list[Node]`: Constituency trees; `realise` gives the text and the noun phrases.
    """
    edits = list(edits)
    rng.shuffle(edits)
    clauses = []
    removed = [edit.old for edit in edits if edit.kind == "remove" and edit.old]
    if len(removed) == 2 and rng.random() < 0.6:  # "remove the star and the ring"
        one, other = (refer(rng, scene, thing) for thing in removed)
        clauses.append(_removal(rng, node("NP", one, "CC and", other, denotes=Denotation(things=tuple(removed)))))
        edits = [edit for edit in edits if edit.kind != "remove"]
    clauses += [_clause(rng, scene, edit) for edit in edits]
    if kept is not None:
        clauses.append(_keeping(rng, scene, kept))
    return _punctuate(rng, _join(rng, clauses))


def describe(rng: random.Random, scene: Scene) -> list[Node]:
    """Return a full caption of a scene: every thing with its place, and the background."""
    things = list(scene.things)
    rng.shuffle(things)
    parts: list[Node | str] = []
    for place, thing in enumerate(things):
        if place and place == len(things) - 1:
            parts += [", ,"] if rng.random() < 0.5 else []
            parts.append("CC and")
        elif place:
            parts.append(", ,")
        parts.append(node("NP", indefinite(rng, thing), location(rng, thing.cell, short=True)))
    behind = backdrop(rng, scene.background)
    where = node("PP", "IN " + rng.choice(("on", "against")), behind)
    if rng.random() < 0.5:
        return [node("NP", node("NP", *parts) if len(parts) > 1 else parts[0], where)]
    return [node("NP", behind, node("PP", "IN with", node("NP", *parts) if len(parts) > 1 else parts[0]))]


# --- clauses: an imperative VP or a declarative S for each edit -----------------------------------------------------


def _clause(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    old, new = edit.old, edit.new
    if old and new:
        return CHANGES[edit.kind](rng, scene, old, new)
    if old:
        return _removal(rng, refer(rng, scene, old))
    if new:
        return _addition(rng, scene, new)
    if edit.background:
        return _new_background(rng, scene, edit.background)
    raise ValueError(f"Got {edit}, expected an edit with old, new or background.")


def _verb(rng: random.Random, *verbs: str) -> str:
    return "VB " + rng.choice(verbs)


def _becoming(rng: random.Random, subject: Node, adjective: str) -> Node:
    """Word that something gets a property."""
    quality = node("ADJP", "JJ " + adjective)
    way = rng.randrange(4)
    if way == 0:
        return node("S", subject, node("VP", "MD should", node("VP", "VB be", quality)))
    if way == 1:
        return node("S", subject, node("VP", "VBZ is", node("ADVP", "RB now"), quality))
    return node("VP", _verb(rng, "make", "make", "turn"), node("S", subject, quality))


def _one(rng: random.Random, adjective: str) -> Node:
    return node("NP", *with_article("a", ["JJ " + adjective, "NN one"]))


def _swapped(rng: random.Random, old: Node, new: Node) -> Node:
    """Word that something replaces something."""
    way = rng.randrange(6)
    if way <= 1:
        return node("VP", "VB replace", old, node("PP", "IN with", new))
    if way <= 3:
        return node("VP", _verb(rng, "swap", "exchange"), old, node("PP", "IN for", new))
    if way == 4:
        return node("VP", "VB substitute", new, node("PP", "IN for", old))
    place = node("PP", "IN in", node("NP", node("NP", "NN place"), node("PP", "IN of", old)))
    return node("VP", _verb(rng, "put", "use"), new, place)


def _recolouring(rng: random.Random, scene: Scene, old: Thing, new: Thing) -> Node:
    thing = refer(rng, scene, old)
    colour = new.colour
    way = rng.randrange(6)
    if way == 0:
        return _swapped(rng, thing, _one(rng, colour))
    if way == 1:
        color = node("NP", node("NP", "DT the", "NN color", denotes=thing.denotes), node("PP", "IN of", thing),
                     denotes=thing.denotes)  # fmt: skip
        return node("VP", "VB change", color, node("PP", "IN to", node("NP", "NN " + colour)))
    if way == 2:
        return node("VP", _verb(rng, "paint", "color"), node("S", thing, node("ADJP", "JJ " + colour)))
    return _becoming(rng, thing, colour)


def _resizing(rng: random.Random, scene: Scene, old: Thing, new: Thing) -> Node:
    thing = refer(rng, scene, old)
    grows = new.size == "large"
    comparative = rng.choice(("larger", "bigger")) if grows else "smaller"
    way = rng.randrange(6)
    if way == 0:
        return node("VP", _verb(rng, "enlarge", "grow") if grows else _verb(rng, "shrink", "reduce"), thing)
    if way == 1:
        return _swapped(rng, thing, node("NP", "DT a", "JJR " + comparative, "NN one"))
    if way == 2:
        return _becoming(rng, thing, rng.choice(WORDS[new.size]))
    return node("VP", "VB make", node("S", thing, node("ADJP", "JJR " + comparative)))


def _repatterning(rng: random.Random, scene: Scene, old: Thing, new: Thing) -> Node:
    thing = refer(rng, scene, old)
    pattern = new.pattern
    word = rng.choice(WORDS[pattern])
    way = rng.randrange(6)
    if way == 0:
        return _swapped(rng, thing, _one(rng, word))
    if way == 1:
        return node("VP", "VB give", thing, node("NP", "DT a", "JJ " + word, "NN " + rng.choice(("pattern", "fill"))))
    if pattern == "plain":
        if way == 2:
            marks = node("NP", "DT the", "NNS " + rng.choice(MARKS[old.pattern]), denotes=thing.denotes)
            return node("VP", _verb(rng, "remove", "erase"), marks, node("PP", "IN from", thing))
    elif way == 2:
        return node("VP", "VB cover", thing, node("PP", "IN with", node("NP", "NNS " + rng.choice(MARKS[pattern]))))
    elif way == 3:
        marks = node("NP", "NNS " + rng.choice(MARKS[pattern]))
        return node("VP", _verb(rng, "put", "draw"), marks, node("PP", "IN on", thing))
    return _becoming(rng, thing, word)


def _replacement(rng: random.Random, scene: Scene, old: Thing, new: Thing) -> Node:
    names = ["shape"] + [name for name in ("colour", "pattern") if getattr(new, name) != getattr(old, name)]
    after = describe_thing(rng, new, names, "a", denoting=False)
    before = refer(rng, scene, old)
    way = rng.randrange(6)
    if way == 0:
        return node("VP", "VB turn", before, node("PP", "IN into", after))
    if way == 1:
        place = node("NP", node("NP", "DT the", "NN place"), node("PP", "IN of", before), denotes=before.denotes)
        return node("S", after, node("VP", "VBZ takes", place))
    return _swapped(rng, before, after)


def _addition(rng: random.Random, scene: Scene, new: Thing) -> Node:
    has_twin = any(thing.look() == new.look() for thing in scene.things)
    article = "another" if has_twin and rng.random() < 0.8 else "a"
    added = indefinite(rng, new, article)
    where = destination(rng, scene, new.cell)
    way = rng.randrange(7)
    if way == 0:
        be = node("VP", "VB be", added, where)
        return node("S", node("NP", "EX there"), node("VP", "MD should", be))
    if way == 1:
        return node("S", added, node("VP", "VBZ appears", where))
    return node("VP", _verb(rng, "add", "add", "put", "place", "draw", "insert"), added, where)


def _removal(rng: random.Random, thing: Node) -> Node:
    way = rng.randrange(7)
    if way == 0:
        return node("VP", "VB take", thing, node("ADVP", "RB away"))
    if way == 1:
        rid = node("PP", "IN of", thing)
        return node("VP", "VB get", node("ADJP", "JJ rid", rid))
    if way == 2:
        goes = _verb(rng, "disappear", "go", "vanish")
        return node("S", thing, node("VP", "MD should", node("VP", goes)))
    return node("VP", _verb(rng, "remove", "remove", "delete", "erase"), thing)


def _movement(rng: random.Random, scene: Scene, old: Thing, new: Thing) -> Node:
    thing = refer(rng, scene, old)
    if rng.random() < 0.7:
        _, place = name_cell(rng, new.cell)
        target = node("PP", "IN to", place)
        if rng.random() < 0.2:
            return node("S", thing, node("VP", rng.choice(("VBZ moves", "VBZ goes")), target))
        return node("VP", _verb(rng, "move", "move", "shift", "bring"), thing, target)
    return node("VP", _verb(rng, "put", "place", "move"), thing, destination(rng, scene, new.cell))


CHANGES: dict[str, Callable[[random.Random, Scene, Thing, Thing], Node]] = {  # kind of edit -> clause for old and new
    "recolour": _recolouring,
    "resize": _resizing,
    "repattern": _repatterning,
    "replace": _replacement,
    "move": _movement,
}


def _new_background(rng: random.Random, scene: Scene, changed_to: str) -> Node:
    background = node("NP", "DT the", "NN background", denotes=Denotation(background=True))
    new = backdrop(rng, changed_to)
    old = backdrop(rng, scene.background, definite=True, denoting=True)
    if rng.random() < 0.4:
        inside = node("PP", "IN in", background)
        if scene.things and rng.random() < 0.5:
            anchor = refer(rng, scene, rng.choice(scene.things))
            inside = node("PP", "IN behind", anchor)
        old = node("NP", old, inside, denotes=old.denotes)
    way = rng.randrange(7)
    if changed_to == "plain" and way <= 3:  # a plain background is what remains when the old one is removed
        return node("VP", _verb(rng, "remove", "drop", "erase"), old)
    if way == 0:
        return node("VP", "VB change", background, node("PP", "IN to", new))
    if way == 1:
        everything = node("NP", "NN everything", denotes=Denotation(things=scene.things))
        return node("VP", _verb(rng, "put", "set", "show"), everything, node("PP", "IN against", new))
    if way == 2:
        return node("VP", "VB make", node("S", background, new))
    if way == 3:
        return node("VP", "VB use", new, node("PP", "IN as", background))
    return _swapped(rng, old, new)


def _keeping(rng: random.Random, scene: Scene, thing: Thing) -> Node:
    named = refer(rng, scene, thing)
    way = rng.randrange(3)
    if way == 0:
        return node("VP", "VBP do", "RB not", node("VP", "VB change", named))
    if way == 1:
        return node("VP", "VB leave", node("S", named, node("ADJP", "JJ alone")))
    is_ = node("SBAR", "IN as", node("S", node("NP", "PRP it"), node("VP", "VBZ is")))
    return node("VP", "VB keep", named, is_)


# --- sentences ------------------------------------------------------------------------------------------------------


def _join(rng: random.Random, clauses: list[Node]) -> list[Node]:
    """Join clauses to one long sentence or two shorter ones."""
    groups = [clauses]
    if len(clauses) > 1 and rng.random() < 0.3:
        cut = rng.randint(1, len(clauses) - 1)
        groups = [clauses[:cut], clauses[cut:]]
    return [_sentence(rng, group) for group in groups]


def _sentence(rng: random.Random, clauses: list[Node]) -> Node:
    imperative = all(clause.label == "VP" for clause in clauses)
    if len(clauses) == 1:
        return clauses[0] if clauses[0].label == "S" else node("S", clauses[0])
    parts = clauses if imperative else [c if c.label == "S" else node("S", c) for c in clauses]
    separator = rng.choice((", ,", ", ,", ": ;"))
    joined: list[Node | str] = []
    for place, part in enumerate(parts):
        if place == len(parts) - 1:
            if separator == ": ;" or (len(parts) > 2 and rng.random() < 0.3):
                joined.append(separator)
            joined.append("CC and")
            if rng.random() < 0.2:
                joined.append(node("ADVP", "RB " + rng.choice(("then", "also"))))
        elif place:
            joined.append(separator)
        joined.append(part)
    return node("S", node("VP", *joined)) if imperative else node("S", *joined)


def _punctuate(rng: random.Random, sentences: list[Node]) -> list[Node]:
    """Add final periods (always between sentences) and capitals, each with probability 0.4."""
    stop = rng.random() < 0.4
    capital = rng.random() < 0.4
    finished = []
    for place, sentence in enumerate(sentences):
        if capital:
            sentence = _capitalised(sentence)
        if stop or place < len(sentences) - 1:
            sentence = Node(sentence.label, (*sentence.children, Leaf(".", ".")))
        finished.append(sentence)
    return finished


def _capitalised(tree: Node) -> Node:
    first, *rest = tree.children
    if isinstance(first, Leaf):
        first = Leaf(first.tag, first.word[0].upper() + first.word[1:])
    else:
        first = _capitalised(first)
    return Node(tree.label, (first, *rest), tree.denotes)
