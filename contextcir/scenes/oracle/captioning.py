"""Answers to caption generation: objects, differences, image captions and reformulations.

Objects and captions come from the scenes of the pictures. Requests about words only are answered from these words. So
an error of an earlier stage propagates, as with a real model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import Any

from contextcir.scenes.differences import edits_between, operation
from contextcir.scenes.edits import Edit
from contextcir.scenes.grammar import describe, word_edits
from contextcir.scenes.oracle.chat_request import ChatRequest
from contextcir.scenes.oracle.faults import Faults, invent_edit, misperceive, mistake
from contextcir.scenes.phrases import WORDS, backdrop, location
from contextcir.scenes.reading import as_scene, as_thing, read_backgrounds, read_caption, read_thing, with_writing
from contextcir.scenes.trees import Node, realise
from contextcir.scenes.world import Scene, Thing

MAX_WORDS = 12  # of a reformulation (section 3.1 of InstructCIR)
BACKGROUND = "background"  # name of the background in lists of objects
Described = dict[str, Any]  # {"name": ..., "descriptors": [...]}


def reference_objects(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """List the objects of an image."""
    return {"objects": _list_objects(request.rng, _perceive(request, faults), [])}


def target_objects(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """List the objects of an image. Objects that are also in `<reference_objects>` are copied from there."""
    known = request.json("reference_objects")
    return {"objects": _list_objects(request.rng, _perceive(request, faults), known)}


def differences(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """List the differences of `<reference_objects>` and `<target_objects>`, one per edit, in random order."""
    rng = request.rng
    old_objects, new_objects = request.json("reference_objects"), request.json("target_objects")
    (reference, old_names), (target, new_names) = _read_objects(old_objects), _read_objects(new_objects)
    if reference is None or target is None:
        return {"differences": _differences_by_name(old_objects, new_objects)}
    edits = edits_between(reference, target)
    found = []
    for edit in rng.sample(edits, len(edits)):
        if rng.random() < faults.differences_wrong:
            edit = invent_edit(rng, reference)
        old_name = old_names.get(edit.old) if edit.old else None
        new_name = (new_names.get(edit.new) or _name(rng, edit.new, [])) if edit.new else None
        is_background = edit.kind == "background"
        found.append(
            {
                "operation": operation(edit),
                "text": in_words(rng, reference, [edit]),
                "source_object": BACKGROUND if is_background else old_name,
                "target_object": BACKGROUND if is_background else new_name,
            }
        )
    return {"differences": found}


def image_caption(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """Caption an image in detail, including words written across it."""
    return {"caption": caption_of(request, faults)}


def caption_of(request: ChatRequest, faults: Faults) -> str:
    """Return the caption as text."""
    rng, picture = request.rng, request.only_picture()
    scene = mistake(rng, picture.scene) if rng.random() < faults.captions_wrong else picture.scene
    return with_writing(_text(describe(rng, scene)), picture.injected_text)


def reformulation(request: ChatRequest, faults: Faults) -> dict[str, Any]:
    """Word the change from `<caption_a>` to `<caption_b>` in at most twelve words."""
    rng = request.rng
    before, after = (read_caption(request.data(tag)) for tag in ("caption_a", "caption_b"))
    if before is None or after is None:  # not captions of scenes
        return {"change": " ".join(["show", *request.data("caption_b").split()[: MAX_WORDS - 1]])}
    wrong = rng.random() < faults.reformulations_wrong
    edits = [invent_edit(rng, before)] if wrong else edits_between(before, after)
    return {"change": _in_few_words(rng, before, edits) if edits else "keep everything as it is"}


def in_words(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> str:
    """Return a modification text for edits that does not mention unchanged things."""
    while True:
        text = _text(word_edits(rng, scene, edits))
        if not re.search(r"\b(alone|as it is)\b", text):
            return text


def _in_few_words(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> str:
    for count in range(min(3, len(edits)), 0, -1):
        for _ in range(6):
            text = in_words(rng, scene, rng.sample(edits, count))
            if len(text.split()) <= MAX_WORDS:
                return text
    edit = rng.choice(edits)
    if edit.background:
        return f"change the background to {_text([backdrop(rng, edit.background)])}"
    old, new = (f"{thing.colour} {thing.shape}" if thing else "" for thing in (edit.old, edit.new))
    return f"add one more {new}" if not old else f"turn the {old} into one {new}" if new else f"remove the {old}"


def _text(sentences: Sequence[Node]) -> str:
    return realise(sentences)[0]


# --- lists of objects -----------------------------------------------------------------------------------------------


def _perceive(request: ChatRequest, faults: Faults) -> Scene:
    return misperceive(
        request.rng,
        request.only_picture().scene,
        hallucinated=faults.objects_hallucinated,
        missed=faults.objects_missed,
        wrong=faults.objects_wrong,
    )


def _list_objects(rng: random.Random, scene: Scene, known: Sequence[Described]) -> list[Described]:
    """List things and background of a scene in random order. Those among the `known` are copied."""
    _, names = _read_objects(known)
    by_name = {described["name"]: described for described in known}
    listed = [by_name[names[thing]] for thing in scene.things if thing in names]
    taken = [described["name"] for described in listed]
    for thing in scene.things:
        if thing not in names:
            name = _name(rng, thing, taken)
            taken.append(name)
            listed.append({"name": name, "descriptors": _descriptors(rng, thing)})
    same = [
        described
        for described in known
        if described["name"] == BACKGROUND and _read_background(described) == scene.background
    ]
    new = {"name": BACKGROUND, "descriptors": [_text([backdrop(rng, scene.background)])]}
    listed.append(same[0] if same else new)
    return rng.sample(listed, len(listed))


def _name(rng: random.Random, thing: Thing, taken: Collection[str]) -> str:
    """Return the shortest name of a thing that no other thing has."""
    plain = f"{thing.colour} {thing.shape}"
    pattern = "plain" if thing.pattern == "plain" else rng.choice(WORDS[thing.pattern])
    full = f"{rng.choice(WORDS[thing.size])} {pattern} {plain}"
    placed = f"{full} {_text([location(rng, thing.cell, short=True)])}"
    return next((name for name in (plain, full) if name not in taken), placed)


def _descriptors(rng: random.Random, thing: Thing) -> list[str]:
    size, pattern = rng.choice(WORDS[thing.size]), rng.choice(WORDS[thing.pattern])
    found = [
        rng.choice((thing.colour, f"{thing.colour} in color", f"filled with {thing.colour}")),
        rng.choice((size, f"{size} in size")),
        rng.choice((pattern, f"with a {pattern} surface")),
        rng.choice((f"{thing.shape} shape", f"shaped like a {thing.shape}")),
        _text([location(rng, thing.cell)]),
    ]
    return rng.sample(found, len(found))


def _read_objects(objects: Sequence[Described]) -> tuple[Scene | None, dict[Thing, str]]:
    """Return the scene that a list describes (`None` if incomplete), and the names of its things."""
    things, background, names = [], None, {}
    for described in objects:
        if described["name"] == BACKGROUND:
            background = _read_background(described)
        else:
            thing = as_thing(read_thing(" ".join([described["name"], *described["descriptors"]])))
            things.append(thing)
            if thing:
                names[thing] = described["name"]
    return as_scene(background, things), names


def _read_background(described: Described) -> str | None:
    return next(iter(read_backgrounds(" ".join(described["descriptors"]))), None)


def _differences_by_name(reference: Sequence[Described], target: Sequence[Described]) -> list[dict[str, Any]]:
    """Compare lists that do not describe scenes: removed, added and changed objects by name."""
    old, new = ({described["name"]: described for described in objects} for objects in (reference, target))
    found = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            found.append(("remove", f"remove the {name}", name, None))
        elif name not in old:
            found.append(("add", f"add a {name}", None, name))
        elif old[name] != new[name]:
            found.append(("modify", f"make the {name} {' and '.join(new[name]['descriptors'])}", name, name))
    keys = ("operation", "text", "source_object", "target_object")
    return [dict(zip(keys, row, strict=True)) for row in found]
