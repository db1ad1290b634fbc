"""Grounding: the loss on given maps, the maps of a batch, a teacher that learns them, and training with them."""

import math

import pytest
import torch
from PIL import Image

from contextcir.training.collator import TripletCollator
from contextcir.training.construction import check_arguments
from contextcir.training.losses import grounding_loss
from contextcir.training.phrase_teacher import Learning, PhraseTeacher, phrase_maps, train_teacher
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRModel
from tests.models.conftest import IMAGE_QUERIES
from tests.tiny_triplets import triplet, triplets
from tests.training.conftest import changed, logged, undecoded
from tests.training.test_grad_cache import SHARED, compare

PATCHES = 25  # 5 x 5


def corner(place: int, trust: float = 1.0) -> list[float]:
    return [trust * (patch == place) for patch in range(PATCHES)]


def with_maps(rows):
    """Each noun phrase is in the patch of its place."""
    return [row | {"phrase_maps": [corner(place) for place in range(len(row["noun_phrases"]))]} for row in rows]


def test_the_loss_is_the_trusted_divergence():
    maps = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    assert grounding_loss(maps, maps, 2).item() == pytest.approx(0, abs=1e-5)
    given = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # of the second nothing is known
    assert grounding_loss(maps, given, 2).item() == pytest.approx(math.log(2) / 2, rel=1e-4)
    assert grounding_loss(maps, 0.3 * given, 2).item() == pytest.approx(0.3 * math.log(2) / 2, rel=1e-4)
    half = torch.tensor([[0.25, 0.0, 0.25], [0.0, 0.0, 0.0]])  # trusted by a half
    expected = 0.25 * (math.log(0.5 / 0.5) + math.log(0.5 / 1e-6))
    assert grounding_loss(maps, half, 1).item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_no_phrases_is_zero_and_has_a_gradient():
    context = torch.zeros(0, PATCHES, requires_grad=True)
    loss = grounding_loss(context, torch.zeros(0, 0), 4)
    loss.backward()
    assert loss.item() == 0 and context.grad is not None


def test_maps_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 25\).*contextcir ground"):
        grounding_loss(torch.rand(3, PATCHES), torch.rand(3, 4), 2)


def test_maps_follow_the_phrases_that_are_kept(processor):
    text = "the photo shows a cat and a dog " + "x y " * 60 + "the star"
    names = ["the photo", "a cat", "a cat", "a dog", "the star"]  # no concept, twice the same, cut off
    phrases = [{"text": n, "start": text.index(n), "end": text.index(n) + len(n)} for n in names]
    row = triplet(0, modification_text=text, noun_phrases=phrases)
    rows = with_maps([row, triplet(1)])
    batch = TripletCollator(processor, grounding=True, phrase_places=True)(rows)
    assert batch["num_dropped_phrases"] == 1 and batch["phrase_sample"].tolist() == [0, 0, 1, 1, 1]
    assert batch["phrase_place"].tolist() == [1, 3, 0, 1, 2]
    assert batch["phrase_maps"].argmax(1).tolist() == [1, 3, 0, 1, 2]
    one = TripletCollator(processor, grounding=True, max_phrases=1)(rows)
    assert one["phrase_maps"].argmax(1).tolist() == [1, 0]
    assert "phrase_maps" not in TripletCollator(processor)(rows)
    without = TripletCollator(processor, grounding=True)(with_maps([triplet(2)]))
    assert without["phrase_maps"].shape[0] == 0


@pytest.mark.parametrize(
    "maps, message",
    [
        (None, "'t1' has 3 noun phrases and maps of 0.*contextcir ground"),
        ([corner(0)], "'t1' has 3 noun phrases and maps of 1"),
        ([corner(0), corner(1), corner(2)[:9]], "'t1'.*noun phrase 2 is .*expected 25 weights.*zeros"),
        ([None, corner(1), corner(2)], "'t1'.*noun phrase 0 is None, expected a weight of each patch"),
        ([corner(0), [], corner(2)], r"'t1'.*noun phrase 1 is \[\], expected 25 weights"),
        ([corner(0), [None] * 25, corner(2)], "'t1'.*noun phrase 1"),
        ([corner(0), corner(1, 2.0), corner(2)], "'t1'.*noun phrase 1 has weights from 0 and the sum 2"),
        ([corner(0), corner(1), corner(2, -0.5)], "'t1'.*noun phrase 2 has weights from -0.5"),
        ([corner(0), corner(1), corner(2, math.nan)], "'t1'.*noun phrase 2"),
    ],
)
def test_maps_that_cannot_be_are_refused(processor, maps, message):
    with pytest.raises(ValueError, match=message):
        TripletCollator(processor, grounding=True)([triplet(1) | {"phrase_maps": maps}])


