"""Baselines from CLIP: their embeddings, and one encoding of a gallery for all of them."""

import pytest
import torch
from torch.nn.functional import normalize

from contextcir.retrieval.base import Query
from contextcir.retrieval.baselines import BASELINES, WITHOUT_REFERENCE, clip_baselines
from contextcir.retrieval.zero_shot.compose import slerp
from tests.retrieval.models import MAX_LENGTH, NUM_IMAGES, Processor, make_clip, make_gallery, make_queries


@pytest.fixture(scope="module")
def clip():
    return make_clip()


def test_embeddings(clip):
    processor, gallery, queries = Processor(), make_gallery(), make_queries()
    images = [gallery.reference_image(query) for query in queries]
    texts = processor(text=[q.modification_text for q in queries], truncation=True, max_length=MAX_LENGTH)
    with torch.no_grad():
        image = normalize(clip.get_image_features(processor(images=images)["pixel_values"]).pooler_output, dim=-1)
        text = normalize(clip.get_text_features(**texts).pooler_output, dim=-1)
    expected = {
        "CLIP, image only": image,
        "CLIP, text only": text,
        "CLIP, image + text": normalize(image + text, dim=-1),
        "CLIP, slerp": slerp(image, text, 0.8),
        "CLIP, image x text": torch.stack([image, text], dim=1),
    }
    made = clip_baselines(clip, processor, batch_size=3)
    assert tuple(made) == tuple(BASELINES) == tuple(expected)
    for name, embeds in expected.items():
        # Batches of 3 have another padding than the whole, and texts longer than CLIP's 8 tokens are truncated.
        assert torch.allclose(made[name].encode(queries, gallery), embeds, atol=1e-5), name
        assert torch.allclose(made[name].encode_gallery(gallery).norm(dim=1), torch.ones(NUM_IMAGES), atol=1e-5)


def test_image_only_finds_the_reference_first(clip):
    queries = [query for query in make_queries() if query.reference_id != "elsewhere"]
    ranking = clip_baselines(clip, Processor())["CLIP, image only"].search(queries, make_gallery(), 1)
    assert ranking.gallery_ids == [[query.reference_id] for query in queries]


def test_a_query_without_a_reference_is_refused_by_image_baselines(clip):
    gallery, query = make_gallery(), Query("q", "a bird")
    for name, retriever in clip_baselines(clip, Processor()).items():
        if name in WITHOUT_REFERENCE:
            assert retriever.encode([query], gallery).shape == (1, 24)
        else:
            with pytest.raises(ValueError, match="reference"):
                retriever.encode([query], gallery)


def test_all_baselines_share_one_encoding_of_a_gallery(clip, monkeypatch):
    encoded, get = [], clip.get_image_features

    def count(pixel_values):
        encoded.append(len(pixel_values))
        return get(pixel_values)

    monkeypatch.setattr(clip, "get_image_features", count)
    gallery, queries = make_gallery(), make_queries()
    references = (len(BASELINES) - 1) * [len(queries)]  # the text alone needs none
    for _ in range(2):
        made = clip_baselines(clip, Processor())
        for retriever in made.values():
            retriever.search(queries, gallery, 3)
        assert sorted(encoded) == sorted([NUM_IMAGES, *references])
        encoded.clear()
    with torch.no_grad():
        clip.visual_projection.weight.mul_(-1)
    for retriever in made.values():
        retriever.search(queries, gallery, 3)
    assert sorted(encoded) == sorted([NUM_IMAGES, *references])


def test_slerp():
    torch.manual_seed(0)
    start, end = normalize(torch.randn(2, 5, 8), dim=-1)
    assert torch.allclose(slerp(start, end, 0.0), start, atol=1e-6)
    assert torch.allclose(slerp(start, end, 1.0), end, atol=1e-6)
    assert torch.allclose(slerp(start, end, 0.5), normalize(start + end, dim=-1), atol=1e-6)
    assert torch.allclose(slerp(start, end, 0.3).norm(dim=-1), torch.ones(5))
    quarter = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1 / 3)  # 30 of 90 degrees
    assert torch.allclose(quarter, torch.tensor([[3**0.5 / 2, 0.5]]))
    assert torch.equal(slerp(start, start, 0.8), start)
    assert torch.equal(slerp(start, -start, 0.8), start)
