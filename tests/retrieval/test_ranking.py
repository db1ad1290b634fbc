"""From embeddings to ids: ties among candidates, and wanted ranks."""

import pytest
import torch

from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.ranking import rank

IDS = list("abcd")
GALLERY = Gallery(IDS, [None] * 4)
EMBEDS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.0]])  # a and b tie for the first query


def test_of_equal_candidates_the_earlier_one_is_first():
    queries = [
        Query("1", "x", reference_id="d", candidate_ids=("c", "b", "d", "a")),
        Query("2", "x", candidate_ids=()),
        Query("3", "x", candidate_ids=("d", "c")),
    ]
    along = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ranking = rank(queries, GALLERY, along, EMBEDS, 2)
    assert ranking.candidate_ids == [["b", "a", "c"], [], ["c", "d"]]
    assert ranking.gallery_ids[0] == ["a", "b"]  # in the order of the gallery
    assert ranking.wanted_ranks is None


def test_ranks_of_wanted_images():
    queries = [Query("1", "x", reference_id="a"), Query("2", "x", reference_id="b"), Query("3", "x")]
    along = torch.tensor([[1.0, 0.0]] * 3)
    ranking = rank(queries, GALLERY, along, EMBEDS, 1, True, wanted={"2": "c", "3": "b"})
    assert ranking.wanted_ranks == {
        "2": 2,
        "3": 1,
    }  # below a and d, as b is excluded; below a, which has the same score
    assert ranking.gallery_ids == [["b"], ["a"], ["a"]]


def test_an_unknown_candidate_is_named():
    with pytest.raises(ValueError, match="'1'.*'z'"):
        rank([Query("1", "x", candidate_ids=("z",))], GALLERY, torch.ones(1, 2), EMBEDS, 1)
