"""The digest of weights depends on names, types, shapes and values, and on nothing else."""

import re

import pytest
import torch

from contextcir.runtime.digests import weights_digest

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def test_equal_weights_have_equal_digests():
    digest = weights_digest(WEIGHTS)
    assert re.fullmatch("[0-9a-f]{32}", digest)
    assert weights_digest(dict(reversed(WEIGHTS.items()))) == digest
    assert weights_digest({name: tensor.clone() for name, tensor in WEIGHTS.items()}) == digest
    strided = torch.arange(6.0).reshape(2, 3).T.contiguous().T
    assert not strided.is_contiguous() and weights_digest(WEIGHTS | {"a": strided}) == digest


@pytest.mark.parametrize(
    "changes",
    [
        {"a": WEIGHTS["a"].nextafter(torch.tensor(9.0))},
        {"a": WEIGHTS["a"].flatten()},
        {"a": WEIGHTS["a"].reshape(3, 2)},
        {"a": WEIGHTS["a"].double()},
        {"a": WEIGHTS["a"].view(torch.int32)},  # the same bytes
        {"c": torch.tensor([])},
        {"a": WEIGHTS["b"], "b": WEIGHTS["a"]},
    ],
    ids=["values", "flat", "shape", "double", "type", "one more", "names"],
)
def test_different_weights_have_different_digests(changes):
    assert weights_digest(WEIGHTS | changes) != weights_digest(WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.complex64])
def test_every_type(dtype):
    one, other = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    assert weights_digest({"a": one}) == weights_digest({"a": one.clone()}) != weights_digest({"a": other})


def test_scalars_empty_tensors_and_tensors_of_inference_mode():
    with torch.inference_mode():
        inside = torch.tensor(3.0)
    digest = weights_digest({"a": inside, "b": torch.empty(0, 3)})
    assert digest == weights_digest({"a": torch.tensor(3.0), "b": torch.empty(0, 3)})
    assert digest != weights_digest({"a": torch.tensor(3.0), "b": torch.empty(3, 0)})


def test_a_model_has_the_digest_of_its_state_dict():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    digest = weights_digest(model)
    assert digest == weights_digest(model.state_dict()) == weights_digest(model.eval().requires_grad_(False))
    model[1].running_mean += 1  # a buffer
    assert weights_digest(model) != digest


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")
def test_the_device_does_not_change_the_digest():
    device = torch.accelerator.current_accelerator()
    assert weights_digest({name: tensor.to(device) for name, tensor in WEIGHTS.items()}) == weights_digest(WEIGHTS)
