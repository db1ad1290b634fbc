"""What the oracle answers to ImageScope: a target's descriptions, propositions about it, and judgements of candidates.

What a query asks for is known from the truth's queries, by its text and reference; what a text or a dialogue describes
in full is read from it. Of any other query, the oracle uses the things and backgrounds that the text introduces
("a red star"), and its bare words where there are none. The reasoner does not see the reference: it changes the scene
of the given caption, errors included. Propositions are questions that the verifier can read back: whether a thing is
there, or a background.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

from contextcir.scenes.differences import edits_between
from contextcir.scenes.edits import Edit
from contextcir.scenes.grammar import describe
from contextcir.scenes.oracle.captioning import in_words
from contextcir.scenes.oracle.faults import Faults, mistake
from contextcir.scenes.oracle.questions import BadRequestError, Question
from contextcir.scenes.phrases import backdrop, described, location
from contextcir.scenes.reading import (
    Reading,
    as_scene,
    as_thing,
    fits,
    mentions,
    read_backgrounds,
    read_caption,
    read_writing,
)
from contextcir.scenes.trees import realise
from contextcir.scenes.truth import Picture, TrueQuery
from contextcir.scenes.world import CELLS, Scene, Thing

KINDS = {"add": "addition", "remove": "removal", "resize": "comparison"}  # all other edits are modifications
COMMANDS = {"yes": True, "accept": True, "no": False, "reject": False}
Claim = tuple[str, bool]  # a yes/no question and whether it is to be answered by yes


def reasoning(question: Question, faults: Faults) -> dict[str, Any]:
    """The parts of an instruction or a dialogue, and three descriptions of the target, each with more details."""
    rng, text = question.rng, _text(question)
    reference = read_caption(question.data("reference_caption"))
    target = _target(question, reference)
    steps = [{"part": text, "kind": "modification" if reference else "addition", "affects": "the image"}]
    if target is None:
        before = question.data("reference_caption") or question.data("previous_description")
        everything = f"{before}, {text}" if before else text
        return {"steps": steps, "core": text, "detailed": text, "comprehensive": everything}
    edits = edits_between(reference, target) if reference else []
    if edits:
        steps = [_step(rng, reference, edit) for edit in edits]
    scene = mistake(rng, target) if rng.random() < faults.reasoning_wrong else target
    new = {edit.new for edit in edits}
    things = sorted(rng.sample(scene.things, len(scene.things)), key=lambda thing: thing not in new)  # the new first
    core = max(1, sum(thing in new for thing in things))
    counts = {"core": core, "detailed": (core + len(things) + 1) // 2, "comprehensive": len(things)}
    said = {level: realise(describe(rng, scene.with_things(things[:n])))[0] for level, n in counts.items()}
    return {"steps": steps, **said}


def propositions(question: Question, faults: Faults) -> dict[str, Any]:
    """Yes/no questions that the target answers as expected."""
    rng = question.rng
    reference = read_caption(question.data("reference_caption"))
    target = _target(question, reference)
    if target is None:
        claims = _claims_of_words(rng, _text(question) or question.data("previous_description"))
    elif reference and target != reference:
        claims = [claim for edit in edits_between(reference, target) for claim in _claims_of_edit(rng, edit)]
    else:
        claims = [(_is_there(rng, vars(thing)), True) for thing in target.things]
        claims.append((_is_behind(rng, target.background), True))
    flipped = [(asked, expected != (rng.random() < faults.propositions_wrong)) for asked, expected in claims]
    return {"propositions": [{"question": asked, "expected": _yes_no(expected)} for asked, expected in flipped]}


def verification(question: Question, faults: Faults) -> dict[str, Any]:
    """Answers to `<questions>` about one image."""
    rng, picture = question.rng, question.only_picture()
    answers = [_holds(str(asked), picture.scene) for asked in question.json("questions")]
    answers = [answer != (rng.random() < faults.verification_wrong) for answer in answers]
    command = _command(question, picture, faults)
    return {"answers": [_yes_no(answer if command is None else command) for answer in answers]}


def evaluation(question: Question, faults: Faults) -> dict[str, Any]:
    """Whether the last image is what the instruction asks for (of the first image, where there are two)."""
    rng = question.rng
    if question.num_images not in (1, 2):
        raise BadRequestError(f"Evaluation is about one image or two, the reference first; got {question.num_images}.")
    *references, candidate = question.pictures
    target = _target(question, references[0].scene if references else None)
    if target is not None:
        good = candidate.scene == target
        missing = [] if good else edits_between(candidate.scene, target)
        reason = "It is as asked." if good else f"For that, {in_words(rng, candidate.scene, missing[:1])}"
    else:
        claims = _claims_of_words(rng, _text(question))
        good = all(_holds(asked, candidate.scene) for asked, _ in claims)
        reason = "It shows what the text speaks of." if good else "It does not show all that the text speaks of."
    good = good != (rng.random() < faults.evaluation_wrong)
    command = _command(question, candidate, faults)
    return {"reason": reason, "verdict": "accept" if (good if command is None else command) else "reject"}


# --- what is asked for ----------------------------------------------------------------------------------------------


def _turns(question: Question) -> list[str]:
    """What was said in a conversation, one round after the other."""
    return [turn if isinstance(turn, str) else " ".join(map(str, turn.values())) for turn in question.json("dialogue")]


def _text(question: Question) -> str:
    return question.data("instruction") or ", ".join(_turns(question))


def _target(question: Question, reference: Scene | None) -> Scene | None:
    """The scene that is asked for, or None where the oracle cannot know."""
    text, turns = _text(question), _turns(question)
    query = question.truth.find_query(text, reference)
    if query is not None:
        target = _changed_likewise(reference, query) if reference and query.reference else query.target
        return target if target.things else None  # a caption had left out all that is kept
    return _told(turns) if turns else read_caption(text)


def _changed_likewise(scene: Scene, query: TrueQuery) -> Scene:
    """A scene with what the query changes of its own reference, cell by cell."""
    kept = [thing for thing in scene.things if query.reference.at(thing.cell) == query.target.at(thing.cell)]
    new = [thing for thing in query.target.things if query.reference.at(thing.cell) != thing]
    new = [thing for thing in new if all(thing.cell != other.cell for other in kept)]
    is_new = query.target.background != query.reference.background
    return Scene(query.target.background if is_new else scene.background, tuple(sorted(kept + new)))


def _told(turns: Iterable[str]) -> Scene | None:
    """The scene that was described over a conversation, without what was answered by no."""
    background, things = None, {}
    for turn in turns:
        if not re.search(r"\bno\b", turn.lower()):
            background = next(iter(read_backgrounds(turn)), background)
            things |= {thing.cell: thing for thing in map(as_thing, mentions(turn)) if thing}
    return as_scene(background, things.values())


# --- steps and claims -----------------------------------------------------------------------------------------------


def _step(rng: random.Random, scene: Scene, edit: Edit) -> dict[str, str]:
    affected = edit.old or edit.new
    named = described(rng, affected, ["colour", "shape"], "the" if edit.old else "a") if affected else None
    return {
        "part": in_words(rng, scene, [edit]),
        "kind": KINDS.get(edit.kind, "modification"),
        "affects": realise([named])[0] if named else "the background",
    }


def _claims_of_edit(rng: random.Random, edit: Edit) -> list[Claim]:
    if edit.kind == "background":
        return [(_is_behind(rng, edit.background), True)]
    claims = [] if edit.new is None else [(_is_there(rng, vars(edit.new)), True)]
    if edit.new is None or edit.kind == "move":
        claims.append((_is_there(rng, vars(edit.old)), False))
    return claims


def _claims_of_words(rng: random.Random, text: str) -> list[Claim]:
    claims = [(_is_there(rng, reading), True) for reading in mentions(text)]
    claims += [(_is_behind(rng, background), True) for background in read_backgrounds(text)]
    return claims or [(f"Is it true of the image that {text}?", True)]


def _is_there(rng: random.Random, reading: Reading) -> str:
    anything = Thing(CELLS[0], "", "", "", "")  # a mould for what the reading leaves open, which is not spoken of
    thing = Thing(**{**vars(anything), **reading})
    words = [described(rng, thing, [name for name in reading if name != "cell"], "a", denoting=False)]
    words += [location(rng, thing.cell)] if "cell" in reading else []
    start = rng.choice(("Is there", "Can you see", "Does the image show", "Does the picture contain"))
    return f"{start} {realise(words)[0]}?"


def _is_behind(rng: random.Random, background: str) -> str:
    words, _ = realise([backdrop(rng, background)])
    return rng.choice((f"Is the background {words}?", f"Is everything in front of {words}?"))


def _holds(asked: str, scene: Scene) -> bool:
    """The answer to a question about things or backgrounds; no to any other."""
    readings, backgrounds = mentions(asked), read_backgrounds(asked)
    seen = all(any(fits(thing, reading) for thing in scene.things) for reading in readings)
    return bool(readings or backgrounds) and seen and all(name == scene.background for name in backgrounds)


def _command(question: Question, picture: Picture, faults: Faults) -> bool | None:
    """What words found in an image or in captions order, if there are any and the model obeys them."""
    obeys = question.rng.random() < faults.injection_obeyed
    found = re.findall("[a-z]+", f"{picture.injected_text} {read_writing(question.text)}".lower())
    return next((COMMANDS[word] for word in found if obeys and word in COMMANDS), None)


def _yes_no(answer: bool) -> str:
    return "yes" if answer else "no"
