"""Textual inversion: phi layer by layer, and the pseudo-word as if it were in CLIP's vocabulary."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import gelu, normalize, relu
from transformers import CLIPModel

from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.zero_shot.inversion import TEMPLATE, read_phi, textual_inversion
from modeling_contextcir import ContextCIRProcessor


def weights(dims=(20, 8, 8, 32)):
    torch.manual_seed(0)
    found = {}
    for number, (before, after) in enumerate(zip(dims, dims[1:], strict=False)):
        found[f"layers.{number}.weight"] = torch.randn(after, before) / before**0.5
        found[f"layers.{number}.bias"] = torch.randn(after)
    return found


@pytest.fixture
def clip(clip_folder):
    return CLIPModel.from_pretrained(clip_folder).eval(), ContextCIRProcessor.from_pretrained(clip_folder)


@pytest.mark.parametrize(("activation", "function"), [(None, gelu), ("gelu", gelu), ("relu", relu)])
def test_phi(activation, function, tmp_path):
    tensors = weights()
    save_file(tensors, tmp_path / "phi.safetensors", metadata=activation and {"activation": activation})
    x = torch.randn(3, 20)
    expected = x
    for number in range(3):
        expected = expected @ tensors[f"layers.{number}.weight"].T + tensors[f"layers.{number}.bias"]
        expected = function(expected) if number < 2 else expected
    assert torch.allclose(read_phi(tmp_path / "phi.safetensors")(x), expected, atol=1e-6)


@pytest.mark.parametrize("template", [TEMPLATE, "{text} as in $", "$ but {text}"])
def test_the_pseudo_word_is_read_as_a_word(clip, images, template, tmp_path):
    model, processor = clip
    save_file(weights(), tmp_path / "phi.safetensors")
    phi = read_phi(tmp_path / "phi.safetensors")
    gallery = Gallery([f"g{place}" for place in range(len(images))], images)
    texts = ["is red", "costs $5 {now}", "the red dog is the red dog"]
    queries = [Query(f"q{place}", text, reference_id=f"g{place}") for place, text in enumerate(texts)]
    found = textual_inversion(model, processor, phi, template, batch_size=2).encode(queries, gallery)
    before = template.partition("$")[0]
    for place, text in enumerate(texts):
        with torch.no_grad():
            pixels = processor(images=[images[place]])["pixel_values"]
            token = phi(model.get_image_features(pixels).pooler_output)[0]
            # Write the vector over a word that is nowhere in the sentence, and put that word in.
            other = copy.deepcopy(model)
            spare = processor.tokenizer("~").input_ids[1]
            other.text_model.get_input_embeddings().weight[spare] = token
            start = len(before.replace("{text}", text))
            sentence = template.replace("$", "~").replace("{text}", text)
            assert sentence[start] == "~"
            ids = processor.tokenizer(sentence, return_tensors="pt")
            expected = normalize(other.get_text_features(**ids).pooler_output[0], dim=-1)
        assert torch.allclose(found[place], expected, atol=1e-5), text
    plain = normalize(model.get_text_features(**processor(text=["is red"])).pooler_output, dim=-1)
    again = normalize(model.get_text_features(**processor(text=["is red"])).pooler_output, dim=-1)
    assert torch.equal(plain, again)  # the model is as it was


def test_galleries_are_those_of_clip(clip, images, tmp_path):
    model, processor = clip
    save_file(weights(), tmp_path / "phi.safetensors")
    retriever = textual_inversion(model, processor, read_phi(tmp_path / "phi.safetensors"))
    with torch.no_grad():
        expected = model.get_image_features(processor(images=images)["pixel_values"]).pooler_output
    assert torch.allclose(retriever.embed_images(images), normalize(expected, dim=-1), atol=1e-6)
    with pytest.raises(ValueError, match="reference"):
        retriever.embed_queries([None], ["is red"])


def test_what_does_not_fit_is_named(clip, images, tmp_path):
    model, processor = clip
    path = tmp_path / "phi.safetensors"
    good = weights()
    for tensors, problem in (
        ({f"module.{name}": tensor for name, tensor in good.items()}, "holds module.layers.0.bias"),
        ({name: tensor for name, tensor in good.items() if "layers.1" not in name}, "Expected layers.0.weight"),
        (good | {"layers.1.weight": torch.zeros(8, 9)}, r"layer 1 .*\(8, 9\).* \(out, 8\)"),
        (good | {"layers.2.bias": torch.zeros(3)}, "layer 2"),
    ):
        save_file(tensors, path)
        with pytest.raises(ValueError, match=problem):
            read_phi(path)
    save_file(good, path, metadata={"activation": "tanh"})
    with pytest.raises(ValueError, match="tanh.* gelu or relu"):
        read_phi(path)
    path.write_text("no tensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        read_phi(path)
    save_file(weights((20, 31)), path)
    with pytest.raises(ValueError, match="20 to 31 dimensions, this CLIP needs 20 to 32"):
        textual_inversion(model, processor, read_phi(path))
    save_file(good, path)
    phi = read_phi(path)
    for template in ("a photo of {text}", "$ $ {text}", "$ that is"):
        with pytest.raises(ValueError, match="template"):
            textual_inversion(model, processor, phi, template)
    with pytest.raises(ValueError, match="token of its own, or was cut off"):
        textual_inversion(model, processor, phi, "{text} $").embed_queries(images[:1], ["red " * 90])