@pytest.mark.parametrize("model_options", [{}, IMAGE_QUERIES], ids=["text queries", "image queries"])
def test_training_moves_attention_to_the_given_patches(build, model_options):
    """Its own patch for each phrase of a text."""
    options = {"rows": with_maps(triplets(8)), "model_options": model_options, "cc_weight": 0.0, "max_steps": 60}
    options |= {"learning_rate": 3e-3, "freeze_vision": True, "per_device_train_batch_size": 8}
    grounded = build(output="grounded", grounding_weight=3.0, **options)
    batch = grounded.data_collator([grounded.train_dataset[row] for row in range(8)])

    def mass(trainer):
        names = (
            "input_ids",
            "attention_mask",
            "pixel_values",
            "reference_index",
            "phrase_sample",
            "phrase_token_mask",
        )
        with torch.no_grad():
            outputs = trainer.model.eval()(**{name: batch[name] for name in names})
        assert outputs.isolated_attentions is None  # which no loss reads
        return (outputs.context_attentions * batch["phrase_maps"]).sum(1).mean().item()

    before = mass(grounded)
    grounded.train()
    free = build(output="free", **options)
    free.train()
    assert before < 0.1 and mass(free) < 0.1 and mass(grounded) > 0.3
    losses = [entry["loss_grounding"] for entry in logged(grounded)]
    assert logged(grounded)[0]["captions_without_phrases"] == 2 and logged(grounded)[0]["num_concepts"] > 1
    assert len(losses) == 60 and losses[-1] < 0.7 * losses[0]
    assert "loss_concept_consistency" not in logged(grounded)[0] and "loss_grounding" not in logged(free)[0]


def test_the_weight_is_that_of_the_sum(build):
    rows = with_maps(triplets(8))
    trainer = build(rows=rows, grounding_weight=0.7, max_steps=1)
    trainer.train()
    parts = [logged(trainer)[0][f"loss{name}"] for name in ("", "_contrastive", "_concept_consistency", "_grounding")]
    assert parts[0] == pytest.approx(parts[1] + 0.08 * parts[2] + 0.7 * parts[3], rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"cc_weight": 0.0}, {"model_options": IMAGE_QUERIES}], ids=str)
def test_gradients_of_chunks_are_those_of_the_whole_step(build, options):
    compare(build, 1e-5, rows=with_maps(SHARED), grounding_weight=1.0, **options)


def test_evaluation_needs_no_maps(build):
    trainer = build(rows=with_maps(triplets(8)), eval_rows=triplets(4), grounding_weight=1.0, cc_weight=0.0)
    assert trainer.evaluate().keys() >= {"eval_loss", "eval_loss_contrastive"}


