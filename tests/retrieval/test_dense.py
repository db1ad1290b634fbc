"""Dense retrieval: order, batches, candidates, and the cache of gallery embeddings."""

import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Query
from contextcir.retrieval.dense import DenseRetriever
from tests.retrieval.models import NUM_IMAGES, Model, Processor, make_gallery, make_images, make_queries


def retriever_of(model=None, **options) -> DenseRetriever:
    return DenseRetriever.from_model(model or Model(), Processor(), **options)


def test_the_ranking_is_the_order_of_all_scores():
    model, gallery, queries, processor = Model().eval(), make_gallery(), make_queries(), Processor()
    ranking = retriever_of(model, batch_size=4).search(queries, gallery, NUM_IMAGES)
    with torch.no_grad():
        gallery_embeds = model.get_image_features(processor(images=gallery.images)["pixel_values"])
        for row, query in enumerate(queries):
            inputs = processor(images=[gallery.reference_image(query)], text=[query.modification_text])
            scores = (gallery_embeds @ model.get_query_features(**inputs)[0]).tolist()
            expected = sorted(range(NUM_IMAGES), key=lambda i, scores=scores: -scores[i])
            assert ranking.query_ids[row] == query.id
            assert ranking.gallery_ids[row] == [f"g{i}" for i in expected]
            assert ranking.scores[row] == pytest.approx([scores[i] for i in expected], abs=1e-6)
            candidates = [f"g{i}" for i in expected if f"g{i}" in query.ranked_candidate_ids]
            assert ranking.candidate_ids[row] == candidates


def test_a_reference_in_the_gallery_is_left_out():
    retriever, gallery, queries = retriever_of(), make_gallery(), make_queries()
    kept = retriever.search(queries, gallery, NUM_IMAGES)
    left_out = retriever.search(queries, gallery, NUM_IMAGES, exclude_reference=True)
    for query, before, after, scores in zip(
        queries, kept.gallery_ids, left_out.gallery_ids, left_out.scores, strict=True
    ):
        assert after == [id_ for id_ in before if id_ != query.reference_id]
        assert len(after) == len(scores) == NUM_IMAGES - (query.reference_id in gallery.positions)


@pytest.mark.parametrize("batch_size, num_workers", [(1, 0), (3, 2), (NUM_IMAGES, 0), (64, 1)])
def test_batches_and_workers_do_not_change_the_ranking(batch_size, num_workers):
    model, gallery = Model(), make_gallery()
    expected = retriever_of(model, batch_size=5).search(make_queries(), gallery, 6)
    retriever = retriever_of(model, batch_size=batch_size, num_workers=num_workers)
    ranking = retriever.search(make_queries(), gallery, 6)
    assert ranking.gallery_ids == expected.gallery_ids
    assert torch.allclose(torch.tensor(ranking.scores), torch.tensor(expected.scores), atol=1e-6)


def test_paraphrases_of_a_query_are_summed():
    retriever, gallery = retriever_of(), make_gallery()
    one, other, both = (
        Query("a", "red", reference_id="g3"),
        Query("b", "the blue", reference_id="g3"),
        Query("c", "red", reference_id="g3", paraphrases=("the blue",)),
    )
    embeds = retriever.encode([one, both, other], gallery)
    assert torch.allclose(embeds[1], normalize(embeds[0] + embeds[2], dim=0), atol=1e-6)
    assert torch.allclose(retriever.encode([one], gallery)[0], embeds[0], atol=1e-6)


def test_a_query_without_a_reference_is_encoded_with_a_blank_image(monkeypatch):
    seen = []

    class Recording(Model):
        def get_query_features(self, pixel_values, *args, **kwargs):
            seen.append(pixel_values)
            return super().get_query_features(pixel_values, *args, **kwargs)

    processor = Processor()
    monkeypatch.setattr(Processor, "__call__", resizing(Processor.__call__))
    queries = [Query("q", "a bird"), Query("r", "a bird", reference_id=make_gallery().ids[0]), Query("s", "a bird")]
    DenseRetriever.from_model(Recording(), processor).encode(queries, make_gallery())
    (pixel_values,) = seen
    assert [bool(image.any()) for image in pixel_values] == [False, True, False]


def resizing(call):
    """Processors bring all images to one size."""

    def resized(self, images=None, **kwargs):
        return call(self, images=images and [image.resize((8, 8)) for image in images], **kwargs)

    return resized


def test_a_model_in_training_mode_is_evaluated_without_dropout_and_stays_in_training_mode():
    model, gallery = Model().train(), make_gallery()
    retriever = retriever_of(model)
    assert torch.equal(retriever.encode_gallery(gallery), retriever.encode_gallery(gallery))
    assert model.training and model.dropout.training
    model.get_image_features(torch.ones(1, 3, 8, 8)).sum().backward()  # no inference tensor is left in the model


