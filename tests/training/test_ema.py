"""The moving average: its recurrence, its precision, what it embeds, and what it takes back from disk."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextcir.training.ema import AVERAGE_FILE, MovingAverage
from modeling_contextcir import InstructCIRModel


@pytest.fixture
def model(clip_folder):
    torch.manual_seed(0)
    model = InstructCIRModel.from_clip_pretrained(clip_folder).train()
    model.vision_model.requires_grad_(False)
    return model


def drift(model, steps=1):
    """The model after some steps of an optimizer."""
    for step in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))


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


def test_it_follows_a_copy_and_moves_by_itself_only(model):
    average = MovingAverage(model, 0.9)
    before = state(average)
    drift(model)
    assert all(torch.equal(value, before[name]) for name, value in average.model.state_dict().items())
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())
    average.update(model, 0.5)
    moved = {name for name, value in average.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


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


def test_written_and_read(model, tmp_path):
    average = MovingAverage(model, 0.9)
    drift(model)
    average.update(model, 0.7)
    average.save(tmp_path / "checkpoint-1")
    assert all(value.dtype == torch.float32 for value in load_file(tmp_path / "checkpoint-1" / AVERAGE_FILE).values())
    again = MovingAverage(model, 0.9)
    assert any(not torch.equal(value, state(average)[name]) for name, value in state(again).items())
    again.load(tmp_path / "checkpoint-1")
    for name, value in state(again).items():
        assert torch.equal(value, state(average)[name]), name
    average.update(model, 0.6)
    again.update(model, 0.6)  # what was read is what moves
    assert all(torch.equal(value, state(average)[name]) for name, value in state(again).items())


def without_one(averages):
    del averages["predictor.fc1.bias"]


def with_another(averages):
    averages["fusion.weight"] = torch.zeros(3)


def of_another_shape(averages):
    averages["predictor.fc1.bias"] = torch.zeros(3)


def with_nan(averages):
    averages["predictor.fc1.bias"][2] = float("nan")


@pytest.mark.parametrize(
    "damage, problem",
    [
        (without_one, "averages other parameters: 'predictor.fc1.bias'"),
        (with_another, "averages other parameters: 'fusion.weight'"),
        (of_another_shape, r"predictor.fc1.bias has the shape \(3,\), expected \(40,\) and finite values"),
        (with_nan, r"predictor.fc1.bias has the shape \(40,\), expected \(40,\) and finite values"),
    ],
)
def test_another_average_is_refused(model, tmp_path, damage, problem):
    MovingAverage(model, 0.9).save(tmp_path)
    averages = load_file(tmp_path / AVERAGE_FILE)
    damage(averages)
    save_file(averages, tmp_path / AVERAGE_FILE)
    with pytest.raises(ValueError, match=f"{AVERAGE_FILE}:? {problem}"):
        MovingAverage(model, 0.9).load(tmp_path)


def test_a_missing_or_damaged_file_is_named(model, tmp_path):
    average = MovingAverage(model, 0.9)
    with pytest.raises(ValueError, match=f"{AVERAGE_FILE} is missing: that run kept no moving average"):
        average.load(tmp_path)
    average.save(tmp_path)
    path = tmp_path / AVERAGE_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{AVERAGE_FILE} is damaged"):
        average.load(tmp_path)
