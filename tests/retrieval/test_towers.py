"""The two encoders of models that are not ours: the same features as by the model's own methods."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    Blip2Config,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from contextcir.retrieval.towers import Towers, model_towers
from contextcir.retrieval.zero_shot.compose import COMPOSITIONS, compose
from tests.retrieval.models import make_gallery, make_images, make_queries

SIZES = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SIZES | {"vocab_size": 99, "max_position_embeddings": 8, "projection_size": 32}
TEXTS = ["ab", "a longer text than eight letters"]


class Letters:
    """A tokenizer of letters that pads with 1, as told."""

    model_max_length = 10**30

    def __call__(self, text, padding, truncation, max_length):
        assert truncation
        rows = [[ord(letter) % 90 + 2 for letter in one][:max_length] for one in text]
        length = max_length if padding == "max_length" else max(map(len, rows))
        return {"input_ids": torch.tensor([row + [1] * (length - len(row)) for row in rows])}


class Processor:
    def __init__(self, images):
        self.images, self.tokenizer = images, Letters()

    def __call__(self, images=None, text=None, return_tensors=None, **options):
        assert return_tensors == "pt"
        return self.images(images) if text is None else self.tokenizer(text, **options)


def square(images):
    from numpy import asarray, stack

    pixels = stack([asarray(image, dtype="float32") for image in images])
    return {"pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255}


def test_siglip_reads_texts_that_are_padded_to_the_end():
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(text_config=TEXT, vision_config=SIZES | {"image_size": 8, "patch_size": 4})
    ).eval()
    towers = model_towers(model, Processor(square))
    ids = Letters()(TEXTS, padding="max_length", truncation=True, max_length=8)["input_ids"]
    images = make_images(3)
    with torch.no_grad():
        texts = normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
        pictures = normalize(model.get_image_features(**square(images)).pooler_output, dim=-1)
        assert torch.allclose(towers.encode_texts(TEXTS), texts, atol=1e-6)
        assert torch.allclose(towers.encode_texts(TEXTS[:1]), texts[:1], atol=1e-6)
        assert torch.allclose(towers.encode_images(towers.prepared(images)), pictures, atol=1e-6)


def test_siglip2_gets_the_shape_of_each_image():
    torch.manual_seed(0)
    vision = SIZES | {"num_patches": 16, "patch_size": 4}
    model = Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=vision)).eval()
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16)
    images = [image.resize((8, 12 + 4 * place)) for place, image in enumerate(make_images(3))]
    towers = model_towers(model, Processor(lambda images: processor(images, return_tensors="pt")))
    inputs = processor(images, return_tensors="pt")
    assert {"pixel_values", "pixel_attention_mask", "spatial_shapes"} <= set(inputs)
    with torch.no_grad():
        expected = normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
        assert torch.allclose(towers.encode_images(towers.prepared(images)), expected, atol=1e-5)


def test_what_cannot_be_searched_is_refused():
    class Other(torch.nn.Module):
        config = Blip2Config()

    with pytest.raises(ValueError, match="several vectors"):
        model_towers(Other(), None)
    Other.config = SiglipConfig()
    with pytest.raises(ValueError, match=r"no get_image_features and no get_text_features.*--retriever file\.py"):
        model_towers(Other(), None)
    assert CLIPTokenizer  # of the models above


def test_compositions_of_any_two_encoders():
    torch.manual_seed(0)
    table = normalize(torch.randn(256, 6), dim=-1)
    towers = Towers(
        lambda images: torch.stack([table[image.getpixel((0, 0))[0]] for image in images]),
        lambda texts: torch.stack([table[len(text)] for text in texts]),
    )
    gallery, queries = make_gallery(), make_queries()
    image = torch.stack([table[gallery.reference_image(query).getpixel((0, 0))[0]] for query in queries])
    text = torch.stack([table[len(query.modification_text)] for query in queries])
    found = {how: compose(towers, how, batch_size=4).encode(queries, gallery) for how in COMPOSITIONS}
    assert torch.equal(found["image"], image) and torch.equal(found["text"], text)
    assert torch.allclose(found["sum"], normalize(image + text, dim=-1), atol=1e-6)
    assert torch.equal(found["product"], torch.stack([image, text], dim=1))
    angle = torch.arccos((found["slerp"] * text).sum(-1).clamp(-1, 1)) / torch.arccos((image * text).sum(-1))
    assert torch.allclose(angle, torch.full_like(angle, 0.2), atol=1e-3)
    with pytest.raises(ValueError, match="sum, slerp"):
        compose(towers, "mean")
