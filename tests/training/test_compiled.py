"""A compiled training step (`--torch_compile true`): the same training, without a break in its graph."""

import pytest
import torch
from torch._dynamo.utils import counters

from tests.tiny_triplets import triplets
from tests.training.conftest import logged, weights
from tests.training.test_grad_cache import MODELS

COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}  # what comes after the graph is torch's


@pytest.fixture(autouse=True)
def start_anew():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def assert_trained_alike(build, kind, model_options, **options):
    options = {"rows": triplets(12), "max_steps": 3, "model_options": model_options, **options}
    plain, compiled = build(kind, output="plain", **options), build(kind, **options, **COMPILED)
    plain.train()
    compiled.train()
    assert counters["stats"]["unique_graphs"] and not counters["graph_break"]
    for one, other in zip(logged(compiled), logged(plain), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    after = weights(compiled)
    for name, value in weights(plain).items():
        torch.testing.assert_close(after[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image queries", "instructcir", "combiner"])
def test_every_model(build, name):
    assert_trained_alike(build, *MODELS[name])


@pytest.mark.slow
def test_in_chunks_with_gradients_of_isolated_maps(build):
    options = {"grad_cache_chunk": 3, "isolated_grad": True, "cc_form": "contrastive", "ema_momentum": 0.9}
    assert_trained_alike(build, "contextcir", {}, **options)