def test_what_does_not_fit_is_refused(build):
    with pytest.raises(ValueError, match="no column phrase_maps.*contextcir ground.*grounding_weight to 0"):
        build(grounding_weight=1.0)
    rows = undecoded(with_maps(triplets(8))).remove_columns("noun_phrases")
    with pytest.raises(ValueError, match="no column noun_phrases.*contextcir phrases.*grounding_weight to 0"):
        check_arguments(
            CIRTrainingArguments(output_dir="x", cc_weight=0.0, grounding_weight=1.0, use_cpu=True, report_to="none"),
            None,
            {"train_dataset": rows, "processing_class": object()},
        )
    with pytest.raises(ValueError, match="grounding_weight.*augmentation=crop"):
        build(rows=with_maps(triplets(8)), grounding_weight=1.0, augmentation="crop")
    with pytest.raises(ValueError, match="grounding_weight must not be negative, got -1"):
        build(rows=with_maps(triplets(8)), grounding_weight=-1.0)
    with pytest.raises(ValueError, match="InstructCIRModel.*grounding_weight to 0"):
        build("instructcir", rows=with_maps(triplets(8)), grounding_weight=1.0)


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def picture(colour: str, patch: int) -> dict:
    """One patch of a colour on black, where it stands by itself."""
    image = Image.new("RGB", (30, 30))
    image.paste(COLOURS[colour], (patch % 5 * 6, patch // 5 * 6, patch % 5 * 6 + 6, patch // 5 * 6 + 6))
    return {"bytes": image._repr_png_(), "path": None}


@pytest.fixture(scope="module")
def coloured():
    """40 triplets: the thing of a colour is in the reference, or, every fourth time, in the target only."""
    rows = []
    for row in range(40):
        colour, other = list(COLOURS)[row % 4], list(COLOURS)[(row + 1 + row // 4 % 3) % 4]
        text = f"move the {colour} square"
        shown = [picture(colour, row * 7 % 25), picture(colour, row * 11 % 25)]
        if row % 4 == 3 or row >= 36:
            text, shown[0] = f"add the {colour} square", picture(other, row * 7 % 25)
        start = text.index("the")
        phrase = {"text": text[start:], "start": start, "end": len(text)}
        images = {"reference_image": shown[0], "target_image": shown[1]}
        rows.append(triplet(row, modification_text=text, noun_phrases=[phrase], **images))
    return rows


@pytest.fixture(scope="module")
def taught(clip_folder, processor, coloured):
    torch.manual_seed(0)
    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    how = Learning(steps=150, batch_size=16, learning_rate=1e-2)
    rows = undecoded(coloured)
    teacher, right, chance = train_teacher(model, processor, rows, how)
    assert right > 3 * chance > 0
    assert not changed(before, model.state_dict())
    return model, teacher, right, list(phrase_maps(teacher, processor, rows, how)), how


def test_a_teacher_finds_things_without_masks(taught, coloured):
    """Even a CLIP of random weights tells colours apart. Chance is 1 of 25 patches."""
    maps = taught[3]
    moved = [row for row in range(40) if coloured[row]["modification_text"].startswith("move")]
    found = [torch.tensor(maps[row][0]) for row in moved]
    at = [one.argmax().item() == row * 7 % 25 for one, row in zip(found, moved, strict=True)]
    assert sum(at) / len(at) > 0.6


def test_maps_are_trusted_less_where_the_phrase_names_what_is_to_come(taught, coloured):
    trust = {True: [], False: []}
    for row, maps in zip(coloured, taught[3], strict=True):
        assert len(maps) == 1 and len(maps[0]) == PATCHES and min(maps[0]) >= 0 and sum(maps[0]) <= 1 + 1e-5
        trust[row["modification_text"].startswith("add")].append(sum(maps[0]))
    assert sum(trust[True]) / len(trust[True]) < 0.7 < sum(trust[False]) / len(trust[False])


def test_a_teacher_is_the_same_every_time(taught, processor, coloured, clip_folder):
    torch.manual_seed(0)
    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    teacher, right, _ = train_teacher(model, processor, undecoded(coloured), taught[4])
    assert torch.equal(torch.get_rng_state(), state)  # the caller's numbers are not drawn from
    assert right == taught[2] and list(phrase_maps(teacher, processor, undecoded(coloured), taught[4])) == taught[3]


def test_a_phrase_without_tokens_of_its_own_has_a_map_of_zeros(taught, processor):
    text = "add a dog " + "x y " * 60 + "the star"
    phrases = [{"text": n, "start": text.index(n), "end": text.index(n) + len(n)} for n in ("the star", "a dog")]
    rows = undecoded([triplet(0, modification_text=text, noun_phrases=phrases), triplet(2)])
    first, second = phrase_maps(taught[1], processor, rows, taught[4])
    assert first[0] == [0.0] * PATCHES and sum(first[1]) > 0 and second == []


def test_triplets_that_share_an_image_or_a_phrase_are_no_alternatives(clip_folder, processor, coloured):
    """With four triplets of one phrase there is nothing to learn; nor with four that show one picture."""
    teacher = PhraseTeacher(ContextCIRModel.from_clip_pretrained(clip_folder))
    collate = TripletCollator(processor)
    same = {name: coloured[0][name] for name in ("modification_text", "noun_phrases")}
    loss, right, chance = teacher.contrast(collate([row | same for row in coloured[:4]]))
    assert loss.item() == 0 and not len(right) and not len(chance)  # there was nothing to ask
    one = {name: coloured[0][name] for name in ("reference_id", "reference_image")}
    loss, *_ = teacher.contrast(collate([row | one for row in coloured[:4]]))
    assert loss.item() == 0
    crossed = {f"reference_{name}": coloured[0][f"target_{name}"] for name in ("id", "image")}
    loss, *_ = teacher.contrast(collate([coloured[0], coloured[1] | crossed]))  # a target is a reference elsewhere
    assert loss.item() == 0
    loss, _, chance = teacher.contrast(collate(coloured[:4]))
    assert 0 < loss.item() < 3 * math.log(4) and chance.tolist() == [0.25] * 4


def test_triplets_that_cannot_teach_are_refused(clip_folder, processor, coloured):
    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    with pytest.raises(ValueError, match="3 triplets do not fill a batch of 64"):
        train_teacher(model, processor, undecoded(triplets(3)), Learning())
    silent = undecoded([triplet(row, modification_text="brighter") for row in range(4)])
    alike = undecoded([coloured[row] for row in (0, 4, 8, 12)])  # all say "move the red square"
    for rows in (silent, alike):
        with pytest.raises(ValueError, match="No noun phrase tells.*contextcir phrases"):
            train_teacher(model, processor, rows, Learning(steps=2, batch_size=2))
    for options, message in (
        ({"steps": 0}, "steps.*1.*0"),
        ({"batch_size": 1}, "batch_size.*2"),
        ({"learning_rate": 0}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Learning(**options)
