"""Differences between two scenes, and precision and recall of difference captions.

A difference has the fields of good4cir's third stage: `operation`, `text`, `source_object`, `target_object`. It
matches a true edit if the operation is of its kind and the names of the two objects fit its things. The text must also
have a word for every attribute that changed. Places are judged by the names of the objects only: a text may give them
by relations, which have no meaning outside of their scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextcir.scenes.edits import EDIT_OF, Edit, changed_attributes
from contextcir.scenes.phrases import MARKS, WORDS
from contextcir.scenes.reading import fits, read_backgrounds, read_thing
from contextcir.scenes.world import Scene, Thing

KIND_OF = EDIT_OF | {"cell": "move"}
OPERATIONS = {"add": ("add",), "remove": ("remove",)}  # all other kinds of edits are "modify" or "replace"
GROUPS = (*OPERATIONS, "change")
SIZE_WORDS = {
    "large": (*WORDS["large"], "larger", "bigger", "enlarge", "grow"),
    "small": (*WORDS["small"], "smaller", "shrink", "reduce"),
}


def edits_between(reference: Scene, target: Scene) -> list[Edit]:
    """
    Return edits that lead from one scene to another: one for each thing that differs, and one for the background.

    Two things in the same cell are a change. Of the other things, two with the same look are a move.
    `apply(reference, edits_between(reference, target)) == target` always holds.
    """
    removed = [thing for thing in reference.things if thing not in target.things]
    added = [thing for thing in target.things if thing not in reference.things]
    edits = []
    for alike in (lambda old, new: old.cell == new.cell, lambda old, new: old.look() == new.look()):
        for old in list(removed):
            new = next((new for new in added if alike(old, new)), None)
            if new is not None:
                removed.remove(old)
                added.remove(new)
                edits.append(Edit(_kind(old, new), old, new))
    edits += [Edit("remove", old=old) for old in removed] + [Edit("add", new=new) for new in added]
    if target.background != reference.background:
        edits.append(Edit("background", background=target.background))
    return edits


def operation(edit: Edit) -> str:
    """Return the operation of an edit in good4cir's terms: add, remove, modify or replace."""
    return edit.kind if edit.kind in OPERATIONS else "replace" if edit.kind in ("replace", "background") else "modify"


def _kind(old: Thing, new: Thing) -> str:
    names = changed_attributes(Edit("", old, new))
    return KIND_OF[names[0]] if len(names) == 1 else "replace"


@dataclass(frozen=True)
class Score:
    """
    Precision and recall of difference captions. Scores of several pairs can be added.

    Args:
        right (`int`): Captions that match a true edit; each edit counts once.
        given (`int`): All captions.
        true (`int`): All true edits.
    """

    right: int = 0
    given: int = 0
    true: int = 0

    @property
    def precision(self) -> float:
        """`float`: Share of the captions that are right; 0 if there are none."""
        return self.right / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        """`float`: Share of the true edits that a caption matches; 0 if there are none."""
        return self.right / self.true if self.true else 0.0

    def __add__(self, other: Score) -> Score:
        return Score(self.right + other.right, self.given + other.given, self.true + other.true)


def score_differences(differences: Iterable[Mapping[str, Any]], reference: Scene, target: Scene) -> Score:
    """
    Score the difference captions of an image pair.

    Args:
        differences (`Iterable[Mapping[str, Any]]`): With `operation` (add, remove, modify or replace), `text`, and
            `source_object` and `target_object` (names or `None`). Two captions of one edit count as one right caption.
        reference (`Scene`): The scene of the first image.
        target (`Scene`): The scene of the second image.

    Returns:
        [`Score`]
    """
    return sum(score_by_operation(differences, reference, target).values(), Score())


def score_by_operation(differences: Iterable[Mapping[str, Any]], reference: Scene, target: Scene) -> dict[str, Score]:
    """Score captions separately by operation: `add`, `remove` and `change` (modify or replace).

    A caption of one group never matches an edit of another. Arguments as for [`score_differences`].
    """
    differences, edits = list(differences), edits_between(reference, target)
    scores = {}
    for name in GROUPS:
        given = [difference for difference in differences if _group(difference["operation"]) == name]
        true = [edit for edit in edits if _group(operation(edit)) == name]
        matches = [[place for place, edit in enumerate(true) if describes(one, edit, reference)] for one in given]
        scores[name] = Score(_maximum_matching(matches), len(given), len(true))
    return scores


def _group(operation: str) -> str:
    return operation if operation in OPERATIONS else "change"


def describes(difference: Mapping[str, Any], edit: Edit, reference: Scene) -> bool:
    """Return whether a difference caption describes an edit of `reference`, as far as its words show."""
    if difference["operation"] not in OPERATIONS.get(edit.kind, ("modify", "replace")):
        return False
    text = difference["text"]
    if edit.kind == "background":  # removing a background leaves a plain one
        mentioned = read_backgrounds(text)
        removed = edit.background == "plain" and set(mentioned) == {reference.background}
        return removed or edit.background in mentioned
    objects = ((edit.old, difference["source_object"]), (edit.new, difference["target_object"]))
    if not all(_name_fits(name, thing) for thing, name in objects):
        return False
    attributes = {"add": ["shape"], "remove": [], "move": []}.get(edit.kind, changed_attributes(edit))
    words = set(re.findall("[a-z]+", text.lower()))
    return all(words & _words_for(edit, name) for name in attributes)


def _name_fits(name: str | None, thing: Thing | None) -> bool:
    if name is None or thing is None:
        return name is thing
    reading = read_thing(name)
    return "shape" in reading and fits(thing, reading)


def _words_for(edit: Edit, name: str) -> set[str]:
    """Return the words for the new value of an attribute. A text that describes the edit has at least one of them."""
    value = getattr(edit.new, name)
    if name == "size":
        return set(SIZE_WORDS[value])
    if name == "pattern":  # "remove the stripes" makes it plain
        return {*WORDS[value], *MARKS.get(value, ()), *(MARKS.get(edit.old.pattern, ()) if edit.old else ())}
    return {value}


def _maximum_matching(matches: Sequence[Sequence[int]]) -> int:
    """Return the size of the maximum matching of captions and edits, by augmenting paths.

    `matches` holds the numbers of the edits that each caption describes.
    """
    caption_of: dict[int, int] = {}  # edit -> its caption

    def assign(caption: int, seen: set[int]) -> bool:
        for edit in matches[caption]:
            if edit not in seen:
                seen.add(edit)
                if edit not in caption_of or assign(caption_of[edit], seen):
                    caption_of[edit] = caption
                    return True
        return False

    return sum(assign(caption, set()) for caption in range(len(matches)))
