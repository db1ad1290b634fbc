"""What differs between two scenes, and how much of it a list of difference captions tells: precision and recall.

A difference is structured as good4cir's third stage gives it: `operation`, `text`, `source_object`, `target_object`.
It tells a true edit if the operation is of its kind, what it calls the two objects fits them, and its text has a word
for everything that changed about them. Places are judged by the objects' names only: a text may give them by
relations, which mean nothing outside of their scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextcir.scenes.edits import EDIT_OF, Edit
from contextcir.scenes.phrases import MARKS, WORDS
from contextcir.scenes.reading import fits, read_backgrounds, read_thing
from contextcir.scenes.world import Scene, Thing

ATTRIBUTES = ("cell", "shape", "colour", "size", "pattern")
KIND_OF = EDIT_OF | {"cell": "move"}
OPERATIONS = {"add": ("add",), "remove": ("remove",)}  # any other kind of edit modifies something or replaces it
GROUPS = (*OPERATIONS, "change")
SIZE_WORDS = {
    "large": (*WORDS["large"], "larger", "bigger", "enlarge", "grow"),
    "small": (*WORDS["small"], "smaller", "shrink", "reduce"),
}


def edits_between(reference: Scene, target: Scene) -> list[Edit]:
    """
    Edits that lead from one scene to another, one for each thing that differs, and for the background.

    What stands in one cell in both has changed there; of the rest, what looks the same has moved.
    `apply(reference, edits_between(reference, target)) == target` always holds.
    """
    gone = [thing for thing in reference.things if thing not in target.things]
    come = [thing for thing in target.things if thing not in reference.things]
    edits = []
    for alike in (lambda old, new: old.cell == new.cell, lambda old, new: old.look() == new.look()):
        for old in list(gone):
            new = next((new for new in come if alike(old, new)), None)
            if new is not None:
                gone.remove(old)
                come.remove(new)
                edits.append(Edit(_kind(old, new), old, new))
    edits += [Edit("remove", old=old) for old in gone] + [Edit("add", new=new) for new in come]
    if target.background != reference.background:
        edits.append(Edit("background", background=target.background))
    return edits


def changed(edit: Edit) -> list[str]:
    """The attributes of a thing that an edit changes; all for what comes or goes, none for the background."""
    return [name for name in ATTRIBUTES if getattr(edit.old, name, None) != getattr(edit.new, name, None)]


def operation(edit: Edit) -> str:
    """The edit's `operation` in good4cir's words: add, remove, modify or replace."""
    return edit.kind if edit.kind in OPERATIONS else "replace" if edit.kind in ("replace", "background") else "modify"


def _kind(old: Thing, new: Thing) -> str:
    names = changed(Edit("", old, new))
    return KIND_OF[names[0]] if len(names) == 1 else "replace"


@dataclass(frozen=True)
class Score:
    """
    How well difference captions tell what differs; scores of several pairs add up.

    Args:
        right (`int`): Captions that tell a true edit, each another one.
        given (`int`): All captions.
        true (`int`): All true edits.
    """

    right: int = 0
    given: int = 0
    true: int = 0

    @property
    def precision(self) -> float:
        """`float`: Share of the captions that are right; 0 where there are none."""
        return self.right / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        """`float`: Share of the true edits that are told; 0 where there are none."""
        return self.right / self.true if self.true else 0.0

    def __add__(self, other: Score) -> Score:
        return Score(self.right + other.right, self.given + other.given, self.true + other.true)


def score_differences(differences: Iterable[Mapping[str, Any]], reference: Scene, target: Scene) -> Score:
    """
    Compare the difference captions of a pair with the truth.

    Args:
        differences (iterable of mappings):
            With `operation` (add, remove, modify or replace), `text`, and `source_object` and `target_object` (names,
            or `None`). Saying the same twice is right once.
        reference (`Scene`): What the first image shows.
        target (`Scene`): What the second image shows.

    Returns:
        [`Score`]
    """
    return sum(score_by_operation(differences, reference, target).values(), Score())


def score_by_operation(differences: Iterable[Mapping[str, Any]], reference: Scene, target: Scene) -> dict[str, Score]:
    """[`score_differences`] apart for what is added, removed and changed (modified or replaced): a caption of one
    never tells an edit of another."""
    differences, edits = list(differences), edits_between(reference, target)
    scores = {}
    for name in GROUPS:
        given = [difference for difference in differences if _group(difference["operation"]) == name]
        true = [edit for edit in edits if _group(operation(edit)) == name]
        told = [[place for place, edit in enumerate(true) if tells(one, edit, reference)] for one in given]
        scores[name] = Score(_most_pairs(told), len(given), len(true))
    return scores


def _group(operation: str) -> str:
    return operation if operation in OPERATIONS else "change"


def tells(difference: Mapping[str, Any], edit: Edit, reference: Scene) -> bool:
    """Whether a difference caption tells an edit of `reference`, as far as its words can show."""
    if difference["operation"] not in OPERATIONS.get(edit.kind, ("modify", "replace")):
        return False
    text = difference["text"]
    if edit.kind == "background":  # a background that is only taken away leaves a plain one
        spoken_of = read_backgrounds(text)
        taken_away = edit.background == "plain" and set(spoken_of) == {reference.background}
        return taken_away or edit.background in spoken_of
    objects = ((edit.old, difference["source_object"]), (edit.new, difference["target_object"]))
    if not all(_names(name, thing) for thing, name in objects):
        return False
    named = {"add": ["shape"], "remove": [], "move": []}.get(edit.kind, changed(edit))
    words = set(re.findall("[a-z]+", text.lower()))
    return all(words & _words_for(edit, name) for name in named)


def _names(name: str | None, thing: Thing | None) -> bool:
    if name is None or thing is None:
        return name is thing
    reading = read_thing(name)
    return "shape" in reading and fits(thing, reading)


def _words_for(edit: Edit, name: str) -> set[str]:
    """The words of which a text has at least one that gives something a new value for an attribute."""
    value = getattr(edit.new, name)
    if name == "size":
        return set(SIZE_WORDS[value])
    if name == "pattern":  # "remove the stripes" makes it plain
        return {*WORDS[value], *MARKS.get(value, ()), *(MARKS.get(edit.old.pattern, ()) if edit.old else ())}
    return {value}


def _most_pairs(told: Sequence[Sequence[int]]) -> int:
    """The largest number of captions that can each be given an edit of its own (augmenting paths)."""
    teller: dict[int, int] = {}  # edit -> the caption that tells it

    def settle(caption: int, seen: set[int]) -> bool:
        for edit in told[caption]:
            if edit not in seen:
                seen.add(edit)
                if edit not in teller or settle(teller[edit], seen):
                    teller[edit] = caption
                    return True
        return False

    return sum(settle(caption, set()) for caption in range(len(told)))
