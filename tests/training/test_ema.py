"""The moving average: its recurrence, precision, targets and files, and its part in training."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextcir.training.ema import AVERAGE_FILE, MovingAverage
from modeling_contextcir import InstructCIRModel
from tests.tiny_triplets import triplets
from tests.training.conftest import averages, changed, weights


@pytest.fixture
def model(clip_folder):
    torch.manual_seed(0)
    model = InstructCIRModel.from_clip_pretrained(clip_folder).train()
    model.vision_model.requires_grad_(False)
    return model


def drift(model):
    """Change the trained parameters of a model, as a step of an optimizer does."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))


def state(average):
    return {name: value.clone() for name, value in average.model.state_dict().items()}


def test_the_recurrence(model):
    average = MovingAverage(model, 0.9)
    expected = dict(average.model.named_parameters())["predictor.fc1.weight"].clone()
    assert torch.equal(expected, model.predictor.fc1.weight)
    for momentum in (0.9, 0.95, 1.0):
        drift(model)
        average.update(model, momentum)
        expected = momentum * expected + (1 - momentum) * model.predictor.fc1.weight.detach()
        torch.testing.assert_close(average.model.predictor.fc1.weight.data, expected)


def test_only_updates_change_it_and_only_trained_parameters(model):
    average = MovingAverage(model, 0.9)
    before = state(average)
    drift(model)
    assert not changed(before, state(average))
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())
    average.update(model, 0.5)
    assert changed(before, state(average)) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_momentum_rises_linearly_to_one(model):
    average = MovingAverage(model, 0.996)
    assert [average.momentum_at(step, 5) for step in (1, 3, 5)] == [0.996, pytest.approx(0.998), 1.0]
    assert average.momentum_at(1, 1) == 0.996 and average.momentum_at(9, 5) == 1.0


def test_small_steps_of_a_half_precision_model_are_not_lost(model):
    average = MovingAverage(model.bfloat16(), 0.9)
    weight = average.model.predictor.fc1.bias
    assert weight.dtype == torch.float32 and not weight.any()
    with torch.no_grad():
        model.predictor.fc1.bias.fill_(1.0)
    for _ in range(100):
        average.update(model, 0.9999)
    torch.testing.assert_close(weight.data, torch.full_like(weight, 1 - 0.9999**100))


def test_targets_are_those_of_the_average_without_a_gradient(model):
    average = MovingAverage(model, 0.9)
    drift(model)
    pixel_values, seen = torch.randn(4, 3, 30, 30), []
    average.model.vision_model.embeddings.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    embeds = average.embed_targets(pixel_values, torch.tensor([3, 1, 3]))
    assert seen == [2] and not embeds.requires_grad
    torch.testing.assert_close(embeds, average.model.get_image_features(pixel_values[[3, 1, 3]]))
    assert not torch.allclose(embeds, model.get_image_features(pixel_values[[3, 1, 3]]), atol=1e-2)


def test_save_and_load(model, tmp_path):
    average = MovingAverage(model, 0.9)
    drift(model)
    average.update(model, 0.7)
    average.save(tmp_path / "checkpoint-1")
    assert all(value.dtype == torch.float32 for value in load_file(tmp_path / "checkpoint-1" / AVERAGE_FILE).values())
    again = MovingAverage(model, 0.9)
    assert changed(state(again), state(average))
    again.load(tmp_path / "checkpoint-1")
    assert not changed(state(again), state(average))
    average.update(model, 0.6)
    again.update(model, 0.6)  # changes what was loaded
    assert not changed(state(again), state(average))


BIAS = "predictor.fc1.bias"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({BIAS: None}, f"'{BIAS}'"),
        ({"fusion.weight": torch.zeros(3)}, "'fusion.weight'"),
        ({BIAS: torch.zeros(3)}, rf"{BIAS}.*\(3,\).*\(40,\)"),
        ({BIAS: torch.full((40,), torch.nan)}, rf"{BIAS}.*\(40,\).*\(40,\)"),
    ],
    ids=["missing", "unknown", "another shape", "NaN"],
)
def test_another_average_is_refused(model, tmp_path, changes, message):
    MovingAverage(model, 0.9).save(tmp_path)
    tensors = load_file(tmp_path / AVERAGE_FILE) | changes
    save_file({name: value for name, value in tensors.items() if value is not None}, tmp_path / AVERAGE_FILE)
    with pytest.raises(ValueError, match=f"{tmp_path}.*{AVERAGE_FILE}.*{message}"):
        MovingAverage(model, 0.9).load(tmp_path)


def test_a_missing_or_damaged_file_is_named(model, tmp_path):
    average, path = MovingAverage(model, 0.9), tmp_path / AVERAGE_FILE
    with pytest.raises(ValueError, match=f"{path}.*missing"):
        average.load(tmp_path)
    average.save(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path}.*damaged"):
        average.load(tmp_path)


# In training


def test_the_loss_compares_queries_with_targets_of_the_average(build):
    """Written out for a batch, with an average that differs from the model."""
    trainer = build("instructcir", ema_momentum=0.9, max_steps=3)
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
    expected, with_own_targets = (torch.nn.functional.cross_entropy(s, torch.arange(4)) for s in scores)
    torch.testing.assert_close(loss, expected)
    assert (loss - with_own_targets).abs() > 1e-4


def test_the_average_follows_every_step_of_the_optimizer(build):
    """Two steps of two micro-batches each: momentum 0.5 and then 1."""
    trainer = build("instructcir", ema_momentum=0.5, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    start, steps = weights(trainer), []

    def keep(model, momentum, update=trainer.moving_average.update):
        steps.append((weights(trainer), momentum))
        update(model, momentum)

    trainer.moving_average.update = keep
    trainer.train()
    assert [momentum for _, momentum in steps] == [0.5, 1.0]
    for name, average in averages(trainer).items():
        torch.testing.assert_close(average, 0.5 * start[name] + 0.5 * steps[0][0][name])


def test_the_average_starts_where_training_starts(build):
    """On other processes than the first, the weights are different until the model is wrapped."""
    trainer = build("instructcir", ema_momentum=0.9)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1.0)
    start = weights(trainer)
    trainer.moving_average.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    assert not changed(start, averages(trainer))


def test_the_average_may_be_published(build):
    trainer = build("instructcir", ema_momentum=0.9, max_steps=3, publish_moving_average=True)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert not changed(averages(trainer), after) and "predictor.fc2.weight" in changed(before, after)
