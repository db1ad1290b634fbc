"""Evaluation mode is temporary, and changes of the weights are detected."""

import pytest
import torch

from contextcir.runtime.inference import SAMPLES, evaluation_mode, weights_state


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30), torch.nn.Dropout())


def test_each_submodule_gets_its_own_mode_back(model):
    model[1].eval()  # a frozen layer of a model that trains
    with evaluation_mode(model) as device:
        assert device == torch.device("cpu")
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_the_mode_is_restored_after_an_error(model):
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert model.training and model[2].training


def test_a_model_in_evaluation_mode_stays_in_it(model):
    with evaluation_mode(model.eval()):
        pass
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("autocast, expected", [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_autocast(model, autocast, expected):
    with evaluation_mode(model, autocast):
        assert model[0](torch.ones(2, 20)).dtype == expected
    assert model[0](torch.ones(2, 20)).dtype == torch.float32


def add_in_place(model):
    with torch.no_grad():
        model[0].weight[3, 4] += 1


def replace_a_parameter(model):
    model[0].weight = torch.nn.Parameter(model[0].weight.detach().clone())


def edit_the_data(model):
    model[0].weight.data *= 1.01


def load_other_weights(model):
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})


def update_a_buffer(model):
    model(torch.ones(2, 20))  # the running mean of the normalisation


def change_the_type(model):
    model.half()


@pytest.mark.parametrize(
    "change",
    [add_in_place, replace_a_parameter, edit_the_data, load_other_weights, update_a_buffer, change_the_type],
)
def test_changed_weights_have_another_state(model, change):
    before = weights_state(model)
    assert weights_state(model) == before
    change(model)
    assert weights_state(model) != before


def test_reading_a_model_does_not_change_its_state(model):
    before = weights_state(model)
    with evaluation_mode(model):
        model(torch.ones(2, 20))
    model[0](torch.ones(2, 20)).sum().backward()
    assert weights_state(model.requires_grad_(False)) == before


def test_weights_that_are_not_finite(model):
    model[1].running_var.fill_(float("nan"))
    assert weights_state(model) == weights_state(model)


def test_a_sample_covers_small_tensors_and_bounds_large_ones():
    small, large = torch.nn.Linear(7, 3), torch.nn.Linear(1000, 500, bias=False)
    assert len(weights_state(small)[1]) == 4 * (7 * 3 + 3)
    assert len(weights_state(large)[1]) <= 4 * (SAMPLES + 1)
    for row in range(3):
        before = weights_state(small)
        small.weight.data[row, 5] += 1
        assert weights_state(small) != before


def test_models_without_weights_and_tensors_of_inference_mode():
    assert weights_state(torch.nn.ReLU()) == ((), b"")
    with torch.inference_mode():
        model = torch.nn.Linear(2, 2)
    assert weights_state(model) == weights_state(model)
