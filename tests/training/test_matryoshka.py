"""Matryoshka: the loss at each width, what is logged and measured, and what the model says of it."""

import json

import pytest
import torch

from contextcir.training.losses import contrastive_loss
from contextcir.training.matryoshka import losses_at, truncated
from contextcir.training.metric_names import greater_is_better
from modeling_contextcir import ContextCIRModel
from tests.tiny_triplets import triplets
from tests.training.conftest import changed, folder_of, logged, weights
from tests.training.test_grad_cache import MODELS, SHARED, assert_same, gradients

WIDTHS = [20, 10, 5]


def test_the_loss_is_the_mean_over_renormalised_prefixes():
    torch.manual_seed(0)
    queries, targets, references = torch.nn.functional.normalize(torch.randn(3, 6, 8), dim=-1)

    def loss(*embeds):
        return contrastive_loss(*embeds, 10.0)

    mean, each = losses_at([8, 3], loss, queries, targets, references)
    norm = torch.nn.functional.normalize
    expected = loss(norm(queries[:, :3], dim=-1), norm(targets[:, :3], dim=-1), norm(references[:, :3], dim=-1))
    torch.testing.assert_close(each[3], expected)
    torch.testing.assert_close(each[8], loss(queries, targets, references))
    torch.testing.assert_close(mean, (each[3] + each[8]) / 2)
    assert truncated(queries.double(), 2).dtype == torch.float64


def test_one_width_trains_like_none(build):
    plain, other = build(output="plain"), build(output="other", matryoshka_dims=[20])
    plain.train()
    other.train()
    after = weights(other)
    for name, value in weights(plain).items():  # normalised twice
        torch.testing.assert_close(after[name], value, atol=1e-4, rtol=1e-3)


def test_widths_change_training_and_are_logged_and_evaluated(build):
    plain = build(output="plain")
    plain.train()
    trainer = build(matryoshka_dims=WIDTHS, eval_rows=triplets(6), per_device_eval_batch_size=4)
    trainer.train()
    assert changed(weights(plain), weights(trainer))
    found = trainer.evaluate()
    for entry, prefix in [*((entry, "") for entry in logged(trainer)), (found, "eval_")]:
        each = [entry[f"{prefix}dim{width}_loss_contrastive"] for width in WIDTHS]
        assert len(set(each)) == 3 and sum(each) / 3 == pytest.approx(entry[f"{prefix}loss_contrastive"], rel=1e-4)
    assert {f"dim{width}_loss_contrastive" for width in WIDTHS} < set(trainer.metric_names())
    assert not greater_is_better("eval_dim5_loss_contrastive") and greater_is_better("eval_dim5_recall@10")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_gradients_with_chunks_are_those_of_the_whole_step(build, name, dtype, tolerance):
    kind, model_options = MODELS[name]
    options = {"rows": SHARED, "matryoshka_dims": WIDTHS, "model_options": model_options}
    plain, cached = build(kind, output="plain", **options), build(kind, output="cached", grad_cache_chunk=3, **options)
    assert_same(gradients(cached, dtype=dtype), gradients(plain, dtype=dtype), tolerance)


def test_a_trained_model_says_its_widths(build, monkeypatch):
    trainer = build(matryoshka_dims=WIDTHS)
    trainer.train()
    trainer.save_model()
    assert json.loads((folder_of(trainer) / "config.json").read_text())["matryoshka_dims"] == WIDTHS
    again = ContextCIRModel.from_pretrained(folder_of(trainer))
    assert again.config.matryoshka_dims == WIDTHS
    warned = []
    monkeypatch.setattr("contextcir.training.matryoshka.logger.warning", warned.append)
    build(output="kept", model=again, matryoshka_dims=WIDTHS)
    assert not warned
    build(output="whole", model=again)
    assert len(warned) == 1 and str(WIDTHS) in warned[0]


def test_widths_that_do_not_fit_the_model_are_refused(build):
    for widths in ([40, 10], [10, 5]):
        with pytest.raises(ValueError, match=r"matryoshka_dims.*\b20\b"):
            build(matryoshka_dims=widths)
