"""Training with mined negatives: what a batch holds, what the loss sees, all models, and resuming."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from contextcir.data.negatives import NegativeImages
from contextcir.training.collator import TripletCollator, image_key
from tests.tiny_triplets import mined_negatives, triplets
from tests.training.conftest import SAVING, changed, folder_of, logged, trained, weights


def mined(rows=8, negatives=4):
    """Triplets with two negatives each, of which two triplets share some, and the images."""
    ids = [[f"n{row % negatives}", f"n{(row + 1) % negatives}"] for row in range(rows)]
    return {
        "rows": [row | {"negative_ids": some} for row, some in zip(triplets(rows), ids, strict=True)],
        "negatives": mined_negatives(negatives),
    }


@pytest.fixture
def collate(processor):
    def collate(rows, hard_negatives=2, epoch=0, **options):
        images = NegativeImages(mined_negatives(4))
        collator = TripletCollator(processor, hard_negatives=hard_negatives, negatives=images, **options)
        collator.set_epoch(epoch)
        return collator(rows)

    return collate


def test_a_batch_holds_each_negative_once(collate):
    rows = mined(3)["rows"]
    batch = collate(rows)
    assert batch["pixel_values"].shape[0] == 6 + 4  # n0, n1, n2 and n3
    assert len(batch["target_index"]) == 3 + 6 and len(batch["reference_index"]) == 3
    assert batch["target_index"][:3].tolist() == [3, 4, 5]
    keys = {image_key(f"n{number}"): number for number in range(4)}
    named = [keys[key] for key in batch["negative_keys"].tolist()]
    assert [set(named[start : start + 2]) for start in (0, 2, 4)] == [{0, 1}, {1, 2}, {2, 3}]
    places = batch["target_index"][3:].tolist()
    assert len({(name, place) for name, place in zip(named, places, strict=True)}) == 4
    assert next(iter(batch)) == "input_ids"


def test_a_row_with_too_few_negatives_is_filled_up_with_its_target(collate):
    rows = mined(2)["rows"]
    rows[0]["negative_ids"], rows[1]["negative_ids"] = [], None
    batch = collate(rows)
    assert batch["negative_keys"].tolist() == batch["target_keys"].repeat_interleave(2).tolist()
    assert batch["target_index"].tolist() == [2, 3, 2, 2, 3, 3] and batch["pixel_values"].shape[0] == 4


def test_the_draw_depends_on_seed_epoch_and_row_only(collate):
    rows = [row | {"negative_ids": [f"n{number}" for number in range(4)]} for row in triplets(6)]

    def drawn(some=rows, **options):
        return collate(some, 1, **options)["negative_keys"].tolist()

    assert drawn() == drawn() and drawn(rows[2:]) == drawn()[2:]
    assert drawn() != drawn(epoch=1) and drawn() != drawn(seed=1) and len(set(drawn())) > 1


def test_an_image_that_is_shown_already_is_encoded_once(collate):
    rows = mined(2)["rows"]
    other = mined_negatives(4)[1]["image"]
    rows[1] |= {"target_id": "n1", "target_image": other, "negative_ids": ["n2"]}
    rows[0]["negative_ids"] = ["n1"]
    assert collate(rows, 1)["pixel_values"].shape[0] == 5
    rows[1]["target_image"] = rows[0]["target_image"]
    with pytest.raises(ValueError, match="different images.*'n1'"):
        collate(rows, 1)


def test_an_unknown_negative_is_named(collate):
    with pytest.raises(ValueError, match="'elsewhere'.* 4 mined negatives"):
        collate([triplets(1)[0] | {"negative_ids": ["elsewhere"]}])


def test_evaluation_has_no_mined_negatives(processor):
    collator = TripletCollator(processor, hard_negatives=2, negatives=NegativeImages(mined_negatives(1)))
    assert "negative_keys" not in collator.for_evaluation()(triplets(2))


@pytest.mark.parametrize("mask", [True, False])
def test_the_loss_of_a_step_has_them_as_terms(build, mask):
    trainer = build(
        **mined(), hard_negatives=2, cc_weight=0.0, query_negatives="none", mask_repeated_targets=mask, max_steps=1
    )
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    model = trainer.model.train()
    loss = trainer.compute_loss(model, dict(batch))
    pixels = batch["pixel_values"]
    with torch.no_grad():
        queries = model.get_query_features(
            pixels[batch["reference_index"]], batch["input_ids"], batch["attention_mask"]
        )
        distinct = torch.cat([batch["target_index"][:4], batch["target_index"][4:].unique()])
        scores = model.logit_scale.exp() * queries @ model.get_image_features(pixels[distinct]).T
    assert len(distinct) == 4 + 4
    assert loss.item() == pytest.approx(cross_entropy(scores, torch.arange(4)).item(), rel=1e-5)


@pytest.mark.parametrize(
    "kind, options",
    [
        ("contextcir", {}),
        ("contextcir", {"model_options": {"target_encoding": "clip"}, "query_negatives": "all"}),
        ("contextcir", {"ema_momentum": 0.5}),
        ("instructcir", {}),
        ("instructcir", {"ema_momentum": 0.5}),
        ("baseline", {}),
    ],
    ids=str,
)
def test_every_model_trains_with_them(build, kind, options):
    data = mined()
    plain = build(kind, rows=data["rows"], output="plain", **options)
    plain.train()
    moved = trained(with_them := build(kind, **data, hard_negatives=2, output="with", **options))
    assert changed(weights(plain), weights(with_them))
    assert moved == set(weights(with_them)) - {"combiner_weight"}
    for one, other in zip(logged(plain), logged(with_them), strict=True):
        assert other["loss_contrastive"] > one["loss_contrastive"]  # more terms


def test_negatives_that_are_not_used_change_nothing(build):
    data = mined()
    plain, unused = build(rows=triplets(8), output="plain"), build(**data, output="unused")
    plain.train()
    unused.train()
    assert not changed(weights(plain), weights(unused))


def test_a_resumed_run_draws_the_same(build):
    data = mined() | {"hard_negatives": 1, "per_device_train_batch_size": 2, "max_steps": 6}
    whole = build(output="whole", **data)
    whole.train()
    first = build(output="part", **data, **SAVING)
    first.train()
    resumed = build(output="part", **data)
    resumed.train(resume_from_checkpoint=str(folder_of(first) / "checkpoint-3"))
    assert not changed(weights(whole), weights(resumed))


def test_images_encoded_once_train_the_same(build, monkeypatch):
    data = mined() | {"hard_negatives": 2, "freeze_vision": True, "max_steps": 3}
    data["negatives"] = mined_negatives(4, g0=triplets(1)[0]["target_image"])
    usual, once = build(output="usual", **data), build(output="once", encode_images_once=True, **data)
    assert len(once.data_collator.encoded_images.places) == 16 + 4  # g0 is a target
    usual.train()
    monkeypatch.setattr(type(once.model), "encode_images", lambda *args: 1 / 0)
    once.train()
    for one, other in zip(logged(once), logged(usual), strict=True):
        assert one["loss_contrastive"] == pytest.approx(other["loss_contrastive"], rel=1e-4)


def test_what_is_missing_is_said(build):
    data = mined()
    with pytest.raises(ValueError, match="negatives=load_negatives"):
        build(rows=data["rows"], hard_negatives=1)
    with pytest.raises(ValueError, match="negative_ids.*contextcir mine"):
        build(rows=triplets(8), negatives=data["negatives"], hard_negatives=1)
    rows = [row | {"negative_ids": 3} for row in triplets(8)]
    with pytest.raises(ValueError, match="negative_ids.*int64.*list of texts"):
        build(rows=rows, negatives=data["negatives"], hard_negatives=1)
