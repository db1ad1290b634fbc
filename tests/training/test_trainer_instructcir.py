"""InstructCIR through the trainer: targets of the moving average, its checkpoints, and the second stage."""

import shutil
from pathlib import Path

import datasets
import pytest
import torch

from contextcir.training.ema import AVERAGE_FILE
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import InstructCIRModel, InstructCIRProcessor
from tests.tiny_triplets import dataset, triplet, triplets

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def build(clip_folder, tmp_path):
    """A trainer on eight triplets; every call starts from the same weights."""

    def build(rows=None, output="run", eval_rows=None, model=None, evaluator=None, **options):
        torch.manual_seed(0)
        options = {"per_device_train_batch_size": 2, "max_steps": 3, "learning_rate": 1e-3, **options}
        options = {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "report_to": "none", **options}
        options = {"cc_weight": 0.0, "query_negatives": "none", **options}
        rows, eval_rows = (
            part
            and dataset(part)
            .cast_column("reference_image", datasets.Image(decode=False))
            .cast_column("target_image", datasets.Image(decode=False))
            for part in (rows or triplets(8), eval_rows)
        )
        return CIRTrainer(
            model or InstructCIRModel.from_clip_pretrained(clip_folder),
            CIRTrainingArguments(output_dir=str(tmp_path / output), use_cpu=True, **options),
            train_dataset=rows,
            eval_dataset=eval_rows,
            processing_class=InstructCIRProcessor.from_pretrained(clip_folder),
            evaluator=evaluator,
        )

    return build


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def averages(trainer):
    return {name: parameter.clone() for name, parameter in trainer.moving_average.model.named_parameters()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_everything_trains_but_lambda(build, momentum):
    trainer = build(ema_momentum=momentum)
    before = weights(trainer)
    trainer.train()
    assert changed(before, weights(trainer)) == set(before) - {"combiner_weight"}
    for entry in logged(trainer):
        assert entry["loss"] == pytest.approx(entry["loss_contrastive"]) and entry["truncated_texts"] == 0
        assert "loss_concept_consistency" not in entry and "dropped_phrases" not in entry


def test_long_texts_are_counted(build):
    rows = [triplet(row, modification_text="x y " * 60) for row in range(8)]
    trainer = build(rows, max_steps=1)
    trainer.train()
    assert logged(trainer)[0]["truncated_texts"] == 2


def test_the_loss_compares_queries_with_targets_of_the_average(build):
    """With a batch of the trainer itself, written out; the two models differ."""
    trainer = build(ema_momentum=0.9, max_steps=3)
    trainer.train()
    batch = trainer.data_collator(triplets(4))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    queries = trainer.model.get_query_features(
        batch["pixel_values"][batch["reference_index"]], batch["input_ids"], batch["attention_mask"]
    )
    scale = trainer.model.logit_scale.exp()
    scores = [
        scale * queries @ model.get_image_features(batch["pixel_values"][batch["target_index"]]).T
        for model in (trainer.moving_average.model, trainer.model)
    ]
    expected, of_the_model_itself = (torch.nn.functional.cross_entropy(s, torch.arange(4)) for s in scores)
    torch.testing.assert_close(loss, expected)
    assert (loss - of_the_model_itself).abs() > 1e-4


def test_the_average_follows_every_step_of_the_optimizer(build):
    """Two steps of two micro-batches each: momentum 0.5 and then 1."""
    trainer = build(ema_momentum=0.5, max_steps=2, gradient_accumulation_steps=2)
    start, steps = weights(trainer), []

    def keep(model, momentum, update=trainer.moving_average.update):
        steps.append((weights(trainer), momentum))
        update(model, momentum)

    trainer.moving_average.update = keep
    trainer.train()
    assert [momentum for _, momentum in steps] == [0.5, 1.0]
    for name, average in averages(trainer).items():
        torch.testing.assert_close(average, 0.5 * start[name] + 0.5 * steps[0][0][name])


def test_evaluation_is_of_the_model_itself(build):
    seen = []
    trainer = build(ema_momentum=0.9, eval_rows=triplets(3), evaluator=lambda model: seen.append(model) or {})
    trainer.train()
    metrics = trainer.evaluate()
    assert seen == [trainer.model]
    batch = trainer.data_collator.for_evaluation()(triplets(3))
    with torch.no_grad():
        names = ("input_ids", "attention_mask", "pixel_values", "reference_index", "target_index")
        output = trainer.model(**{name: batch[name] for name in names})
    scores = output.logit_scale * output.query_embeds @ output.target_embeds.T
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(3))
    assert metrics["eval_loss"] == metrics["eval_loss_contrastive"] == pytest.approx(expected.item(), rel=1e-5)


