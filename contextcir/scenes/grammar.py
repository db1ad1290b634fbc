"""Words for edits and scenes, in many ways, each with its gold constituency tree.

A referring expression ("the small red circle left of the star") is drawn so that it fits exactly one thing of the
reference scene. Meaning of the words: *left of* and *right of* speak of the same row, *above* and *below* of the same
column, *directly* of the next cell; corners, edges and the centre name the nine cells. What a text does not mention
stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .edits import Edit
from .trees import Denotation, Leaf, Node, node
from .world import Scene, Thing

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


def word_edits(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> list[Node]:
    """A modification text for `edits` on the reference `scene`, as one or several sentences.

    Args:
        rng (`random.Random`): Source of the wording.
        scene (`Scene`): The reference scene, which referring expressions are about.
        edits (sequence of `Edit`): At least one.

    Returns:
        `list[Node]`: constituency trees; `realise` gives the text and the noun phrases.
    """
    edits = list(edits)
    rng.shuffle(edits)
    clauses = []
    removed = [edit for edit in edits if edit.kind == "remove"]
    if len(removed) == 2 and rng.random() < 0.6:  # "remove the star and the ring"
        both = node(
            "NP",
            refer(rng, scene, removed[0].old),
            "CC and",
            refer(rng, scene, removed[1].old),
            denotes=Denotation(things=(removed[0].old, removed[1].old)),
        )
        clauses.append(_removal(rng, both))
        edits = [edit for edit in edits if edit.kind != "remove"]
    clauses += [_clause(rng, scene, edit) for edit in edits]
    touched = {edit.old for edit in edits} | {edit.old for edit in removed}
    untouched = [thing for thing in scene.things if thing not in touched]
    if untouched and rng.random() < 0.08:
        clauses.append(_left_alone(rng, scene, rng.choice(untouched)))
    return _punctuate(rng, _join(rng, clauses))


def describe(rng: random.Random, scene: Scene) -> list[Node]:
    """A full caption of a scene, as a web page would have one: what is where, in front of what."""
    things = list(scene.things)
    rng.shuffle(things)
    parts: list[Node | str] = []
    for place, thing in enumerate(things):
        if place and place == len(things) - 1:
            parts += [","] if rng.random() < 0.5 else []
            parts.append("CC and")
        elif place:
            parts.append(",")
        parts.append(node("NP", indefinite(rng, thing), _location(rng, thing.cell, short=True)))
    parts = [", ," if part == "," else part for part in parts]
    behind = _backdrop(rng, scene.background)
    where = node("PP", "IN " + rng.choice(("on", "against")), behind)
    if rng.random() < 0.5:
        return [node("NP", node("NP", *parts) if len(parts) > 1 else parts[0], where)]
    return [node("NP", behind, node("PP", "IN with", node("NP", *parts) if len(parts) > 1 else parts[0]))]


# --- noun phrases ---------------------------------------------------------------------------------------------------


def refer(rng: random.Random, scene: Scene, thing: Thing, modifiers: bool = True) -> Node | None:
    """A noun phrase that fits `thing` and nothing else in the scene.

    With `modifiers=False` adjectives alone must do, and None says that they cannot.
    """
    wanted = [name for name, chance in (("colour", 0.8), ("size", 0.35), ("pattern", 0.35)) if rng.random() < chance]
    if not modifiers:
        wanted = ["colour", "size", "pattern"]
    generic = rng.random() < 0.08 and len(wanted) > 0
    names = wanted if generic else ["shape", *wanted]
    twins = [other for other in scene.things if _alike(other, thing, names) and other != thing]
    for name in (*rng.sample(("colour", "size", "pattern"), 3), "shape"):
        if twins and name not in names:
            names.append(name)
            twins = [other for other in twins if _alike(other, thing, names)]
    base = _base(rng, thing, names, "the")
    if not modifiers:
        return None if twins else base
    if not twins and rng.random() < 0.75:
        return base
    modifier = None
    if rng.random() < 0.6:
        modifier = _relation_that_tells(rng, scene, thing, twins)
    modifier = modifier or _location(rng, thing.cell)
    if rng.random() < 0.25:
        verb = rng.choice(("VBZ is", "VBZ sits"))
        modifier = node(
            "SBAR", node("WHNP", rng.choice(("WDT that", "WDT which"))), node("S", node("VP", verb, modifier))
        )
    return node("NP", base, modifier, denotes=base.denotes)


def indefinite(rng: random.Random, thing: Thing, article: str = "a") -> Node:
    """A full description of a thing that need not be there: "a large striped green heart"."""
    names = ["shape", "colour", "size"] + (["pattern"] if thing.pattern != "plain" or rng.random() < 0.3 else [])
    return _base(rng, thing, names, article, denoting=False)


def _alike(one: Thing, other: Thing, names: Sequence[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _base(rng: random.Random, thing: Thing, names: Sequence[str], article: str, denoting: bool = True) -> Node:
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
    inner = node("NP", *_article(article, words), denotes=denotes)
    return inner if trailing is None else node("NP", inner, trailing, denotes=denotes)


def _article(article: str, words: list[str]) -> list[str]:
    if not article:
        return words
    if article == "a" and words[0].split(" ")[1][0] in "aeiou":
        article = "an"
    return ["DT " + article, *words]


def _relation_that_tells(rng: random.Random, scene: Scene, thing: Thing, twins: Sequence[Thing]) -> Node | None:
    """A relation to something else that holds for `thing` and for none of its twins."""
    choices = []
    for anchor in scene.things:
        relation = _relation(thing, anchor)
        if relation and all(_relation(twin, anchor) != relation for twin in twins):
            named = refer(rng, scene, anchor, modifiers=False)
            if named is not None:
                choices.append((relation, named))
    return _relative(rng, *rng.choice(choices)) if choices else None


def _relation(thing: Thing, anchor: Thing) -> str | None:
    rows, columns = thing.cell[0] - anchor.cell[0], thing.cell[1] - anchor.cell[1]
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


def _location(rng: random.Random, cell: tuple[int, int], short: bool = False) -> Node:
    """A prepositional phrase for a cell: "in the top left corner"."""
    denotes = Denotation(cells=(cell,))
    row, column = ("top", None, "bottom")[cell[0]], ("left", None, "right")[cell[1]]
    if row and column:
        if short or rng.random() < 0.6:
            preposition, words = "in", ["DT the", f"JJ {row}", f"JJ {column}"]
            if not short or rng.random() < 0.5:
                words.append("NN corner")
            else:
                preposition, words[-1] = "at", f"NN {column}"
            return node("PP", f"IN {preposition}", node("NP", *words, denotes=denotes))
        outer = node("NP", "DT the", f"JJ {column}", "NN side", denotes=denotes)
        inner = node("NP", "DT the", f"NN {row}", denotes=denotes)
        return node("PP", "IN at", node("NP", inner, node("PP", "IN of", outer), denotes=denotes))
    if not row and not column:
        return node("PP", "IN in", node("NP", "DT the", "NN " + rng.choice(("center", "middle")), denotes=denotes))
    side = row or column
    if short or rng.random() < 0.6:
        words = ["DT the", f"JJ {side}", "NN middle"] if row else ["DT the", "JJ middle", f"NN {column}"]
        return node("PP", "IN " + rng.choice(("in", "at")), node("NP", *words, denotes=denotes))
    edge = node("NP", "DT the", f"JJ {side}", "NN edge", denotes=denotes)
    middle = node("NP", "DT the", "NN " + rng.choice(("middle", "center")), denotes=denotes)
    return node("PP", "IN in", node("NP", middle, node("PP", "IN of", edge), denotes=denotes))


def _place(rng: random.Random, scene: Scene, cell: tuple[int, int]) -> Node:
    """Where something is to go: a cell by name, or by the thing next to it."""
    if rng.random() < 0.4:
        neighbours = []
        for anchor in scene.things:
            steps = abs(anchor.cell[0] - cell[0]) + abs(anchor.cell[1] - cell[1])
            named = refer(rng, scene, anchor, modifiers=False) if steps == 1 else None
            if named is not None:
                neighbours.append((_relation(Thing(cell, "", "", "", ""), anchor), named))
        if neighbours:
            return _relative(rng, *rng.choice(neighbours), directly=True)
    return _location(rng, cell)


def _backdrop(rng: random.Random, background: str, definite: bool = False, there: bool = False) -> Node:
    """A noun phrase for a background; `there` says that it is the one in the reference image."""
    denotes = Denotation(background=there)
    article, *words = rng.choice(BACKDROPS[background])
    article = "the" if definite else article
    if words[-1] == "of bricks":
        inner = node("NP", *_article(article, words[:-1]), denotes=denotes)
        return node("NP", inner, node("PP", "IN of", node("NP", "NNS bricks", denotes=denotes)), denotes=denotes)
    return node("NP", *_article(article, list(words)), denotes=denotes)


# --- clauses: an imperative VP or a declarative S for each edit -----------------------------------------------------


def _clause(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    return {
        "recolour": _recolouring,
        "resize": _resizing,
        "repattern": _repatterning,
        "replace": _replacement,
        "add": _addition,
        "remove": lambda rng, scene, edit: _removal(rng, refer(rng, scene, edit.old)),
        "move": _movement,
        "background": _new_background,
    }[edit.kind](rng, scene, edit)


def _verb(rng: random.Random, *verbs: str) -> str:
    return "VB " + rng.choice(verbs)


def _becoming(rng: random.Random, subject: Node, adjective: str) -> Node:
    """Ways to say that something takes on an adjective."""
    quality = node("ADJP", "JJ " + adjective)
    way = rng.randrange(4)
    if way == 0:
        return node("S", subject, node("VP", "MD should", node("VP", "VB be", quality)))
    if way == 1:
        return node("S", subject, node("VP", "VBZ is", node("ADVP", "RB now"), quality))
    return node("VP", _verb(rng, "make", "make", "turn"), node("S", subject, quality))


def _one(rng: random.Random, adjective: str) -> Node:
    return node("NP", *_article("a", ["JJ " + adjective, "NN one"]))


def _swapped(rng: random.Random, old: Node, new: Node) -> Node:
    """Ways to say that something takes the place of something."""
    way = rng.randrange(6)
    if way <= 1:
        return node("VP", "VB replace", old, node("PP", "IN with", new))
    if way <= 3:
        return node("VP", _verb(rng, "swap", "exchange"), old, node("PP", "IN for", new))
    if way == 4:
        return node("VP", "VB substitute", new, node("PP", "IN for", old))
    place = node("PP", "IN in", node("NP", node("NP", "NN place"), node("PP", "IN of", old)))
    return node("VP", _verb(rng, "put", "use"), new, place)


def _recolouring(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    thing = refer(rng, scene, edit.old)
    colour = edit.new.colour
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


def _resizing(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    thing = refer(rng, scene, edit.old)
    grows = edit.new.size == "large"
    comparative = rng.choice(("larger", "bigger")) if grows else "smaller"
    way = rng.randrange(6)
    if way == 0:
        return node("VP", _verb(rng, "enlarge", "grow") if grows else _verb(rng, "shrink", "reduce"), thing)
    if way == 1:
        return _swapped(rng, thing, node("NP", "DT a", "JJR " + comparative, "NN one"))
    if way == 2:
        return _becoming(rng, thing, rng.choice(WORDS[edit.new.size]))
    return node("VP", "VB make", node("S", thing, node("ADJP", "JJR " + comparative)))


def _repatterning(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    thing = refer(rng, scene, edit.old)
    pattern = edit.new.pattern
    word = rng.choice(WORDS[pattern])
    way = rng.randrange(6)
    if way == 0:
        return _swapped(rng, thing, _one(rng, word))
    if way == 1:
        return node("VP", "VB give", thing, node("NP", "DT a", "JJ " + word, "NN " + rng.choice(("pattern", "fill"))))
    if pattern == "plain":
        if way == 2:
            marks = node("NP", "DT the", "NNS " + rng.choice(MARKS[edit.old.pattern]), denotes=thing.denotes)
            return node("VP", _verb(rng, "remove", "erase"), marks, node("PP", "IN from", thing))
    elif way == 2:
        return node("VP", "VB cover", thing, node("PP", "IN with", node("NP", "NNS " + rng.choice(MARKS[pattern]))))
    elif way == 3:
        marks = node("NP", "NNS " + rng.choice(MARKS[pattern]))
        return node("VP", _verb(rng, "put", "draw"), marks, node("PP", "IN on", thing))
    return _becoming(rng, thing, word)


def _replacement(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    names = ["shape"] + [name for name in ("colour", "pattern") if getattr(edit.new, name) != getattr(edit.old, name)]
    new = _base(rng, edit.new, names, "a", denoting=False)
    old = refer(rng, scene, edit.old)
    way = rng.randrange(6)
    if way == 0:
        return node("VP", "VB turn", old, node("PP", "IN into", new))
    if way == 1:
        place = node("NP", node("NP", "DT the", "NN place"), node("PP", "IN of", old), denotes=old.denotes)
        return node("S", new, node("VP", "VBZ takes", place))
    return _swapped(rng, old, new)


def _addition(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    twin = any(thing.look() == edit.new.look() for thing in scene.things)
    article = "another" if twin and rng.random() < 0.8 else "a"
    new = indefinite(rng, edit.new, article)
    where = _place(rng, scene, edit.new.cell)
    way = rng.randrange(7)
    if way == 0:
        be = node("VP", "VB be", new, where)
        return node("S", node("NP", "EX there"), node("VP", "MD should", be))
    if way == 1:
        return node("S", new, node("VP", "VBZ appears", where))
    return node("VP", _verb(rng, "add", "add", "put", "place", "draw", "insert"), new, where)


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


def _movement(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    thing = refer(rng, scene, edit.old)
    if rng.random() < 0.7:
        where = _location(rng, edit.new.cell)
        target = node("PP", "IN to", where.children[1])
        if rng.random() < 0.2:
            return node("S", thing, node("VP", rng.choice(("VBZ moves", "VBZ goes")), target))
        return node("VP", _verb(rng, "move", "move", "shift", "bring"), thing, target)
    return node("VP", _verb(rng, "put", "place", "move"), thing, _place(rng, scene, edit.new.cell))


def _new_background(rng: random.Random, scene: Scene, edit: Edit) -> Node:
    background = node("NP", "DT the", "NN background", denotes=Denotation(background=True))
    new = _backdrop(rng, edit.background)
    old = _backdrop(rng, scene.background, definite=True, there=True)
    if rng.random() < 0.4:
        inside = node("PP", "IN in", background)
        if scene.things and rng.random() < 0.5:
            anchor = refer(rng, scene, rng.choice(scene.things))
            inside = node("PP", "IN behind", anchor)
        old = node("NP", old, inside, denotes=old.denotes)
    way = rng.randrange(7)
    if edit.background == "plain" and way <= 3:  # to a blank wall: what was there is taken away
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


def _left_alone(rng: random.Random, scene: Scene, thing: Thing) -> Node:
    named = refer(rng, scene, thing)
    if rng.random() < 0.5:
        return node("VP", "VB leave", node("S", named, node("ADJP", "JJ alone")))
    is_ = node("SBAR", "IN as", node("S", node("NP", "PRP it"), node("VP", "VBZ is")))
    return node("VP", "VB keep", named, is_)


# --- sentences ------------------------------------------------------------------------------------------------------


def _join(rng: random.Random, clauses: list[Node]) -> list[Node]:
    """Clauses to sentences: one long sentence, or several shorter ones."""
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
    """Final periods (needed between sentences) and capitals, or neither, as people type."""
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
