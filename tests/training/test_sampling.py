"""Batches that are composed: what meets in them, that nothing is lost, and that they are the same after resuming."""

from collections import Counter

import pytest

from contextcir.training.sampling import BatchSampler
from tests.tiny_triplets import triplet, triplets
from tests.training.conftest import SAVING, changed, weights


def batches_of(sampler):
    rows = list(sampler)
    assert len(rows) == len(sampler) and len(set(rows)) == len(rows)
    return [rows[start : start + sampler.batch_size] for start in range(0, len(rows), sampler.batch_size)]


def test_families_stay_together():
    families = [row // 4 for row in range(48)]
    sampler = BatchSampler(families, 8)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = batches_of(sampler)
        assert len(batches) == 6
        assert all(set(Counter(families[row] for row in batch).values()) == {4} for batch in batches)


def test_a_batch_has_one_category():
    categories = ["a", "b", "c"] * 10 + ["a"] * 6
    sampler = BatchSampler(range(36), 5, categories=categories)
    batches = batches_of(sampler)
    assert Counter(categories[batch[0]] for batch in batches) == {"a": 3, "b": 2, "c": 2}
    assert all(len({categories[row] for row in batch}) == 1 for batch in batches)
    assert [categories[batch[0]] for batch in batches] != sorted(categories[batch[0]] for batch in batches)


def test_targets_of_a_batch_are_distinct():
    targets = [row % 10 for row in range(50)] + list(range(100, 120))
    sampler = BatchSampler(targets, 10, apart=True)
    seen = set()
    for epoch in range(4):
        sampler.set_epoch(epoch)
        batches = batches_of(sampler)
        assert len(batches) == 7
        assert all(len({targets[row] for row in batch}) == 10 for batch in batches)
        seen |= {row for batch in batches for row in batch}
    assert seen == set(range(70))


def test_a_target_of_too_many_rows_is_cut_down_at_random():
    """A target can be in each batch once: 20 rows of one and 12 of others fill three batches of 5."""
    targets = ["same"] * 20 + list(range(12))
    sampler = BatchSampler(targets, 5, apart=True)
    drawn = set()
    for epoch in range(100):
        sampler.set_epoch(epoch)
        batches = batches_of(sampler)
        assert len(batches) == 3 and all(len({targets[row] for row in batch}) == 5 for batch in batches)
        drawn |= {row for batch in batches for row in batch if row < 20}
    assert drawn == set(range(20))


def test_distinct_targets_within_categories():
    categories, targets = [row % 2 for row in range(40)], [row % 8 for row in range(40)]
    for batch in batches_of(BatchSampler(targets, 4, apart=True, categories=categories)):
        assert len({targets[row] for row in batch}) == 4 and len({categories[row] for row in batch}) == 1


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed=0, epoch=0):
        sampler = BatchSampler([row // 3 for row in range(30)], 6, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order() == order() and sorted(order()) == list(range(30))
    assert order() != order(seed=1) and order() != order(epoch=1)


def test_rows_of_no_batch_are_counted(caplog):
    BatchSampler(range(13), 5, categories=["a"] * 6 + ["b"] * 4 + ["c"] * 3)
    assert "7 of 13" in caplog.text and "2 categories" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"groups": range(9), "categories": [0, 1, 2] * 3}, "9 triplets.* 4 of one category"),
        ({"groups": [0, 1, 2] * 3, "apart": True}, "9 triplets.* 4 with distinct targets"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BatchSampler(**options, batch_size=4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_by": "colour"}, "'colour'.*modification_text"),
        ({"family_by": "reference_id", "distinct_targets": True}, "family_by.*distinct_targets"),
        ({"batch_by": "kind", "train_sampling_strategy": "sequential"}, "batch_by.*train_sampling_strategy"),
    ],
    ids=str,
)
def test_options_that_cannot_be_met_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options).train()


KINDS = ["x", "y"] * 6
ROWS = [
    triplet(row, kind=KINDS[row], target_id=f"g{row % 5}", target_image=triplet(row % 5)["target_image"])
    for row in range(12)
]


def seen(trainer):
    """The triplets of each micro-batch of a training."""
    found, add = [], trainer._watch.add_batch
    trainer._watch.add_batch = lambda ids: (found.append(list(ids)), add(ids))
    return found


@pytest.mark.parametrize(
    "options",
    [{"batch_by": "kind"}, {"family_by": "target_id"}, {"batch_by": "kind", "distinct_targets": True}],
    ids=str,
)
@pytest.mark.slow
def test_a_resumed_run_sees_the_same_batches(build, options):
    """Batches of three: step 2 is in the middle of the first epoch, step 6 of the second."""
    options = options | {"rows": ROWS, "per_device_train_batch_size": 3, "max_steps": 7}
    whole = build(output="whole", **options)
    expected = seen(whole)
    whole.train()
    by_id = {row["id"]: row for row in ROWS}
    for batch in expected:
        rows = [by_id[id_] for id_ in batch]
        assert len(rows) == 3
        assert "batch_by" not in options or len({row["kind"] for row in rows}) == 1
        assert "distinct_targets" not in options or len({row["target_id"] for row in rows}) == 3
    for stop in (2, 6):
        first = build(output=f"part{stop}", **options | SAVING)
        first.args.max_steps, first.args.save_steps = 7, stop
        found = seen(first)
        first.train()
        shorter = build(output=f"part{stop}", **options)
        resumed = seen(shorter)
        shorter.train(resume_from_checkpoint=f"{first.args.output_dir}/checkpoint-{stop}")
        assert found == expected and resumed == expected[stop:]
        assert not changed(weights(whole), weights(shorter))


def test_composed_batches_need_no_option_to_stay_off(build):
    assert type(build()._get_train_sampler()).__name__ == "RandomSampler"


def test_a_stream_cannot_be_composed(build):
    import datasets

    trainer = build()
    rows = datasets.IterableDataset.from_generator(lambda: iter(triplets(8)))
    with pytest.raises(ValueError, match="distinct_targets.*stream"):
        type(trainer)(
            trainer.model,
            type(trainer.args)(output_dir=trainer.args.output_dir, distinct_targets=True, max_steps=1, use_cpu=True),
            train_dataset=rows,
            processing_class=trainer.processing_class,
        )
