"""What the oracle answers to those who write captions: objects, differences, image captions, reformulations.

Objects and captions come from the pictures' scenes. Whatever is asked about words alone is answered from these words,
read back, so that an error of an earlier stage propagates as it does with a real model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import Any

from contextcir.scenes.differences import edits_between, operation
from contextcir.scenes.edits import Edit
from contextcir.scenes.grammar import describe, word_edits
from contextcir.scenes.oracle.faults import Faults, made_up, misperceive, mistake
from contextcir.scenes.oracle.questions import Question
from contextcir.scenes.phrases import WORDS, backdrop, location
from contextcir.scenes.reading import as_scene, as_thing, read_backgrounds, read_caption, read_thing, with_writing
from contextcir.scenes.trees import realise
from contextcir.scenes.world import Scene, Thing

MAX_WORDS = 12  # of a reformulation (section 3.1 of InstructCIR)
BACKGROUND = "background"  # the name of the object that is one
Described = dict[str, Any]  # {"name": ..., "descriptors": [...]}


def reference_objects(question: Question, faults: Faults) -> dict[str, Any]:
    """The objects of an image."""
    return {"objects": _list_objects(question.rng, _seen(question, faults), [])}


def target_objects(question: Question, faults: Faults) -> dict[str, Any]:
    """The objects of an image; those that are in `<reference_objects>` too are repeated as they are there."""
    known = question.json("reference_objects")
    return {"objects": _list_objects(question.rng, _seen(question, faults), known)}


def differences(question: Question, faults: Faults) -> dict[str, Any]:
    """The differences of `<reference_objects>` and `<target_objects>`, each an edit in words, in any order."""
    rng = question.rng
    listed, wanted = question.json("reference_objects"), question.json("target_objects")
    (reference, old_names), (target, new_names) = _read_objects(listed), _read_objects(wanted)
    if reference is None or target is None:
        return {"differences": _differences_by_name(listed, wanted)}
    edits = edits_between(reference, target)
    told = []
    for edit in rng.sample(edits, len(edits)):
        if rng.random() < faults.differences_wrong:
            edit = made_up(rng, reference)
        new_name = new_names.get(edit.new) or (_name(rng, edit.new, []) if edit.new else None)
        is_background = edit.kind == "background"
        told.append(
            {
                "operation": operation(edit),
                "text": in_words(rng, reference, [edit]),
                "source_object": BACKGROUND if is_background else old_names.get(edit.old),
                "target_object": BACKGROUND if is_background else new_name,
            }
        )
    return {"differences": told}


def image_caption(question: Question, faults: Faults) -> dict[str, Any]:
    """A detailed caption of an image; words that are drawn across it are reported."""
    return {"caption": caption_of(question, faults)}


def caption_of(question: Question, faults: Faults) -> str:
    """The caption by itself."""
    rng, picture = question.rng, question.only_picture()
    scene = mistake(rng, picture.scene) if rng.random() < faults.captions_wrong else picture.scene
    return with_writing(realise(describe(rng, scene))[0], picture.injected_text)


def reformulation(question: Question, faults: Faults) -> dict[str, Any]:
    """The change from `<caption_a>` to `<caption_b>`, as much of it as goes into twelve words."""
    rng = question.rng
    before, after = (read_caption(question.data(tag)) for tag in ("caption_a", "caption_b"))
    if before is None or after is None:  # words about another world
        return {"change": " ".join(["show", *question.data("caption_b").split()[: MAX_WORDS - 1]])}
    wrong = rng.random() < faults.reformulations_wrong
    edits = [made_up(rng, before)] if wrong else edits_between(before, after)
    return {"change": _in_few_words(rng, before, edits) if edits else "keep everything as it is"}


def in_words(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> str:
    """A modification text for edits, without a word about what is left alone."""
    while True:
        text, _ = realise(word_edits(rng, scene, edits))
        if not re.search(r"\b(alone|as it is)\b", text):
            return text


def _in_few_words(rng: random.Random, scene: Scene, edits: Sequence[Edit]) -> str:
    for count in range(min(3, len(edits)), 0, -1):
        for _ in range(6):
            text = in_words(rng, scene, rng.sample(edits, count))
            if len(text.split()) <= MAX_WORDS:
                return text
    edit = rng.choice(edits)
    if edit.kind == "background":
        return f"change the background to {realise([backdrop(rng, edit.background)])[0]}"
    old, new = (f"{thing.colour} {thing.shape}" if thing else "" for thing in (edit.old, edit.new))
    return f"add one more {new}" if not old else f"turn the {old} into one {new}" if new else f"remove the {old}"


# --- objects in lists -----------------------------------------------------------------------------------------------


def _seen(question: Question, faults: Faults) -> Scene:
    return misperceive(
        question.rng,
        question.only_picture().scene,
        hallucinated=faults.objects_hallucinated,
        missed=faults.objects_missed,
        wrong=faults.objects_wrong,
    )


def _list_objects(rng: random.Random, scene: Scene, known: Sequence[Described]) -> list[Described]:
    """The things and the background of a scene in any order; what is among the `known` is repeated word for word."""
    _, names = _read_objects(known)
    by_name = {described["name"]: described for described in known}
    repeated = [by_name[names[thing]] for thing in scene.things if thing in names]
    taken = [described["name"] for described in repeated]
    listed = list(repeated)
    for thing in scene.things:
        if thing not in names:
            name = _name(rng, thing, taken)
            taken.append(name)
            listed.append({"name": name, "descriptors": _descriptors(rng, thing)})
    same = [
        described for described in known if described["name"] == BACKGROUND and _behind(described) == scene.background
    ]
    new = {"name": BACKGROUND, "descriptors": [realise([backdrop(rng, scene.background)])[0]]}
    listed.append(same[0] if same else new)
    return rng.sample(listed, len(listed))


def _name(rng: random.Random, thing: Thing, taken: Collection[str]) -> str:
    """What a thing is called, in as few words as no other thing is."""
    plain = f"{thing.colour} {thing.shape}"
    pattern = "plain" if thing.pattern == "plain" else rng.choice(WORDS[thing.pattern])
    full = f"{rng.choice(WORDS[thing.size])} {pattern} {plain}"
    placed = f"{full} {realise([location(rng, thing.cell, short=True)])[0]}"
    return next((name for name in (plain, full) if name not in taken), placed)


def _descriptors(rng: random.Random, thing: Thing) -> list[str]:
    size, pattern = rng.choice(WORDS[thing.size]), rng.choice(WORDS[thing.pattern])
    found = [
        rng.choice((thing.colour, f"{thing.colour} in color", f"filled with {thing.colour}")),
        rng.choice((size, f"{size} in size")),
        rng.choice((pattern, f"with a {pattern} surface")),
        rng.choice((f"{thing.shape} shape", f"shaped like a {thing.shape}")),
        realise([location(rng, thing.cell)])[0],
    ]
    return rng.sample(found, len(found))


def _read_objects(objects: Sequence[Described]) -> tuple[Scene | None, dict[Thing, str]]:
    """The scene that a list describes (None where it leaves something open) and what it calls the things."""
    things, background, names = [], None, {}
    for described in objects:
        if described["name"] == BACKGROUND:
            background = _behind(described)
        else:
            things.append(as_thing(read_thing(" ".join([described["name"], *described["descriptors"]]))))
            names[things[-1]] = described["name"]
    names.pop(None, None)
    return as_scene(background, things), names


def _behind(described: Described) -> str | None:
    return next(iter(read_backgrounds(" ".join(described["descriptors"]))), None)


def _differences_by_name(reference: Sequence[Described], target: Sequence[Described]) -> list[dict[str, Any]]:
    """What can be said of lists about another world: which objects have gone, come, or changed their descriptors."""
    old, new = ({described["name"]: described for described in objects} for objects in (reference, target))
    told = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            told.append(("remove", f"remove the {name}", name, None))
        elif name not in old:
            told.append(("add", f"add a {name}", None, name))
        elif old[name] != new[name]:
            told.append(("modify", f"make the {name} {' and '.join(new[name]['descriptors'])}", name, name))
    keys = ("operation", "text", "source_object", "target_object")
    return [dict(zip(keys, row, strict=True)) for row in told]
