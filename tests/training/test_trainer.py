"""Training, evaluation, checkpoints and the record of a run, on a model of odd sizes."""

import json
import math
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file

from contextcir.data.images import ImageError
from contextcir.training.losses import contrastive_loss
from contextcir.training.schedules import cosine_with_restarts
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.tiny_triplets import dataset, png, triplet, triplets

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def processor(clip_folder):
    return ContextCIRProcessor.from_pretrained(clip_folder)


def undecoded(rows):
    rows = dataset(rows)
    for column in ("reference_image", "target_image"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


@pytest.fixture
def build(clip_folder, processor, tmp_path):
    """A trainer on eight triplets; every call starts from the same weights."""

    def build(rows=None, output="run", evaluator=None, eval_rows=None, model_options=None, **options):
        torch.manual_seed(0)
        model = ContextCIRModel.from_clip_pretrained(clip_folder, **(model_options or {}))
        options = {"per_device_train_batch_size": 4, "max_steps": 2, "learning_rate": 1e-3, **options}
        options = {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "report_to": "none", **options}
        return CIRTrainer(
            model,
            CIRTrainingArguments(output_dir=str(tmp_path / output), use_cpu=True, **options),
            train_dataset=undecoded(triplets(8) if rows is None else rows),
            eval_dataset=None if eval_rows is None else undecoded(eval_rows),
            processing_class=processor,
            evaluator=evaluator,
        )

    return build


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def trained(trainer):
    before = weights(trainer)
    trainer.train()
    return changed(before, weights(trainer))


@pytest.mark.parametrize(
    "model_options",
    [{}, {"fusion_direction": "image_to_text"}, {"target_encoding": "clip"}, {"fusion_class_token": False}],
    ids=str,
)
def test_every_parameter_moves(build, model_options):
    trainer = build(model_options=model_options, max_steps=3)
    assert trained(trainer) == set(weights(trainer))


def test_frozen_parameters_stay(build):
    assert not any(name.startswith("vision_model.") for name in trained(build(output="a", freeze_vision=True)))
    assert not any(name.startswith("text_model.") for name in trained(build(output="b", freeze_text=True)))
    assert "logit_scale" not in trained(build(output="c", learn_temperature=False))


@pytest.mark.parametrize("model_options", [{}, {"fusion_class_token": False}, {"target_encoding": "clip"}], ids=str)
def test_encoding_images_once_changes_nothing_but_the_work(build, model_options, monkeypatch):
    options = {"freeze_vision": True, "max_steps": 4, "model_options": model_options}
    usual = build(output="usual", **options)
    usual.train()
    once = build(output="once", encode_images_once=True, **options)
    encoded = []
    monkeypatch.setattr(type(once.model), "encode_images", lambda *args: encoded.append(args))
    once.train()
    assert not encoded
    for one, other in zip(logged(once), logged(usual), strict=True):
        for name in ("loss_contrastive", "loss_concept_consistency", "context_entropy"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    after = weights(once)
    for name, value in weights(usual).items():
        # A fraction of the four steps of 1e-3: AdamW makes steps of rounding where a gradient vanishes.
        torch.testing.assert_close(after[name], value, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{}, {"freeze_vision": True, "augmentation": "crop"}, {"freeze_vision": True, "ema_momentum": 0.9}],
    ids=str,
)
def test_images_that_change_are_not_encoded_once(build, options):
    with pytest.raises(ValueError, match="encode_images_once"):
        build(encode_images_once=True, **options)


def test_the_weight_of_the_concept_loss_rises(build):
    trainer = build(cc_weight=0.5, cc_warmup_steps=0.75, max_steps=4)
    trainer.train()
    for step, entry in enumerate(logged(trainer)):
        weight = 0.5 * min(1, step / 3)
        assert entry["loss"] == pytest.approx(
            entry["loss_contrastive"] + weight * entry["loss_concept_consistency"], rel=1e-5
        )


def test_logged_parts_add_up_to_the_loss(build):
    trainer = build(cc_weight=0.5)
    trainer.train()
    for entry in logged(trainer):
        assert entry["loss"] == pytest.approx(
            entry["loss_contrastive"] + 0.5 * entry["loss_concept_consistency"], rel=1e-5
        )
        assert 0 < entry["context_entropy"] <= math.log(25) and 0 < entry["isolated_entropy"] <= math.log(25)
        assert 0 < entry["map_diversity"] < 1
        assert entry["temperature"] == pytest.approx(math.exp(-trainer.model.logit_scale.item()), rel=1e-2)
        assert entry["truncated_texts"] == entry["dropped_phrases"] == 0
    # One epoch of eight triplets with 2, 3, 0, 1, 3, 0, 2, 3 noun phrases.
    assert sum(entry["num_concepts"] for entry in logged(trainer)) * 4 == 14
    assert sum(entry["captions_without_phrases"] for entry in logged(trainer)) == 2


def test_long_texts_are_counted(build):
    rows = [triplet(row, modification_text="the dog " + "x y " * 60 + "the cat") for row in range(8)]
    trainer = build(rows, max_steps=1)
    trainer.train()
    assert logged(trainer)[0]["truncated_texts"] == logged(trainer)[0]["dropped_phrases"] == 4


def test_a_batch_without_phrases_trains(build):
    trainer = build([triplet(row, modification_text="remove it") for row in range(8)])
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


OF_ONE_TARGET = {"target_id": "g0", "target_image": triplet(0)["target_image"]}
REPEATED = [
    triplet(row, **OF_ONE_TARGET, reference_id=f"r{row % 2}", reference_image=triplet(row % 2)["reference_image"])
    for row in range(8)
]


@pytest.mark.parametrize(
    "options, rows",
    [
        ({"cc_weight": 0.5}, None),
        ({"cc_form": "absolute", "cc_slack": 0.01}, None),
        ({"cc_slack": 0.01}, None),
        ({"cc_form": "contrastive"}, None),
        ({"isolated_grad": True}, None),
        ({"query_negatives": "all"}, None),
        ({"query_negatives": "none"}, None),
        ({"mask_repeated_targets": False}, REPEATED),
        ({"max_phrases": 1}, None),
        ({"augmentation": "crop"}, None),
        ({"min_learning_rate": 5e-4}, None),
        ({"lr_num_cycles": 2}, None),
        ({"lr_scheduler_type": "constant"}, None),
        ({"weight_decay": 0.5}, None),
        ({"ema_momentum": 0.5}, None),
    ],
    ids=str,
)
def test_every_option_changes_training(build, options, rows):
    plain, other = build(rows, output="plain", max_steps=4), build(rows, output="other", max_steps=4, **options)
    plain.train()
    other.train()
    assert changed(weights(plain), weights(other))


def test_gradient_accumulation_equals_one_batch_where_losses_are_those_of_single_rows(build):
    """
    Negatives do not cross micro-batches, so 8x1 equals 1x8 only where no query meets another row's target: all rows
    have one target, which is masked, and the own reference remains.
    """
    steps = {}
    for size in (8, 2, 1):
        trainer = build(
            REPEATED,
            output=f"run{size}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            optim="sgd",
            max_grad_norm=0.0,
            max_steps=1,
        )
        trainer.train()
        steps[size] = (weights(trainer), logged(trainer)[0])
    for size in (2, 1):
        for name, expected in steps[8][0].items():
            torch.testing.assert_close(steps[size][0][name], expected, rtol=1e-5, atol=1e-7)
        for part in (
            "loss",
            "loss_contrastive",
            "loss_concept_consistency",
            "num_concepts",
            "context_entropy",
            "map_diversity",
        ):
            assert steps[size][1][part] == pytest.approx(steps[8][1][part], rel=1e-5)
        for count in ("captions_without_phrases", "truncated_texts"):
            assert steps[size][1][count] == steps[8][1][count]


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


def test_evaluation_adds_the_metrics_of_the_evaluator(build):
    seen = []

    def evaluator(model):
        seen.append((model.training, torch.is_grad_enabled()))
        return {"recall@1": 10.0 * len(seen), "recall_subset@1": 5.0}

    trainer = build(
        evaluator=evaluator,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="recall@1",
        greater_is_better=True,
    )
    trainer.train()
    evaluated = [entry for entry in trainer.state.log_history if "eval_recall@1" in entry]
    assert [entry["eval_recall@1"] for entry in evaluated] == [10.0, 20.0]
    assert "eval_loss" not in evaluated[0]  # no triplets to evaluate
    assert trainer.state.best_metric == 20.0 and trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert seen == [(False, False)] * 2


def test_evaluation_losses_are_exact_at_uneven_ends(build, processor):
    from contextcir.training.losses import concept_consistency_loss, contrastive_loss

    shared = [{"bytes": png(100 + number), "path": None} for number in range(4)]
    rows = [triplet(row, target_id=f"g{row // 2}", target_image=shared[row // 2]) for row in range(7)]
    trainer = build(eval_rows=rows, per_device_eval_batch_size=3, augmentation="crop", cc_weight=0.5)
    metrics = trainer.evaluate()

    contrastive = concepts = 0.0
    for start in (0, 3, 6):
        batch = trainer.data_collator.for_evaluation()(rows[start : start + 3])
        keys = {name: batch.pop(name) for name in ("target_keys", "reference_keys")}
        del batch["num_truncated_texts"], batch["num_dropped_phrases"]
        with torch.no_grad():
            outputs = trainer.model(**batch)
        embeds = (outputs.query_embeds, outputs.target_embeds, outputs.reference_embeds)
        size = len(outputs.query_embeds)
        contrastive += size / 7 * contrastive_loss(*embeds, outputs.logit_scale, **keys).item()
        attentions = (outputs.context_attentions, outputs.isolated_attentions)
        concepts += size / 7 * concept_consistency_loss(*attentions, batch["phrase_sample"], size).loss.item()
    assert metrics["eval_loss_contrastive"] == pytest.approx(contrastive, rel=1e-5)
    assert metrics["eval_loss_concept_consistency"] == pytest.approx(concepts, rel=1e-4)
    assert metrics["eval_loss"] == pytest.approx(contrastive + 0.5 * concepts, rel=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_ends_bit_identical(build, workers):
    """Eight triplets, batches of two: step 3 is in the middle of the first epoch, step 6 of the second."""
    options = {"per_device_train_batch_size": 2, "max_steps": 7, "augmentation": "crop"}
    options |= {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    options |= {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    whole = build(output="whole", eval_rows=triplets(3), **options)
    whole.train()
    expected = weights(whole)
    for step in (3, 6) if not workers else (3,):
        folder = Path(f"{whole.args.output_dir}-{step}")
        shutil.copytree(f"{whole.args.output_dir}/checkpoint-{step}", folder / f"checkpoint-{step}")
        (folder / "checkpoint-7").mkdir()  # left by a run that was killed while it saved
        resumed = build(output=f"whole-{step}", eval_rows=triplets(3), **options)
        resumed.train(resume_from_checkpoint=True)
        assert not changed(expected, weights(resumed))
        assert logged(resumed)[-1]["loss_contrastive"] == logged(whole)[-1]["loss_contrastive"]


def test_an_output_folder_belongs_to_one_run(build):
    first = build(save_strategy="steps", save_steps=1)
    first.train()
    with pytest.raises(ValueError, match=r"holds the results of another run \(checkpoint-"):
        build().train()
    resumed = build(max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_two_runs_at_once_in_one_folder_are_refused(build):
    messages = []

    def evaluator(model):
        with pytest.raises(ValueError) as error:
            build().train()
        messages.append(str(error.value))
        return {}

    build(evaluator=evaluator, eval_strategy="steps", eval_steps=2).train()
    assert "Another run is training into" in messages[0]
    build().train()  # released


def test_a_claimed_output_folder_stays_claimed_after_training(build):
    trainer = build()
    with trainer.claim_output_dir():
        trainer.train()
        with pytest.raises(ValueError, match="Another run is training into"):
            build().train()
    build().train()


def test_resuming_from_what_cannot_be_resumed_says_why(build, tmp_path):
    with pytest.raises(ValueError, match="Nothing to resume: no whole checkpoint in"):
        build().train(resume_from_checkpoint=True)
    (tmp_path / "half").mkdir()
    with pytest.raises(ValueError, match="Cannot resume from .*half: trainer_state.json is missing"):
        build().train(resume_from_checkpoint=str(tmp_path / "half"))


def with_nan(weights):
    weights["projection.weight"][3, 4] = float("nan")


def without_a_tensor(weights):
    del weights["projection.weight"]


@pytest.mark.parametrize(
    "damage, problem",
    [
        (with_nan, "model.safetensors holds NaN or infinite values in projection.weight"),
        (without_a_tensor, "model.safetensors lacks the tensors projection.weight"),
    ],
)
def test_broken_weights_are_not_resumed_from(build, damage, problem):
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    whole = build(output="whole", **options)
    whole.train()
    build(output="run", **options).train()
    last = Path(whole.args.output_dir).parent / "run" / "checkpoint-2"
    shutil.rmtree(last.parent / "checkpoint-3")
    weights_of_2 = load_file(last / "model.safetensors")
    damage(weights_of_2)
    save_file(weights_of_2, last / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ValueError, match=f"Cannot resume from .*checkpoint-2: {problem}. resume_from_checkpoint=True"):
        build(output="run", **options).train(resume_from_checkpoint=str(last))
    resumed = build(output="run", **options)
    resumed.train(resume_from_checkpoint=True)  # from the first step
    assert [entry["step"] for entry in logged(resumed)] == [1, 2, 3]
    assert not changed(weights(whole), weights(resumed))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_training_before_it_is_saved(build, monkeypatch, value):
    calls = []

    def breaks_down(*args, **kwargs):
        calls.append(1)
        return contrastive_loss(*args, **kwargs) * (value if len(calls) == 4 else 1.0)

    monkeypatch.setattr("contextcir.training.trainer.contrastive_loss", breaks_down)
    trainer = build(max_steps=9, logging_steps=6, save_strategy="steps", save_steps=2)
    with pytest.raises(FloatingPointError, match="The loss is (nan|inf) in the steps up to 4.*Lower learning_rate"):
        trainer.train()
    assert [path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = build(max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4


@pytest.mark.parametrize("step", [1, 3])
def test_a_loss_that_is_no_number_is_found_without_checkpoints_and_in_the_last_step(build, monkeypatch, step):
    calls = []

    def breaks_down(*args, **kwargs):
        calls.append(1)
        return contrastive_loss(*args, **kwargs) * (float("nan") if len(calls) == step else 1.0)

    monkeypatch.setattr("contextcir.training.trainer.contrastive_loss", breaks_down)
    trainer = build(max_steps=3, logging_steps=100)
    with pytest.raises(FloatingPointError, match="up to 3, expected a finite number"):
        trainer.train()
    assert math.isnan(logged(trainer)[-1]["loss"])


BAD_ROWS = triplets(8)
BAD_ROWS[1]["target_image"] = {"bytes": b"", "path": None}
BAD_ROWS[5]["reference_image"] = {"bytes": BAD_ROWS[5]["reference_image"]["bytes"][:-80], "path": None}


def test_bad_images_abort_by_default(build):
    with pytest.raises(ImageError, match="triplet 't[15]', (target|reference)_image"):
        build(BAD_ROWS, per_device_train_batch_size=8).train()


def test_bad_images_can_be_skipped_and_are_listed(build):
    trainer = build(BAD_ROWS, on_bad_image="skip", per_device_train_batch_size=6, eval_rows=BAD_ROWS[:3])
    assert trainer.train_dataset["id"] == ["t0", "t2", "t3", "t4", "t6", "t7"]
    assert trainer.eval_dataset["id"] == ["t0", "t2"]
    trainer.train()
    listed = json.loads((Path(trainer.args.output_dir) / "bad_images.json").read_text())
    assert [(image["row"], image["id"], image["column"]) for image in listed["train"]] == [
        (1, "t1", "target_image"),
        (5, "t5", "reference_image"),
    ]
    assert trainer.record()["bad_images"] == {"train": 2, "eval": 1}


def bad_rows_of(trainer):
    listed = json.loads((Path(trainer.args.output_dir) / "bad_images.json").read_text())
    return {split: [image["row"] for image in bad] for split, bad in listed.items()}


def test_less_than_one_batch_is_refused(build):
    with pytest.raises(ValueError, match="8 training triplets do not fill one batch of 16 over all processes. Lower"):
        build(per_device_train_batch_size=16).train()
    trainer = build(BAD_ROWS, on_bad_image="skip", per_device_train_batch_size=8)
    with pytest.raises(
        ValueError, match=r"6 training .* \(2 with unreadable images are left out, see bad_images.json\)"
    ):
        trainer.train()
    assert bad_rows_of(trainer) == {"train": [1, 5]}


def test_an_evaluation_of_nothing_is_refused(build):
    trainer = build(on_bad_image="skip", eval_rows=[BAD_ROWS[1], BAD_ROWS[5]])
    with pytest.raises(ValueError, match="All 2 evaluation triplets have unreadable images, see bad_images.json"):
        trainer.train()
    assert bad_rows_of(trainer) == {"train": [], "eval": [0, 1]}


def test_the_card_says_what_the_record_says(build):
    trainer = build(evaluator=lambda model: {"recall@1": 12.5})
    trainer.card_template = REPOSITORY / "model_cards" / "contextcir_template.md"
    data = {"names": ["user/triplets"], "train_split": "train", "benchmark": "user/bench", "benchmark_split": "test"}
    trainer.run_info = {"command": "train.py --x", "commit": "abc", "data": data, "model": {"base_model": "user/clip"}}
    trainer.train()
    trainer.evaluate()
    record = json.loads(json.dumps(trainer.record()))
    assert record["metrics"]["eval_recall@1"] == 12.5
    assert record["arguments"]["cc_weight"] == 0.08 and record["arguments"]["seed"] == 42
    assert "output_dir" not in record["arguments"]
    assert record["history"][0]["loss_contrastive"] == logged(trainer)[0]["loss_contrastive"]
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    for said in (
        "base_model: user/clip",
        "- user/triplets",
        "| recall@1 | 12.5 |",
        "the test split of `user/bench`",
        "`train.py --x`",
        "commit `abc`",
        "| cc_weight | `0.08` |",
        f"torch {torch.__version__}",
        f"{logged(trainer)[0]['loss']:.4g}",
    ):
        assert said in card, said


def test_save_load_and_go_on(build, tmp_path):
    trainer = build()
    trainer.train()
    trainer.save_model()
    loaded = ContextCIRModel.from_pretrained(trainer.args.output_dir)
    assert not changed(weights(trainer), dict(loaded.named_parameters()))
    ContextCIRProcessor.from_pretrained(trainer.args.output_dir)
