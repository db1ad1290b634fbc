"""The blocked search against a full sort, over block sizes, ties, exclusions and bad input."""

import numpy as np
import pytest
import torch

from contextcir.retrieval import index
from contextcir.retrieval.index import ranks, search, similarity


def by_sorting(queries, gallery, k, exclude=None):
    """The definition: score all rows, and sort stably by descending score."""
    scores = queries @ gallery.T
    for row, left_out in enumerate(exclude.tolist() if exclude is not None else []):
        if left_out >= 0:
            scores[row, left_out] = -torch.inf
    scores, indices = scores.sort(dim=1, descending=True, stable=True)
    return scores[:, :k], indices[:, :k]


def integers(*shape, high=3):
    """Small integers, whose products are exact in float32 and often equal."""
    return torch.randint(-high, high + 1, shape).float()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("block_size", [1, 2, 7, 50, 1000])
@pytest.mark.parametrize("k", [1, 3, 50, 51])
@pytest.mark.parametrize("excluding", [False, True])
def test_the_search_equals_a_stable_sort(block_size, k, excluding):
    queries, gallery = integers(9, 4), integers(50, 4)
    exclude = torch.tensor([-1, 0, 49, 7, 7, -1, 3, 25, 1]) if excluding else None
    scores, indices = search(queries, gallery, k, exclude=exclude, block_size=block_size)
    expected_scores, expected_indices = by_sorting(queries, gallery, k, exclude)
    assert scores.shape == (9, min(k, 50))
    assert torch.equal(scores, expected_scores)
    assert torch.equal(indices, expected_indices.masked_fill(expected_scores == -torch.inf, -1))


def test_several_blocks_of_queries(monkeypatch):
    queries, gallery, exclude = integers(23, 4), integers(40, 4), torch.arange(-1, 22)
    expected = search(queries, gallery, 5, exclude=exclude)
    monkeypatch.setattr(index, "QUERY_BLOCK_SIZE", 4)
    assert all(map(torch.equal, search(queries, gallery, 5, exclude=exclude), expected))


def test_the_place_of_an_excluded_row_stays_empty():
    gallery = torch.eye(3)
    scores, indices = search(gallery, gallery, 4, exclude=torch.tensor([0, 1, -1]))
    assert indices.tolist() == [[1, 2, -1], [0, 2, -1], [2, 0, 1]]
    assert scores.tolist()[0] == [0, 0, -torch.inf]


def test_no_queries():
    assert search(torch.empty(0, 4), integers(3, 4), 2)[0].shape == (0, 2)


def test_a_gallery_on_disk(tmp_path):
    queries, gallery = torch.randn(5, 8), torch.randn(100, 8)
    np.save(tmp_path / "gallery.npy", gallery.numpy())
    on_disk = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    assert all(
        map(torch.equal, search(queries, on_disk, 7, block_size=16), search(queries, gallery, 7, block_size=16))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_float32(dtype):
    queries, gallery = integers(5, 8), integers(30, 8)
    scores, indices = search(queries.to(dtype), gallery.to(dtype), 6)
    assert scores.dtype == torch.float32
    assert torch.equal(indices, search(queries, gallery, 6)[1])


def test_the_arguments_are_not_changed():
    queries, gallery = torch.randn(3, 4), torch.randn(9, 4)
    copies = queries.clone(), gallery.clone()
    search(queries, gallery, 2, exclude=torch.tensor([0, 1, 2]))
    assert torch.equal(queries, copies[0]) and torch.equal(gallery, copies[1])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_embeddings_that_are_not_finite_are_named(bad):
    queries, gallery = torch.randn(5, 4), torch.randn(30, 4)
    gallery[17, 2] = bad
    with pytest.raises(ValueError, match=r"gallery_embeds\[17\]"):
        search(queries, gallery, 3, block_size=8)
    queries[3, 0] = bad
    with pytest.raises(ValueError, match=r"query_embeds\[3\]"):
        search(queries, gallery, 3)


def test_large_finite_values_pass():
    assert search(torch.full((1, 4), 1e38), torch.eye(4), 1)[0].item() == pytest.approx(1e38)


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ((torch.zeros(2, 3), torch.zeros(4, 5), 1), r"\(2, 3\) and a gallery of shape \(4, 5\)"),
        ((torch.zeros(3), torch.zeros(4, 3), 1), r"\(3,\)"),
        ((torch.zeros(2, 3), torch.zeros(0, 3), 1), "gallery"),
        ((torch.zeros(2, 3), torch.zeros(4, 3), 0), "k=0"),
    ],
)
def test_bad_arguments(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        search(*arguments)


@pytest.mark.parametrize(
    "options, named",
    [({"block_size": 0}, "block_size=0")]
    + [
        ({"exclude": torch.tensor(exclude)}, f"exclude.*{named}")
        for exclude, named in (([0], r"\(1,\)"), ([0, 4], "from 0 to 4.*from -1 to 3"), ([-2, 0], "from -2 to 0"))
    ],
)
def test_bad_options(options, named):
    with pytest.raises(ValueError, match=named):
        search(torch.zeros(2, 3), torch.zeros(4, 3), 1, **options)


# --- ranks of single rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 7, 1000])
@pytest.mark.parametrize("excluding", [False, True])
def test_the_rank_of_a_row_is_its_place_in_the_full_ranking(block_size, excluding, monkeypatch):
    monkeypatch.setattr(index, "QUERY_BLOCK_SIZE", 4)
    queries, gallery = integers(9, 4), integers(50, 4)  # full of ties
    exclude = torch.tensor([-1, 0, 49, 7, 7, -1, 3, 25, 1]) if excluding else None
    wanted = torch.tensor([0, 49, 1, 8, 6, 20, 2, 26, 0])
    _, indices = by_sorting(queries, gallery, 50, exclude)
    expected = (indices == wanted[:, None]).nonzero()[:, 1]
    assert torch.equal(ranks(queries, gallery, wanted, exclude=exclude, block_size=block_size), expected)


def test_wanted_rows_out_of_range_or_excluded_are_refused():
    queries, gallery = integers(2, 4), integers(5, 4)
    for wanted, named in (([0, 5], "from 0 to 5.*from 0 to 4"), ([-1, 0], "from -1 to 0"), ([0], r"\(1,\).*\(2,\)")):
        with pytest.raises(ValueError, match=f"wanted.*{named}"):
            ranks(queries, gallery, torch.tensor(wanted))
    with pytest.raises(ValueError, match="Query 1.*wanted.*excluded"):
        ranks(queries, gallery, torch.tensor([0, 3]), exclude=torch.tensor([-1, 3]))


# --- products of parts -----------------------------------------------------------------------------------------------


def test_scores_of_parts_are_multiplied_and_negative_ones_are_clamped_to_0():
    parts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # one query: along the first axis, and along the second
    gallery = torch.tensor([[3.0, 2.0], [-3.0, -2.0], [4.0, 0.0], [1.0, 1.0]])
    assert similarity(parts, gallery).tolist() == [[6, 0, 0, 1]]
    assert similarity(parts, gallery[None]).tolist() == [[6, 0, 0, 1]]  # as one gallery for each query
    scores, indices = search(parts, gallery, 3)
    assert (scores.tolist(), indices.tolist()) == ([[6, 1, 0]], [[0, 3, 1]])
    assert ranks(parts, gallery, torch.tensor([2])).tolist() == [3]  # below the other zero, which has a lower index
    with pytest.raises(ValueError, match=r"query_embeds\[0\]"):
        search(torch.full((1, 2, 2), torch.nan), gallery, 1)
