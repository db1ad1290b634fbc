"""Training steps: what is trained, what each option changes, the learning rate and the log."""

import math

import pytest
import torch

from contextcir.data.images import ImageError
from contextcir.training.losses import contrastive_loss
from contextcir.training.trainer import cosine_with_restarts
from tests.tiny_triplets import triplet, triplets
from tests.training.conftest import changed, folder_of, logged, trained, weights

LONG = "the dog " + "x y " * 60 + "the cat"


@pytest.mark.parametrize(
    "model_options",
    [
        {},
        {"fusion_direction": "image_to_text"},
        {"target_encoding": "clip"},
        {"fusion_class_token": False},
        {"pool_image_tokens": True},
    ],
    ids=str,
)
def test_every_parameter_is_trained(build, model_options):
    trainer = build(model_options=model_options, max_steps=3)
    assert trained(trainer) == set(weights(trainer))


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_every_parameter_of_instructcir_except_lambda_is_trained(build, momentum):
    trainer = build("instructcir", ema_momentum=momentum)
    assert trained(trainer) == set(weights(trainer)) - {"combiner_weight"}
    for entry in logged(trainer):
        assert entry["loss"] == pytest.approx(entry["loss_contrastive"]) and entry["truncated_texts"] == 0
        assert "loss_concept_consistency" not in entry and "dropped_phrases" not in entry


def test_frozen_parameters_stay(build):
    assert not any(name.startswith("vision_model.") for name in trained(build(output="a", freeze_vision=True)))
    others = trained(build(output="b", freeze_text=True, learn_temperature=False))
    assert not any(name.startswith(("text_model.", "logit_scale")) for name in others)


@pytest.mark.parametrize("name", ["lambda", "config", "forward"])
def test_an_unknown_part_is_refused(build, name):
    with pytest.raises(ValueError, match=f"'{name}'.*blocks, predictor"):
        build("instructcir", train_only=name)


def test_models_without_what_the_options_need_are_refused(build):
    with pytest.raises(ValueError, match="InstructCIRModel.*cc_weight"):
        build("instructcir", cc_weight=0.08)
    with pytest.raises(ValueError, match="InstructCIRModel.*query_negatives"):
        build("instructcir", query_negatives="own").train()
    with pytest.raises(ValueError, match="InstructCIRModel.*encode_images_once"):
        build("instructcir", freeze_vision=True, encode_images_once=True)


REPEATED_TARGET = {"target_id": "g0", "target_image": triplet(0)["target_image"]}
REPEATED = [
    triplet(row, **REPEATED_TARGET, reference_id=f"r{row % 2}", reference_image=triplet(row % 2)["reference_image"])
    for row in range(8)
]
PLAIN = {}  # weights of training without options, by the rows


@pytest.mark.parametrize(
    "options",
    [
        {"cc_weight": 0.5},
        {"cc_form": "absolute", "cc_slack": 0.01},
        {"cc_slack": 0.01},
        {"cc_form": "contrastive"},
        {"isolated_grad": True},
        {"query_negatives": "all"},
        {"query_negatives": "none"},
        {"mask_repeated_targets": False},
        {"max_phrases": 1},
        {"augmentation": "crop"},
        {"min_learning_rate": 5e-4},
        {"lr_num_cycles": 2},
        {"lr_scheduler_type": "constant"},
        {"weight_decay": 0.5},
        {"weight_decay_of": "transformers"},
        {"encoder_learning_rate": 1e-4},
        {"ema_momentum": 0.5},
    ],
    ids=str,
)
def test_every_option_changes_training(build, options):
    repeated = "mask_repeated_targets" in options
    rows = REPEATED if repeated else triplets(8)
    if repeated not in PLAIN:
        plain = build(rows=rows, output="plain")
        plain.train()
        PLAIN[repeated] = weights(plain)
    other = build(rows=rows, output="other", **options)
    other.train()
    assert changed(PLAIN[repeated], weights(other))


