"""Each recipe passes the answers of a stage to the next, and stops at the first stage without a usable answer."""

import asyncio
import json
import re

import pytest

from contextcir.captions.recipes import load_prompts
from contextcir.captions.schemas import Differences, ImageCaption, Reformulation, TargetObjects
from contextcir.captions.stages import Caption, Conversation, StageError, good4cir, instructcir
from contextcir.chat.exchange import Outcome
from tests.captions.conftest import BLUE, LAMP, SOFA, Model


def draft(recipe, model, pair):
    return asyncio.run(recipe(pair, Conversation(model), load_prompts(recipe.__name__)))


def inserted(prompt, name):
    """The objects in a prompt, in the tag of a placeholder."""
    return json.loads(re.search(f"<{name}>(.*)</{name}>", prompt)[1])


def test_good4cir_passes_the_objects_on(pair):
    model = Model()
    found = draft(good4cir, model, pair)
    first, second, third = model.requests
    assert [request.role for request in model.requests] == ["reference_objects", "target_objects", "differences"]
    assert [request.images for request in model.requests] == [(pair.reference_image,), (pair.target_image,), ()]
    assert "<" not in first.prompt
    for request in (second, third):
        assert inserted(request.prompt, "reference_objects") == [SOFA.model_dump(), LAMP.model_dump()]
    assert inserted(third.prompt, "target_objects") == [BLUE.model_dump()]
    assert found.captions == [
        Caption("Make the sofa blue", "modify", "sofa", "sofa"),
        Caption("Take the lamp away", "remove", "floor lamp", None),
    ]
    assert found.names == ["sofa", "floor lamp", "sofa"]


@pytest.mark.parametrize("kind", ["refused", "filtered", "cut", "malformed", "failed"])
@pytest.mark.parametrize(("number", "schema"), enumerate(["ReferenceObjects", "TargetObjects", "Differences"]))
def test_a_stage_without_an_answer_is_named(pair, kind, number, schema):
    model = Model(**{schema: Outcome(kind, error="why")})
    with pytest.raises(StageError) as caught:
        draft(good4cir, model, pair)
    assert (caught.value.kind, caught.value.detail) == (kind, "why")
    assert caught.value.stage == list(load_prompts("good4cir"))[number] == model.requests[-1].role
    assert len(model.requests) == number + 1


@pytest.mark.parametrize(
    ("answer", "stage", "requests"),
    [
        (TargetObjects(objects=[LAMP, SOFA]), "target_objects", 2),  # equal lists cost no third request
        (Differences(differences=[]), "differences", 3),
    ],
)
def test_good4cir_needs_a_difference(pair, answer, stage, requests):
    model = Model(**{type(answer).__name__: answer})
    with pytest.raises(StageError, match=f"{stage}: no_difference"):
        draft(good4cir, model, pair)
    assert len(model.requests) == requests


def test_instructcir_captions_both_images_and_writes_the_change(pair):
    model = Model()
    found = draft(instructcir, model, pair)
    assert [request.role for request in model.requests] == ["image_caption", "image_caption", "reformulation"]
    assert "<caption_a>A room called 0.</caption_a>" in model.requests[2].prompt
    assert "<caption_b>A room called 1.</caption_b>" in model.requests[2].prompt
    assert model.requests[2].images == ()
    assert found.captions == [Caption("Make the sofa blue.")]
    assert (found.reference, found.target) == ("A room called 0.", "A room called 1.")


LONG = "Make the sofa blue and put a lamp and two chairs beside it now"


@pytest.mark.parametrize("bad", [LONG, "", "Blue", "<caption_b>A sofa</caption_b>", "like in image B"])
def test_a_change_that_fails_the_gates_is_requested_once_more(pair, bad):
    model = Model(Reformulation=lambda request: Reformulation(change=bad if request.attempt == 0 else "A blue sofa"))
    assert draft(instructcir, model, pair).captions == [Caption("A blue sofa")]
    assert [request.attempt for request in model.requests if request.role == "reformulation"] == [0, 1]
    model = Model(Reformulation=Reformulation(change=bad))
    assert draft(instructcir, model, pair).captions == [Caption(bad)]  # the gates drop and count it
    assert len(model.requests) == 4


def test_twelve_words_are_allowed(pair):
    model = Model(Reformulation=Reformulation(change=" ".join(LONG.split()[:12])))
    draft(instructcir, model, pair)
    assert len(model.requests) == 3


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (ImageCaption(caption="A room."), "no_difference"),
        (ImageCaption(caption=" "), "empty"),
        (ImageCaption(caption=load_prompts("instructcir")["image_caption"].text), "echoes_prompt"),
        (lambda request: Outcome("refused") if "0.png" in request.images[0] else ImageCaption(caption="x"), "refused"),
    ],
)
def test_unusable_image_captions_end_the_pair(pair, answer, kind):
    model = Model(ImageCaption=answer)
    with pytest.raises(StageError, match=f"image_caption: {kind}"):
        draft(instructcir, model, pair)
    assert len(model.requests) == 2  # one for each image