def test_autocast():
    gallery = make_gallery()
    exact = retriever_of().encode_gallery(gallery)
    rounded = retriever_of(autocast=torch.bfloat16).encode_gallery(gallery)
    assert rounded.dtype == torch.float32
    assert 1e-6 < (exact - rounded).abs().max() < 0.05


def test_bad_images_and_embeddings_are_named():
    images = make_images()
    images[6] = b"not an image"
    with pytest.raises(ImageError, match="gallery image 'g6'"):
        retriever_of(batch_size=4).encode_gallery(make_gallery(images))

    def encode_images(batch):
        embeds = torch.ones(len(batch), 2)
        embeds[[np.asarray(image).max() == 0 for image in batch]] = torch.nan
        return embeds

    images[6] = Image.new("RGB", (8, 8))
    retriever = DenseRetriever(encode_images, lambda images, texts: encode_images(images), batch_size=4)
    with pytest.raises(ValueError, match="gallery.*'g6'"):
        retriever.encode_gallery(make_gallery(images))
    with pytest.raises(ValueError, match="queries.*'q6'"):
        retriever.encode(make_queries(), make_gallery(images))


def test_there_must_be_something_to_encode():
    with pytest.raises(ValueError, match="queries"):
        retriever_of().encode([], make_gallery())
    gallery = make_gallery()
    gallery.ids, gallery.images = [], []
    with pytest.raises(ValueError, match="gallery"):
        retriever_of().encode_gallery(gallery)


# --- the cache of gallery embeddings ---------------------------------------------------------------------------------


def test_a_gallery_is_encoded_once():
    retriever, gallery, queries = retriever_of(), make_gallery(), make_queries()
    embeds = retriever.encode_gallery(gallery)
    assert embeds.shape == (NUM_IMAGES, 16) and embeds.dtype == torch.float32
    expected = retriever.search(queries, gallery, 5)
    assert torch.equal(retriever.gallery_embeds(gallery), embeds)
    retriever.encode_images = None  # cannot be called again
    assert retriever.search(queries, gallery, 5) == expected


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.eval().get_image_features(torch.rand(2, 3, 8, 8))[:, 0].sum().backward()
    optimizer.step()


def load(model):
    model.load_state_dict(Model(seed=1).state_dict())


def edit(model):
    model.image.weight.data.neg_()


def replace(model):
    model.image = Model(seed=1).image


@pytest.mark.parametrize("change", [step, load, edit, replace])
def test_a_gallery_is_encoded_again_after_the_weights_have_changed(change):
    model, gallery, queries = Model(), make_gallery(), make_queries()
    retriever = retriever_of(model)
    before = retriever.search(queries, gallery, NUM_IMAGES)
    change(model)
    after = retriever.search(queries, gallery, NUM_IMAGES)
    expected = retriever_of(model).search(queries, gallery, NUM_IMAGES)
    assert after == expected and after.scores != before.scores
    assert torch.equal(retriever.gallery_embeds(gallery), retriever.encode_gallery(gallery))


def test_embeddings_are_cut_and_scaled_anew():
    model, gallery, queries = Model(), make_gallery(), make_queries()
    whole, cut = retriever_of(model), retriever_of(model, truncate_dim=3)
    for of in ("gallery", "queries"):
        one, other = (
            some.gallery_embeds(gallery) if of == "gallery" else some.encode(queries, gallery) for some in (whole, cut)
        )
        assert torch.allclose(other, normalize(one[:, :3], dim=1), atol=1e-6) and other.shape[1] == 3
    assert cut.identity.truncate_dim == 3 and cut.identity.fingerprint != whole.identity.fingerprint
    assert "truncate_dim None, got 3" in whole.identity.difference(cut.identity)
    assert whole.search(queries, gallery, 5).scores != cut.search(queries, gallery, 5).scores


def test_widths_that_do_not_exist_or_were_not_trained_are_named(monkeypatch):
    with pytest.raises(ValueError, match="truncate_dim.*0"):
        retriever_of(truncate_dim=0)
    with pytest.raises(ValueError, match="truncate_dim is 999.*dimensions"):
        retriever_of(truncate_dim=999).gallery_embeds(make_gallery())
    warned = []
    monkeypatch.setattr("contextcir.retrieval.dense.logger.warning", warned.append)
    model = Model()
    model.config = types.SimpleNamespace(matryoshka_dims=[8, 4], _name_or_path="m", _commit_hash=None)
    retriever_of(model, truncate_dim=4)
    assert not warned
    retriever_of(model, truncate_dim=3)
    assert len(warned) == 1 and "truncate_dim=3" in warned[0] and "[8, 4]" in warned[0]
