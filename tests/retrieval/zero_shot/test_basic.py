"""BASIC against its formulas, written out image by image."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.towers import Towers
from contextcir.retrieval.zero_shot import basic
from contextcir.retrieval.zero_shot.basic import BasicRetriever, Statistics, contrastive_directions
from tests.retrieval.models import make_gallery, make_images, make_queries

DIM = 6
OBJECTS = [f"object {'x' * number}" for number in range(1, 9)]
STYLES = [f"style {'y' * number}" for number in range(1, 6)]


def text_feature(text: str) -> torch.Tensor:
    torch.manual_seed(sum(map(ord, text)) + 7 * len(text))
    return normalize(torch.randn(DIM) + 0.5, dim=-1)


def image_feature(image) -> torch.Tensor:
    torch.manual_seed(int(np.asarray(image).astype(int).sum()))
    return normalize(torch.randn(DIM) - 0.3, dim=-1)


@pytest.fixture
def towers():
    return Towers(
        lambda images: torch.stack([image_feature(image) for image in images]),
        lambda texts: torch.stack([text_feature(text) for text in texts]),
    )


def by_hand(query: Query, gallery: Gallery, images: list, k: int, alpha=0.2, harris=0.1) -> dict[str, float]:
    """Image id -> score, in float64."""
    features = np.stack([image_feature(image).numpy() for image in images]).astype(float)
    objects, styles = (
        np.stack([text_feature(text).numpy() for text in some]).astype(float) for some in (OBJECTS, STYLES)
    )
    mu_v, mu_t = features.mean(0), objects.mean(0)
    covariance = (1 - alpha) * np.cov(objects.T, bias=True) - alpha * np.cov(styles.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    kept = [place for place in np.argsort(-values)[:k] if values[place] > 1e-12]
    projection = vectors[:, kept]

    def s_v(a, b):
        return float(((a - mu_v) @ projection) @ ((b - mu_v) @ projection))

    def s_t(centred_text, image):
        return float(centred_text @ (image - mu_v))

    v_min = min(s_v(a, b) for a in features for b in features)
    t_min = min(s_t(text - mu_t, image) for text in objects for image in features)
    contexts = [
        text for term in OBJECTS for text in (f"{term} {query.modification_text}", f"{query.modification_text} {term}")
    ]
    text = np.mean([text_feature(text).numpy().astype(float) - mu_t for text in contexts], axis=0)
    reference = image_feature(gallery.reference_image(query)).numpy().astype(float)
    scores = {}
    for id_, image in zip(gallery.ids, gallery.images, strict=True):
        feature = image_feature(image).numpy().astype(float)
        v = (s_v(reference, feature) - v_min) / -v_min
        t = (s_t(text, feature) - t_min) / -t_min
        scores[id_] = v * t - harris * (v + t) ** 2
    return scores


@pytest.mark.parametrize("external", [True, False], ids=["external", "transductive"])
@pytest.mark.parametrize("components", [250, 2])
def test_scores(towers, external, components, monkeypatch):
    monkeypatch.setattr(basic, "AT_A_TIME", 3)
    monkeypatch.setattr(
        basic, "contrastive_directions", lambda *some: contrastive_directions(*some, components=components)
    )
    gallery, queries = make_gallery(), make_queries()
    others = [image.rotate(90) for image in make_images(9)]
    images = [image.transpose(0) for image in others] if external else gallery.images
    outside = Gallery([f"o{place}" for place in range(9)], images) if external else None
    retriever = BasicRetriever(towers, OBJECTS, STYLES, outside, batch_size=4)
    ranking = retriever.search(queries, gallery, 5, exclude_reference=True, wanted={"q1": "g2"})
    for query, ids, scores, candidates in zip(
        queries, ranking.gallery_ids, ranking.scores, ranking.candidate_ids, strict=True
    ):
        expected = by_hand(query, gallery, images, components)
        kept = {id_: score for id_, score in expected.items() if id_ != query.reference_id}
        best = sorted(kept, key=kept.get, reverse=True)
        assert ids == best[:5]
        assert scores == pytest.approx([kept[id_] for id_ in ids], abs=1e-4)
        assert candidates == sorted(query.ranked_candidate_ids, key=expected.get, reverse=True)
        if query.id == "q1":
            assert ranking.wanted_ranks == {"q1": best.index("g2")}


def test_paraphrases_are_averaged_and_contexts_are_few(towers, monkeypatch):
    monkeypatch.setattr(basic, "CONTEXTS", 3)
    retriever = BasicRetriever(towers, OBJECTS)
    assert retriever._contexts == [OBJECTS[0], OBJECTS[2], OBJECTS[4]]
    gallery = make_gallery()
    queries = [Query("a", "red", reference_id="g0", paraphrases=("blue",)), Query("b", "red", reference_id="g0")]
    queries.append(Query("c", "blue", reference_id="g0"))
    both, red, blue = retriever._contextual(queries, gallery)
    assert torch.allclose(both, (red + blue) / 2, atol=1e-6)


def test_directions_of_objects_and_not_of_styles():
    torch.manual_seed(0)
    objects = torch.randn(500, 4) * torch.tensor([3.0, 2.0, 1.0, 0.1])
    styles = torch.randn(500, 4) * torch.tensor([0.1, 9.0, 0.1, 0.3])
    directions = contrastive_directions(objects, styles, alpha=0.5)
    assert directions.shape[1] == 2  # the second varies more in styles, and so does the last
    assert directions[:, 0].abs().argmax() == 0 and directions[:, 1].abs().argmax() == 2
    assert torch.allclose(directions.T @ directions, torch.eye(2), atol=1e-5)
    assert contrastive_directions(objects).shape == (4, 4)
    assert contrastive_directions(objects, components=1).shape == (4, 1)
    line = torch.outer(torch.randn(9), torch.ones(4))  # one direction; the others are rounding noise
    assert contrastive_directions(line).shape == (4, 1)


def test_too_little_to_learn_from():
    with pytest.raises(ValueError, match="1 images and 2 objects"):
        Statistics.of(torch.randn(1, 4), torch.randn(2, 4))
    with pytest.raises(ValueError, match="all alike"):
        Statistics.of(torch.ones(3, 4), torch.randn(5, 4))


def test_a_query_without_a_reference_is_refused(towers):
    with pytest.raises(ValueError, match="reference"):
        BasicRetriever(towers, OBJECTS).search([Query("q", "red")], make_gallery(), 3)