def test_resuming_ends_bit_identical(build):
    options = {"ema_momentum": 0.9, "max_steps": 5, "save_strategy": "steps", "save_steps": 2}
    whole = build(output="whole", **options)
    whole.train()
    folder = Path(whole.args.output_dir).parent / "resumed"
    shutil.copytree(f"{whole.args.output_dir}/checkpoint-2", folder / "checkpoint-2")
    resumed = build(output="resumed", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5 and [entry["step"] for entry in logged(resumed)][-1] == 5
    assert not changed(weights(whole), weights(resumed))
    assert not changed(averages(whole), averages(resumed))
    assert logged(resumed)[-1]["loss"] == logged(whole)[-1]["loss"]


def test_resuming_without_the_average_is_refused(build):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer = build(**options)
    trainer.train()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        build(ema_momentum=0.9, **options).train(resume_from_checkpoint=True)
    checkpoint = f"{trainer.args.output_dir}/checkpoint-4"
    with pytest.raises(ValueError, match=f"checkpoint-4: {AVERAGE_FILE} is missing"):
        build(ema_momentum=0.9, **options).train(resume_from_checkpoint=checkpoint)


def test_a_whole_checkpoint_is_looked_for_further_back(build):
    options = {"ema_momentum": 0.9, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer = build(**options)
    trainer.train()
    Path(trainer.args.output_dir, "checkpoint-4", AVERAGE_FILE).unlink()
    again = build(**options)
    again.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in logged(again)] == [1, 2, 3, 4]
    assert not changed(averages(trainer), averages(again))


def test_the_average_is_not_forgotten(build):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    build(ema_momentum=0.9, **options).train()
    with pytest.raises(ValueError, match="has targets from a moving average .* Give the ema_momentum of that run"):
        build(**options).train(resume_from_checkpoint=True)


def test_the_average_starts_where_training_does(build):
    """On other processes than the first the weights are other ones until the model is wrapped."""
    trainer = build(ema_momentum=0.9, max_steps=1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1.0)
    start = weights(trainer)
    trainer.moving_average.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    assert not changed(start, averages(trainer))


def test_the_average_may_be_what_is_published(build):
    trainer = build(ema_momentum=0.9, publish_moving_average=True)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert not changed(averages(trainer), after) and "predictor.fc2.weight" in changed(before, after)


def test_a_checkpoint_is_whole_only_with_its_average(build, monkeypatch):
    """A run that is killed while it saves must not leave a checkpoint that looks whole and lacks the average."""

    def killed(*args):
        raise KeyboardInterrupt

    trainer = build(ema_momentum=0.9, save_strategy="steps", save_steps=2)
    monkeypatch.setattr(trainer.moving_average, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        build(ema_momentum=0.9).train(resume_from_checkpoint=True)


def test_what_the_model_does_not_have_is_not_asked_of_it(build):
    with pytest.raises(ValueError, match="InstructCIRModel has no attention maps of noun phrases. Set cc_weight to 0"):
        build(cc_weight=0.08)
    with pytest.raises(ValueError, match="does not embed the reference image by itself. Set query_negatives to none"):
        build(query_negatives="own").train()


def test_the_second_stage_tunes_lambda_and_nothing_else(build):
    first = build(output="first")
    first.train()
    first.save_model()
    model = InstructCIRModel.from_pretrained(first.args.output_dir)
    second = build(output="second", model=model, train_only="combiner_weight", weight_decay=0.0, max_steps=2)
    before = weights(second)
    second.train()
    assert changed(before, weights(second)) == {"combiner_weight"}
    record = second.record()
    assert record["model"]["trainable_parameters"] == 1
    assert record["model"]["scalars"]["combiner_weight"] == model.combiner_weight.item() != 1.0


@pytest.mark.parametrize("name", ["lambda", "config", "forward"])
def test_an_unknown_part_is_refused(build, name):
    with pytest.raises(ValueError, match=f"no part '{name}' to train only. It has .*blocks, predictor"):
        build(train_only=name)


def test_the_card_says_what_the_record_says(build):
    trainer = build(ema_momentum=0.9, evaluator=lambda model: {"recall@1": 12.5})
    trainer.card_template = REPOSITORY / "model_cards" / "instructcir_template.md"
    trainer.run_info = {"command": "train.py --x", "model": {"base_model": "user/clip"}}
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    for said in (
        "base_model: user/clip",
        "arXiv 2504.00812",
        "| recall@1 | 12.5 |",
        "`train.py --x`",
        "the model itself, not the moving average",
        "lambda = 1:",
        "| ema_momentum | `0.9` |",
        f"{logged(trainer)[0]['loss']:.4g}",
    ):
        assert said in card, said
