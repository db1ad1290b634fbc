"""Models of sentence-transformers as retrievers: with and without images, prompts, distances, and who embeds."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

import modeling_contextcir  # noqa: F401  (registers the models)
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.st import load_sentence_transformer, st_retriever

pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")
CPU = torch.device("cpu")
TEXTS = ["make the red dog blue", "", "see https://example.org/a.png", "the red"]


@pytest.fixture(scope="module")
def ours(run):
    return load_sentence_transformer(str(run), CPU)


@pytest.fixture(scope="module")
def clip(clip_folder):
    return load_sentence_transformer(clip_folder, CPU)


def test_queries_with_and_without_images_are_those_of_our_methods(ours, run, images):
    native = DenseRetriever.from_model(AutoModel.from_pretrained(run), AutoProcessor.from_pretrained(run))
    found = st_retriever(ours, name="st:run")
    for given in ([None, images[0], None, images[1]], images[:4], [None] * 4):
        expected = native.embed_queries(given, TEXTS)
        assert torch.allclose(found.embed_queries(given, TEXTS), expected, atol=1e-6)
    assert torch.allclose(found.embed_images(images), native.embed_images(images), atol=1e-6)


def test_queries_and_galleries_have_methods_of_their_own(ours, images, monkeypatch):
    calls = []
    for name in ("encode_query", "encode_document"):
        method = getattr(ours, name)
        monkeypatch.setattr(
            ours, name, lambda inputs, name=name, method=method, **more: calls.append(name) or method(inputs, **more)
        )
    retriever = st_retriever(ours)
    retriever.embed_images(images)
    retriever.embed_queries([images[0], None], TEXTS[:2])
    assert calls == ["encode_document", "encode_query", "encode_query"]


def test_prompts_apply_to_texts_and_make_another_model(clip, images):
    plain = st_retriever(clip, how="text", name="st:clip")
    before, identity = plain.embed_queries([None], ["red"]), plain.identity
    clip.prompts["query"] = "find the "
    try:
        assert torch.allclose(plain.embed_queries([None], ["red"]), _text(clip, "find the red"), atol=1e-6)
        assert not torch.allclose(plain.embed_queries([None], ["red"]), before, atol=1e-3)
        other = st_retriever(clip, how="text", name="st:clip").identity
    finally:
        clip.prompts["query"] = ""
    assert other.weights == identity.weights and other.fingerprint != identity.fingerprint
    assert st_retriever(clip, how="sum", name="other").identity.fingerprint == identity.fingerprint


def _text(model, text):
    return torch.nn.functional.normalize(torch.from_numpy(np.atleast_2d(model.encode([text]))), dim=-1)


def test_a_model_is_searched_by_its_own_similarity(ours, images):
    try:
        ours.similarity_fn_name = "dot"
        scaled = st_retriever(ours).embed_images(images)
        raw = torch.from_numpy(ours.encode_document(images))
        assert torch.allclose(scaled, raw, atol=1e-6)
        ours.similarity_fn_name = "euclidean"
        with pytest.raises(ValueError, match="euclidean.* cosine or dot"):
            st_retriever(ours, name="st:run")
    finally:
        ours.similarity_fn_name = "cosine"


def test_what_a_model_cannot_read_is_named(clip, ours, images):
    with pytest.raises(ValueError, match=r"st:clip embeds text, image, and no image together.*--compose sum\|slerp"):
        st_retriever(clip, name="st:clip")

    class Images:
        """Embeds images alone."""

        modalities, similarity_fn_name = ["image"], "cosine"
        supports = modalities.__contains__

    with pytest.raises(ValueError, match="st:x embeds image and no texts: give --compose image"):
        st_retriever(Images(), how="sum", name="st:x")
    with pytest.raises(ValueError, match="reference images"):
        st_retriever(clip, how="image").embed_queries([None], ["red"])
