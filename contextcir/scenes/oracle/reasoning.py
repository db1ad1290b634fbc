"""Answers to ImageScope: descriptions of targets, propositions about them, and judgements of candidates.

The target of a query is known from the queries of the truth, found by text and reference. A text or dialogue that
describes a scene in full is parsed. For any other query, the oracle uses the things and backgrounds that the text
introduces ("a red star"), or only its words if there are none. The reasoner does not see the reference: it edits the
scene of the given caption, errors included. Propositions ask whether a thing or a background is there, so that the
verifier can parse them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from contextcir.scenes.differences import edits_between
from contextcir.scenes.edits import Edit
from contextcir.scenes.grammar import describe
from contextcir.scenes.oracle.captioning import in_words
from contextcir.scenes.oracle.chat_request import BadRequestError, ChatRequest
from contextcir.scenes.oracle.faults import Faults, mistake
from contextcir.scenes.phrases import backdrop, describe_thing, location
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
from contextcir.scenes.world import CELLS, Cell, Scene, Thing

STEPS = {"add": "addition", "remove": "removal", "resize": "comparison"}  # other edits are modifications
COMMANDS = {"yes": True, "accept": True, "no": False, "reject": False}
Claim = tuple[str, bool]  # a yes/no question, and whether the expected answer is yes


def reasoning(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """Split an instruction or a dialogue into steps, and describe the target three times with growing detail."""
    rng, text = request.rng, _query_text(request)
    reference = read_caption(request.data("reference_caption"))
    target = _find_target(request, reference)
    steps = [{"part": text, "kind": "modification" if reference else "addition", "affects": "the image"}]
    if target is None:
        before = request.data("reference_caption") or request.data("previous_description")
        everything = f"{before}, {text}" if before else text
        return {"steps": steps, "core": text, "detailed": text, "comprehensive": everything}
    edits: Sequence[Edit] = ()
    if reference and (edits := edits_between(reference, target)):
        steps = [_step(rng, reference, edit) for edit in edits]
    scene = mistake(rng, target) if rng.random() < faults.reasoning_wrong else target
    new = {edit.new for edit in edits}
    things = sorted(rng.sample(scene.things, len(scene.things)), key=lambda thing: thing not in new)  # new ones first
    core = max(1, sum(thing in new for thing in things))
    counts = {"core": core, "detailed": (core + len(things) + 1) // 2, "comprehensive": len(things)}
    descriptions = {name: realise(describe(rng, scene.with_things(things[:n])))[0] for name, n in counts.items()}
    return {"steps": steps, **descriptions}


def propositions(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """Return yes/no questions with the answers that the target gives."""
    rng = request.rng
    reference = read_caption(request.data("reference_caption"))
    target = _find_target(request, reference)
    if target is None:
        claims = _claims_of_text(rng, _query_text(request) or request.data("previous_description"))
    elif reference and target != reference:
        claims = [claim for edit in edits_between(reference, target) for claim in _claims_of_edit(rng, edit)]
    else:
        claims = [(_ask_thing(rng, vars(thing)), True) for thing in target.things]
        claims.append((_ask_background(rng, target.background), True))
    answers = [(asked, expected != (rng.random() < faults.propositions_wrong)) for asked, expected in claims]
    return {"propositions": [{"question": asked, "expected": _yes_no(expected)} for asked, expected in answers]}


def verification(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """Answer `<questions>` about one image."""
    rng, picture = request.rng, request.only_picture()
    answers = [_holds(str(asked), picture.scene) for asked in request.json("questions")]
    answers = [answer != (rng.random() < faults.verification_wrong) for answer in answers]
    command = _injected_command(request, picture, faults)
    return {"answers": [_yes_no(answer if command is None else command) for answer in answers]}


def evaluation(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """Judge whether the last image matches the instruction. The first of two images is the reference."""
    rng = request.rng
    if request.num_images not in (1, 2):
        raise BadRequestError(f"Got {request.num_images} images for Evaluation, expected [reference,] candidate.")
    *references, candidate = request.pictures
    target = _find_target(request, references[0].scene if references else None)
    if target is not None:
        good = candidate.scene == target
        missing = [] if good else edits_between(candidate.scene, target)
        reason = "It is as asked." if good else f"For that, {in_words(rng, candidate.scene, missing[:1])}"
    else:
        claims = _claims_of_text(rng, _query_text(request))
        good = all(_holds(asked, candidate.scene) for asked, _ in claims)
        reason = "It shows what the text speaks of." if good else "It does not show all that the text speaks of."
    good = good != (rng.random() < faults.evaluation_wrong)
    command = _injected_command(request, candidate, faults)
    return {"reason": reason, "verdict": "accept" if (good if command is None else command) else "reject"}


# --- targets of requests --------------------------------------------------------------------------------------------


def _turns(request: ChatRequest) -> list[str]:
    """Return the rounds of a dialogue."""
    return [turn if isinstance(turn, str) else " ".join(map(str, turn.values())) for turn in request.json("dialogue")]


def _query_text(request: ChatRequest) -> str:
    return request.data("instruction") or ", ".join(_turns(request))


def _find_target(request: ChatRequest, reference: Scene | None) -> Scene | None:
    """Return the target scene, or `None` if it is unknown."""
    text, turns = _query_text(request), _turns(request)
    query = request.truth.find_query(text, reference)
    if query is not None:
        target = query.target
        if reference and query.reference:
            target = _apply_likewise(reference, query.reference, query)
        return target if target.things else None  # empty if the caption left out everything that the query keeps
    return _read_dialogue(turns) if turns else read_caption(text)


def _apply_likewise(scene: Scene, reference: Scene, query: TrueQuery) -> Scene:
    """Apply the changes from the `reference` of a query to its target to another scene, cell by cell."""
    kept = [thing for thing in scene.things if reference.at(thing.cell) == query.target.at(thing.cell)]
    new = [thing for thing in query.target.things if reference.at(thing.cell) != thing]
    new = [thing for thing in new if all(thing.cell != other.cell for other in kept)]
    is_new = query.target.background != reference.background
    return Scene(query.target.background if is_new else scene.background, tuple(sorted(kept + new)))


def _read_dialogue(turns: Iterable[str]) -> Scene | None:
    """Return the scene that a dialogue describes, without the rounds that were answered by no."""
    background = None
    things: dict[Cell, Thing] = {}
    for turn in turns:
        if not re.search(r"\bno\b", turn.lower()):
            background = next(iter(read_backgrounds(turn)), background)
            things |= {thing.cell: thing for thing in map(as_thing, mentions(turn)) if thing}
    return as_scene(background, things.values())


# --- steps and claims -----------------------------------------------------------------------------------------------


def _step(rng: random.Random, scene: Scene, edit: Edit) -> dict[str, str]:
    affected = edit.old or edit.new
    named = describe_thing(rng, affected, ["colour", "shape"], "the" if edit.old else "a") if affected else None
    return {
        "part": in_words(rng, scene, [edit]),
        "kind": STEPS.get(edit.kind, "modification"),
        "affects": realise([named])[0] if named else "the background",
    }


def _claims_of_edit(rng: random.Random, edit: Edit) -> list[Claim]:
    if edit.background:
        return [(_ask_background(rng, edit.background), True)]
    claims = [] if edit.new is None else [(_ask_thing(rng, vars(edit.new)), True)]
    if edit.new is None or edit.kind == "move":
        claims.append((_ask_thing(rng, vars(edit.old)), False))
    return claims


def _claims_of_text(rng: random.Random, text: str) -> list[Claim]:
    claims = [(_ask_thing(rng, reading), True) for reading in mentions(text)]
    claims += [(_ask_background(rng, background), True) for background in read_backgrounds(text)]
    return claims or [(f"Is it true of the image that {text}?", True)]


def _ask_thing(rng: random.Random, reading: Reading) -> str:
    blank = Thing(CELLS[0], "", "", "", "")  # for the attributes that the question does not mention
    thing = Thing(**{**vars(blank), **reading})
    words = [describe_thing(rng, thing, [name for name in reading if name != "cell"], "a", denoting=False)]
    words += [location(rng, thing.cell)] if "cell" in reading else []
    start = rng.choice(("Is there", "Can you see", "Does the image show", "Does the picture contain"))
    return f"{start} {realise(words)[0]}?"


def _ask_background(rng: random.Random, background: str) -> str:
    words, _ = realise([backdrop(rng, background)])
    return rng.choice((f"Is the background {words}?", f"Is everything in front of {words}?"))


def _holds(asked: str, scene: Scene) -> bool:
    """Answer a question about things or backgrounds. The answer to any other question is no."""
    readings, backgrounds = mentions(asked), read_backgrounds(asked)
    seen = all(any(fits(thing, reading) for thing in scene.things) for reading in readings)
    return bool(readings or backgrounds) and seen and all(name == scene.background for name in backgrounds)


def _injected_command(request: ChatRequest, picture: Picture, faults: Faults) -> bool | None:
    """Return the answer that words in an image or a caption command, if there are any and the model obeys them."""
    obeys = request.rng.random() < faults.injection_obeyed
    found = re.findall("[a-z]+", f"{picture.injected_text} {read_writing(request.text)}".lower())
    return next((COMMANDS[word] for word in found if obeys and word in COMMANDS), None)


def _yes_no(answer: bool) -> str:
    return "yes" if answer else "no"
