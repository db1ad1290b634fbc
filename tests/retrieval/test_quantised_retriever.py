"""A dense retriever with a quantised gallery: what it ranks, and that its numbers may differ from the exact ones."""

import pytest
import torch

from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.engines.retriever import QuantisedRetriever
from tests.retrieval.models import Model, Processor, make_gallery, make_queries


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_few_images_are_all_rescored_and_ranked_exactly(precision):
    dense, gallery, queries = DenseRetriever.from_model(Model(), Processor()), make_gallery(), make_queries()
    wanted = {"q1": "g7", "q3": "g0"}
    exact, found = (
        one.search(queries, gallery, 5, exclude_reference=True, wanted=wanted)
        for one in (dense, QuantisedRetriever(dense, precision))
    )
    assert found.gallery_ids == exact.gallery_ids and found.candidate_ids == exact.candidate_ids
    assert found.wanted_ranks == exact.wanted_ranks
    assert torch.allclose(torch.tensor(found.scores), torch.tensor(exact.scores), atol=1e-6)


def test_bits_that_say_nothing_lose_the_best():
    """All rows have the same bits, so that only a hundred of a thousand are rescored."""
    rows = torch.zeros(1000, 8)
    rows[:, 0] = torch.arange(1000) / 1000
    rows[:, 1:] = 1.0

    def encode_images(images):
        return rows

    dense = DenseRetriever(encode_images, lambda images, texts: torch.eye(1, 8), batch_size=1000)
    gallery = Gallery([f"{number:03d}" for number in range(1000)], make_gallery().images[:1] * 1000)
    queries = [Query("q", "", reference_id="000")]
    assert dense.search(queries, gallery, 1).gallery_ids == [["999"]]
    found = QuantisedRetriever(dense, "binary").search(queries, gallery, 1, wanted={"q": "999"})
    assert found.gallery_ids != [["999"]] and found.wanted_ranks == {"q": 0}
