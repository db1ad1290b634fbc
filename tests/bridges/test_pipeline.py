"""Saved models in `pipeline("image-feature-extraction")` and the Auto classes of their processors."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer, pipeline

import modeling_contextcir  # noqa: F401  (registers the models)
from contextcir.data.images import load_image
from contextcir.retrieval.dense import DenseRetriever


@pytest.fixture(scope="module")
def extractor(saved):
    return pipeline("image-feature-extraction", model=str(saved), device="cpu")


@pytest.fixture(scope="module")
def native(saved):
    return DenseRetriever.from_model(AutoModel.from_pretrained(saved), AutoProcessor.from_pretrained(saved))


@pytest.mark.fault("E10", "the pipeline of image features gives the embeddings of gallery images")
def test_the_pipeline_embeds_gallery_images(extractor, native, images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    images[0].save(tmp_path / "turned.png", exif=exif)
    given = [*images[:3], str(tmp_path / "turned.png")]
    expected = native.embed_images([load_image(one) for one in given])
    found = extractor(given)
    assert np.shape(found) == (4, 1, expected.shape[1])
    np.testing.assert_allclose(np.squeeze(found, 1), expected, atol=1e-6)
    np.testing.assert_allclose(extractor(given[0]), expected[:1], atol=1e-6)
    pooled = extractor(given[0], pool=True, return_tensors=True)
    torch.testing.assert_close(pooled, expected[:1], atol=1e-6, rtol=0)


def test_a_training_step_without_texts_is_refused(saved, images):
    model, processor = AutoModel.from_pretrained(saved), AutoProcessor.from_pretrained(saved)
    pixels = processor(images=images[:1])["pixel_values"]
    with pytest.raises(ValueError, match="input_ids"):
        model(pixel_values=pixels, reference_index=torch.tensor([0]))
    with pytest.raises(ValueError, match="input_ids"):
        model()
    with pytest.raises(ValueError, match="reference_index"):
        model(**processor(images=images[:1], text=["x"]))


def test_parts_of_the_processor(saved, images):
    processor = AutoProcessor.from_pretrained(saved)
    pixels = AutoImageProcessor.from_pretrained(saved)(images[0], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, processor(images=images[:1])["pixel_values"])
    ids = AutoTokenizer.from_pretrained(saved)("make the red dog blue")["input_ids"]
    assert ids == processor(text=["make the red dog blue"])["input_ids"][0].tolist()
