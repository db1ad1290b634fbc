"""The best model: the direction of every metric of ours is known, and names that do not exist are refused."""

import pytest

from tests.tiny_triplets import triplets
from tests.training.conftest import SAVING, folder_of

BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, **SAVING}
DIRECTION = pytest.mark.fault("S02", "the best model is the best by every metric of ours; unknown names are refused")


@DIRECTION
@pytest.mark.parametrize("name", ["loss", "loss_contrastive", "eval_loss_concept_consistency", "recall@1", "map@5"])
def test_the_direction_of_a_metric_is_known(build, name):
    evaluator = lambda model: {"recall@1": 1.0, "map@5": 1.0}  # noqa: E731
    trainer = build(metric_for_best_model=name, eval_rows=triplets(3), evaluator=evaluator, **BEST)
    assert trainer.args.greater_is_better == ("loss" not in name)


@DIRECTION
@pytest.mark.parametrize("name", ["loss_contrastive", "loss_concept_consistency"])
def test_the_best_model_has_the_lowest_loss(build, name):
    trainer = build(metric_for_best_model=name, eval_rows=triplets(5), max_steps=3, cc_weight=0.5, **BEST)
    trainer.train()
    losses = {e["step"]: e[f"eval_{name}"] for e in trainer.state.log_history if f"eval_{name}" in e}
    assert len(set(losses.values())) == 3 and trainer.state.best_metric == min(losses.values())
    assert trainer.evaluate()[f"eval_{name}"] == pytest.approx(min(losses.values()))


@DIRECTION
@pytest.mark.parametrize(
    "name, better", [("recall@1", False), ("loss_contrastive", True), ("eval_a_loss", True)], ids=str
)
def test_a_direction_that_makes_the_worst_model_the_best_is_refused(build, name, better):
    with pytest.raises(ValueError, match=f"greater_is_better={better}.*{name}"):
        build(metric_for_best_model=name, greater_is_better=better, eval_rows=triplets(3), **BEST)


@DIRECTION
def test_unknown_names_are_refused_before_training(build):
    trainer = build(metric_for_best_model="recal@1", eval_rows=triplets(3), cc_weight=0.0, **BEST)
    with pytest.raises(ValueError, match=r"recal@1.* loss, loss_contrastive\b(?!.*concept)"):
        trainer.train()
    assert not list(folder_of(trainer).glob("checkpoint-*"))


@DIRECTION
def test_names_of_an_evaluator_that_lists_them(build):
    class Evaluator:
        metric_names = ("recall@1",)

        def __call__(self, model):
            return {"recall@1": 1.0}

    with pytest.raises(ValueError, match=r"recall@2.* loss, .*recall@1"):
        build(metric_for_best_model="recall@2", eval_rows=triplets(3), evaluator=Evaluator(), **BEST).train()
    with pytest.raises(ValueError, match=r"recall@2.* loss, .*recall@1"):  # known only once it has been called
        evaluator = lambda model: {"recall@1": 1.0}  # noqa: E731
        build(metric_for_best_model="recall@2", eval_rows=triplets(3), evaluator=evaluator, **BEST).train()


@DIRECTION
def test_several_evaluation_sets_have_prefixes(build):
    sets = {"a": triplets(3), "b": triplets(2)}
    with pytest.raises(ValueError, match=r"metric_for_best_model=loss\b.* a_loss, .*b_loss"):
        build(metric_for_best_model="loss", eval_rows=sets, **BEST).train()
    calls = []
    trainer = build(
        output="b",
        metric_for_best_model="b_loss_contrastive",
        eval_rows=sets,
        evaluator=lambda model: calls.append(1) or {"recall@1": 10.0},
        **BEST,
    )
    trainer.train()
    assert trainer.args.greater_is_better is False and len(calls) == 2  # once for each evaluation
    metrics = trainer.record()["metrics"]
    assert {"eval_a_loss", "eval_b_loss_contrastive", "eval_recall@1"} <= set(metrics)
    assert not [name for name in metrics if "recall" in name and name != "eval_recall@1"]


@pytest.mark.fault("S03", "predict sees every row as it is: no augmentation, no row left out")
def test_predict_sees_every_row_without_augmentation(build):
    calls = []
    trainer = build(
        eval_rows=triplets(7),
        augmentation="crop",
        per_device_eval_batch_size=4,
        evaluator=lambda m: calls.append(1) or {},
    )
    for rows in (7, 3):
        predicted = trainer.predict(trainer.eval_dataset.select(range(rows)))
        assert len(predicted.label_ids) == len(predicted.predictions[2]) == rows
    assert not calls  # the benchmark of the evaluator is not the test set
    assert predicted.metrics["test_loss"] > 0
    trainer.data_collator.set_epoch(1)
    again = trainer.predict(trainer.eval_dataset.select(range(3)))
    assert (again.predictions[3] == predicted.predictions[3]).all()
