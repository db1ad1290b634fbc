"""Losses of evaluation sets against losses written out, and the metrics of an evaluator."""

import pytest
import torch

from contextcir.training.losses import concept_consistency_loss, contrastive_loss
from tests.tiny_triplets import png, triplet, triplets
from tests.training.conftest import SAVING


def test_the_metrics_of_the_evaluator_choose_the_best_model(build):
    seen = []

    def evaluator(model):
        seen.append((model.training, torch.is_grad_enabled()))
        return {"recall@1": 10.0 * len(seen), "recall_subset@1": 5.0}

    best = {"load_best_model_at_end": True, "metric_for_best_model": "recall@1", "greater_is_better": True}
    trainer = build(evaluator=evaluator, eval_strategy="steps", eval_steps=1, **SAVING, **best)
    trainer.train()
    evaluated = [entry for entry in trainer.state.log_history if "eval_recall@1" in entry]
    assert [entry["eval_recall@1"] for entry in evaluated] == [10.0, 20.0]
    assert "eval_loss" not in evaluated[0]  # there are no evaluation triplets
    assert trainer.state.best_metric == 20.0 and trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert seen == [(False, False)] * 2


def test_losses_of_a_set_that_does_not_fill_its_last_batch(build):
    shared = [{"bytes": png(100 + number), "path": None} for number in range(4)]
    rows = [triplet(row, target_id=f"g{row // 2}", target_image=shared[row // 2]) for row in range(7)]
    trainer = build(eval_rows=rows, per_device_eval_batch_size=3, augmentation="crop", cc_weight=0.5)
    metrics = trainer.evaluate()

    contrastive = concepts = 0.0
    for start in (0, 3, 6):
        batch = trainer.data_collator.for_evaluation()(rows[start : start + 3])
        keys = {name: batch.pop(name) for name in ("target_keys", "reference_keys")}
        del batch["num_truncated_texts"], batch["num_dropped_phrases"], batch["triplet_ids"]
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


def test_with_a_moving_average_the_model_itself_is_evaluated(build):
    seen = []
    evaluator = lambda model: seen.append(model) or {}  # noqa: E731
    trainer = build("instructcir", ema_momentum=0.9, eval_rows=triplets(3), evaluator=evaluator)
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