@pytest.mark.parametrize("model_options", [{}, {"fusion_class_token": False}, {"target_encoding": "clip"}], ids=str)
def test_images_encoded_once_train_the_same(build, model_options, monkeypatch):
    options = {"freeze_vision": True, "max_steps": 4, "model_options": model_options}
    usual, once = build(output="usual", **options), build(output="once", encode_images_once=True, **options)
    usual.train()
    encoded = []
    monkeypatch.setattr(type(once.model), "encode_images", lambda *args: encoded.append(args))
    once.train()
    assert not encoded
    for one, other in zip(logged(once), logged(usual), strict=True):
        for name in ("loss_contrastive", "loss_concept_consistency", "context_entropy"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    after = weights(once)
    for name, value in weights(usual).items():
        # A fraction of the four steps of 1e-3: AdamW amplifies rounding where a gradient is near zero.
        torch.testing.assert_close(after[name], value, atol=2e-4, rtol=0)


def test_gradient_accumulation_equals_one_batch_if_losses_are_those_of_single_rows(build):
    """Negatives do not cross micro-batches, so 8x1 equals 1x8 only if no row has another row's target as a negative:
    all rows have one target, which is masked, and the own reference is the only negative."""
    steps = {}
    for size in (8, 2, 1):
        trainer = build(
            rows=REPEATED,
            output=f"run{size}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            optim="sgd",
            max_grad_norm=0.0,
            max_steps=1,
        )
        trainer.train()
        steps[size] = (weights(trainer), logged(trainer)[0])
    parts = ["loss", "loss_contrastive", "loss_concept_consistency", "num_concepts", "context_entropy"]
    for size in (2, 1):
        for name, expected in steps[8][0].items():
            torch.testing.assert_close(steps[size][0][name], expected, rtol=1e-5, atol=1e-7)
        for part in (*parts, "map_diversity"):
            assert steps[size][1][part] == pytest.approx(steps[8][1][part], rel=1e-5)
        for count in ("captions_without_phrases", "truncated_texts"):
            assert steps[size][1][count] == steps[8][1][count]


# Learning rate


def test_the_learning_rate_cycles_between_two_rates(build):
    trainer = build(max_steps=8, learning_rate=1e-3, min_learning_rate=1e-5, lr_num_cycles=2)
    trainer.train()
    rates = [entry["learning_rate"] for entry in logged(trainer)]
    middle = 1e-5 + 0.5 * (1e-3 - 1e-5)
    assert rates[0] == rates[4] == pytest.approx(1e-3)
    assert rates[2] == rates[6] == pytest.approx(middle)
    assert rates[3] < middle / 2


def test_closed_form_of_the_schedule():
    def rate(step):
        return cosine_with_restarts(step, warmup_steps=10, total_steps=110, num_cycles=2, floor=0.01)

    assert [rate(0), rate(5), rate(10), rate(60)] == [0, 0.5, 1, 1]
    assert rate(35) == pytest.approx(0.505)
    assert rate(59) == pytest.approx(0.01, abs=2e-3)
    assert rate(110) == rate(500) == 0.01


# Log


def test_the_weight_of_the_concept_loss_rises(build):
    trainer = build(cc_weight=0.5, cc_warmup_steps=0.75, max_steps=4)
    trainer.train()
    for step, entry in enumerate(logged(trainer)):
        weight = 0.5 * min(1, step / 3)
        expected = entry["loss_contrastive"] + weight * entry["loss_concept_consistency"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)


def test_logged_parts_add_up_to_the_loss(build):
    trainer = build(cc_weight=0.5)
    trainer.train()
    for entry in logged(trainer):
        expected = entry["loss_contrastive"] + 0.5 * entry["loss_concept_consistency"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)
        assert 0 < entry["context_entropy"] <= math.log(25) and 0 < entry["isolated_entropy"] <= math.log(25)
        assert 0 < entry["map_diversity"] < 1
        assert entry["temperature"] == pytest.approx(math.exp(-trainer.model.logit_scale.item()), rel=1e-2)
        assert entry["truncated_texts"] == entry["dropped_phrases"] == 0
    # One epoch of eight triplets with 2, 3, 0, 1, 3, 0, 2, 3 noun phrases.
    assert sum(entry["num_concepts"] for entry in logged(trainer)) * 4 == 14
    assert sum(entry["captions_without_phrases"] for entry in logged(trainer)) == 2


@pytest.mark.parametrize("kind", ["contextcir", "instructcir"])
def test_long_texts_are_counted(build, kind):
    trainer = build(kind, rows=triplets(8, modification_text=LONG), max_steps=1)
    trainer.train()
    entry = logged(trainer)[0]
    assert entry["truncated_texts"] == 4 and entry.get("dropped_phrases") == (4 if kind == "contextcir" else None)


def test_a_batch_without_phrases_trains(build):
    trainer = build(rows=triplets(8, modification_text="remove it"))
    trainer.train()
    entry = logged(trainer)[0]
    assert entry["loss_concept_consistency"] == 0 and entry["captions_without_phrases"] == 4
    assert "context_entropy" not in entry and "map_diversity" not in entry  # undefined, not zero


def test_without_the_concept_loss_phrases_are_not_encoded(build):
    trainer = build(cc_weight=0.0)
    assert not [name for name in trainer.data_collator(triplets(8)) if name.startswith("phrase_")]
    trainer.train()
    entry = logged(trainer)[0]
    assert entry["loss"] == pytest.approx(entry["loss_contrastive"])
    assert "loss_concept_consistency" not in entry and "captions_without_phrases" not in entry


@pytest.fixture
def break_loss(monkeypatch):
    def break_loss(step, value):
        calls = []

        def broken(*args, **kwargs):
            calls.append(1)
            return contrastive_loss(*args, **kwargs) * (value if len(calls) == step else 1.0)

        monkeypatch.setattr("contextcir.training.objective.contrastive_loss", broken)

    return break_loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training_before_it_is_saved(build, break_loss, value):
    break_loss(4, value)
    trainer = build(max_steps=9, logging_steps=6, save_strategy="steps", save_steps=2)
    with pytest.raises(FloatingPointError, match=r"(nan|inf) .*\b4\b.*learning_rate"):
        trainer.train()
    assert [path.name for path in folder_of(trainer).glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = build(max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4


@pytest.mark.parametrize("step", [1, 3])
def test_a_loss_that_is_not_finite_is_found_without_checkpoints_and_in_the_last_step(build, break_loss, step):
    break_loss(step, math.nan)
    trainer = build(max_steps=3, logging_steps=100)
    with pytest.raises(FloatingPointError, match=rf"nan .*\b{step}\b"):
        trainer.train()
    assert math.isnan(logged(trainer)[-1]["loss"])


def test_an_unreadable_image_ends_training_by_default(build):
    rows = triplets(8)
    rows[1]["target_image"] = {"bytes": b"", "path": None}
    with pytest.raises(ImageError, match="'t1', target_image"):
        build(rows=rows, per_device_train_batch_size=8).train()
