"""Mined negatives: what is taken, what is left out, and by which id."""

import datasets
import pytest
import torch
from PIL import Image

from contextcir.data.images import encode_image
from contextcir.data.triplets import TRIPLET_FEATURES
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.mining import GUARDS, Bounds, mine

ANGLES = {"ref": 170, "goal": 40, "again": 40, "twin": 41, "near": 30, "mid": 80, "far": 120, "top": 2, "other": 60}
NAMES = list(ANGLES)


def picture(name: str, width: int = 8) -> dict:
    """A picture whose shade says which it is. Another width makes another file."""
    shade = 10 + 20 * NAMES.index(name)
    return {"bytes": encode_image(Image.new("RGB", (width, 8), (shade,) * 3)), "path": None}


def vectors(images) -> torch.Tensor:
    angles = [float(ANGLES[NAMES[(image.getpixel((0, 0))[0] - 10) // 20]]) for image in images]
    radians = torch.deg2rad(torch.tensor(angles))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def retriever() -> DenseRetriever:
    """A model whose queries point to 0 degrees, whatever they are."""
    identity = Identity("angles", "1")
    return DenseRetriever(vectors, lambda images, texts: torch.tensor([[1.0, 0.0]] * len(texts)), identity=identity)


def triplets(*rows: tuple[str, str, str]) -> datasets.Dataset:
    made = [
        {
            "id": str(number),
            "reference_image": picture(reference),
            "target_image": picture(target),
            "modification_text": text,
            "noun_phrases": [],
            "reference_id": reference,
            "target_id": target,
        }
        for number, (reference, text, target) in enumerate(rows)
    ]
    return datasets.Dataset.from_list(made, features=TRIPLET_FEATURES)


ONE = triplets(("ref", "turn", "goal"))
LOOSE = {"max_above": 2.0, "near_duplicate": 2.0}  # guards that depend on embeddings are off


def gallery(names=NAMES, **others) -> Gallery:
    images = {name: picture(name) for name in names} | others
    return Gallery(list(images), list(images.values()))


def mined_from(rows=ONE, where=None, **bounds):
    return mine(rows, retriever(), gallery() if where is None else where, Bounds(**LOOSE | bounds))[0]


def test_the_best_ranked_that_are_not_the_target_are_taken():
    found = mined_from(number=3)
    assert found.negative_ids == [["top", "near", "again"]]  # of equal scores, the earlier one is the target
    assert found.ranks == [1, 2, 4] and found.left_out["target"] == 1
    assert found.margins[0] == pytest.approx(torch.tensor(40.0).deg2rad().cos().item() - 0.99939, abs=1e-4)
    assert set(found.places) == {"top", "near", "again"}


@pytest.mark.parametrize(
    "bounds, expected",
    [
        ({"first_rank": 5, "last_rank": 7}, ["twin", "other", "mid"]),
        ({"first_rank": 6}, ["other", "mid", "far"]),
        ({"reference": True}, ["top", "near", "again", "twin", "other", "mid", "far", "ref"]),
        ({"max_above": 0.0}, ["again", "twin", "other", "mid", "far"]),
        ({"max_above": 0.11}, ["near", "again", "twin", "other", "mid", "far"]),
        ({"max_below": 0.3, "max_above": 0.0}, ["again", "twin", "other"]),
        ({"near_duplicate": 0.999}, ["top", "near", "other", "mid", "far"]),
        ({"near_duplicate": 0.95}, ["top", "mid", "far", "other"]),
    ],
    ids=str,
)
def test_bounds(bounds, expected):
    assert set(mined_from(**bounds).negative_ids[0]) == set(expected)


def test_copies_of_the_target_are_guarded_whatever_their_name():
    found = mined_from(where=gallery(copied=picture("goal"), wider=picture("goal", width=9)))
    assert "copied" not in found.negative_ids[0] and "goal" not in found.negative_ids[0]
    assert "wider" in found.negative_ids[0]  # another file: for the embeddings to notice
    found = mined_from(where=gallery(wider=picture("goal", width=9)), near_duplicate=0.99)
    assert "wider" not in found.negative_ids[0] and found.left_out["near_duplicate"] >= 1


def test_copies_among_the_triplets_are_guarded():
    copies = {"reference_id": "ref copy", "target_id": "goal copy", "reference_image": picture("ref")}
    row = ONE[0] | copies | {"id": "1", "modification_text": "stop", "target_image": picture("goal")}
    rows = datasets.concatenate_datasets([ONE, datasets.Dataset.from_list([row], features=TRIPLET_FEATURES)])
    found, where = mine(rows, retriever(), bounds=Bounds(**LOOSE))
    assert where.ids == ["ref", "ref copy", "goal", "goal copy"] and found.negative_ids == [[], []]
    assert found.left_out["target"] == found.left_out["reference"] == 4


def test_other_targets_of_a_query_are_guarded():
    rows = triplets(("ref", "turn", "goal"), ("ref", "turn", "near"), ("ref", "stop", "mid"))
    found = mined_from(rows)
    assert not {"goal", "near"} & {*found.negative_ids[0], *found.negative_ids[1]}
    assert {"goal", "near"} <= set(found.negative_ids[2])  # another text
    assert found.left_out["other_target"] == 2


def test_the_reference_is_guarded_by_content():
    found = mined_from(where=gallery(copied=picture("ref")))
    assert not {"ref", "copied"} & set(found.negative_ids[0]) and found.left_out["reference"] == 2


def test_negatives_have_the_ids_of_the_triplets_where_these_show_them():
    rows = triplets(("ref", "turn", "goal"), ("ref", "stop", "top"))
    where = gallery(["near", "mid"], elsewhere=picture("top"))
    found = mined_from(rows, where)
    assert found.negative_ids == [["top", "near", "mid"], ["near", "mid"]]
    assert where.ids[found.places["top"]] == "elsewhere"


def test_an_id_with_two_meanings_is_refused():
    with pytest.raises(ValueError, match="'goal'.*different contents"):
        mined_from(where=gallery(["near", "mid"], goal=picture("far")))


def test_the_images_of_the_triplets_are_the_gallery_by_default():
    rows = triplets(("ref", "turn", "goal"), ("mid", "turn", "near"))
    found, where = mine(rows, retriever(), bounds=Bounds(**LOOSE))
    assert where.ids == ["ref", "mid", "goal", "near"]
    assert found.negative_ids == [["near", "mid"], ["goal", "ref"]]


def test_targets_that_the_gallery_lacks_are_embedded():
    found = mined_from(where=gallery(["top", "mid", "far"]), max_above=0.0, max_below=1.0)
    assert found.negative_ids == [["mid"]] and found.left_out["above_target"] == found.left_out["below_target"] == 1


def test_a_stored_gallery_gives_the_same(tmp_path):
    stored = Gallery.build(gallery(), retriever(), tmp_path / "gallery")
    stored.sources.parts = []  # images are not needed: contents and embeddings are stored
    one, other = mined_from(number=4, near_duplicate=0.999), mined_from(where=stored, number=4, near_duplicate=0.999)
    assert one == other and one.left_out["near_duplicate"] == 2


def test_the_summary_counts():
    found = mined_from(number=2).summary()
    assert found["negatives"] == 2 and found["images"] == 2 and found["triplets_without"] == 0
    assert found["mean_rank"] == 1.5 and found["above_target"] == 2 and set(found["left_out"]) == set(GUARDS)
    assert mined_from(max_above=0.0, first_rank=1, last_rank=1).summary()["triplets_without"] == 1


@pytest.mark.parametrize(
    "bounds, message",
    [
        ({"number": 0}, r"\b0 negatives"),
        ({"first_rank": 5, "last_rank": 4}, "5 to 4"),
        ({"first_rank": 0}, "0 to 100"),
        ({"max_above": -0.1}, r"max_above=-0\.1"),
        ({"near_duplicate": float("nan")}, "near_duplicate=nan"),
    ],
    ids=str,
)
def test_bounds_that_cannot_be_met_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        Bounds(**bounds)
