"""Compiled and exported models: one graph, the same embeddings, any number of rows."""

import pytest
import torch

from tests.models.conftest import queries

EVERY = ["contextcir", "contextcir-image-queries", "contextcir-clip-targets", "instructcir", "combiner", "tirg"]
OF_BOTH = [("get_query_features", 4), ("get_image_features", 5), ("get_text_features", 3)]


def inputs_of(name, batch, size):
    rows = {key: value.repeat(2, *[1] * (value.dim() - 1))[:size] for key, value in queries(batch).items()}
    keys = {"get_image_features": ["pixel_values"], "get_text_features": ["input_ids", "attention_mask"]}
    return {key: rows[key] for key in keys.get(name, rows)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
@torch.no_grad()
def test_no_graph_breaks(build, batch, kind):
    model = build(kind)
    for name, size in OF_BOTH:
        torch.compiler.reset()
        function = getattr(model, name)
        compiled = torch.compile(function, fullgraph=True, backend="eager", dynamic=True)
        for rows in (size, size + 3):
            inputs = inputs_of(name, batch, rows)
            torch.testing.assert_close(compiled(**inputs), function(**inputs), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
@torch.no_grad()
def test_exported_with_any_batch_and_length(build, batch, kind):
    model = build(kind)

    class Queries(torch.nn.Module):
        def forward(self, pixel_values, input_ids, attention_mask):
            return model.get_query_features(pixel_values, input_ids, attention_mask)

    rows, length = torch.export.Dim("rows", min=1, max=64), torch.export.Dim("length", min=3, max=77)
    inputs = inputs_of("get_query_features", batch, 4)
    shapes = {"pixel_values": {0: rows}, "input_ids": {0: rows, 1: length}, "attention_mask": {0: rows, 1: length}}
    graph = torch.export.export(Queries(), (), inputs, dynamic_shapes=shapes, strict=False).module()
    for size in (1, 3, 8):
        some = inputs_of("get_query_features", batch, size)
        some = {key: value[:, : value.shape[1] - (size == 3)] for key, value in some.items()}
        some["pixel_values"] = inputs_of("get_query_features", batch, size)["pixel_values"]
        torch.testing.assert_close(graph(**some), model.get_query_features(**some), atol=1e-5, rtol=0)
