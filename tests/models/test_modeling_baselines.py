"""The composers to compare with: what they compute by definition, and that they train and travel like other models."""

import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPModel

from modeling_contextcir import CompositionBaseline, CompositionBaselineConfig, ContextCIRProcessor
from modeling_contextcir.modeling_baselines import Combiner, Gate

COMPOSITIONS = ["combiner", "tirg"]
SMALL = CompositionBaselineConfig(projection_dim=6)


@pytest.fixture
def build(clip_folder):
    def build(composition):
        torch.manual_seed(0)
        return CompositionBaseline.from_clip_pretrained(clip_folder, composition=composition)

    return build


@pytest.fixture
def batch(clip_folder):
    torch.manual_seed(1)
    texts = ContextCIRProcessor.from_pretrained(clip_folder)(text=["make the dog red", "no", "the red one"])
    index = {"reference_index": torch.tensor([0, 1, 1]), "target_index": torch.tensor([1, 2, 3])}
    return {**texts, "pixel_values": torch.randn(4, 3, 30, 30), **index}


def test_images_come_in_one_form(build, batch):
    model = build("combiner").eval()
    encoded = model.encode_images(batch["pixel_values"])
    others = {name: value for name, value in batch.items() if name != "pixel_values"}
    torch.testing.assert_close(model(**others, encoded_images=encoded).query_embeds, model(**batch).query_embeds)
    for images in ({}, {"pixel_values": batch["pixel_values"], "encoded_images": encoded}):
        with pytest.raises(ValueError, match="`pixel_values` or `encoded_images`"):
            model(**others, **images)


def test_combiner_by_definition():
    combiner = Combiner(SMALL)
    image, text = torch.randn(2, 5, 6)
    for last in (combiner.mixture[-1], combiner.weight[-1]):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    torch.testing.assert_close(combiner(image, text), (image + text) / 2)  # sigmoid(0) = 1/2, nothing mixed
    combiner.weight[-1].bias.data.fill_(100.0)
    torch.testing.assert_close(combiner(image, text), text)
    combiner.mixture[-1].bias.data.fill_(0.25)
    torch.testing.assert_close(combiner(image, text), text + 0.25)


def test_gate_by_definition():
    gate = Gate(SMALL)
    image, text = torch.randn(2, 5, 6)
    gate.weights.data = torch.tensor([2.0, 3.0])
    for last, bias in ((gate.gate[-1], 0.0), (gate.residual[-1], 0.5)):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, bias)
    torch.testing.assert_close(gate(image, text), image + 1.5)  # 2 * sigmoid(0) * image + 3 * 0.5


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_features_and_forward_agree(build, batch, composition):
    model = build(composition)
    with torch.no_grad():
        outputs = model(**batch)
        images = model.get_image_features(batch["pixel_values"])
        references = batch["pixel_values"][batch["reference_index"]]
        queries = model.get_query_features(references, batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(outputs.query_embeds, queries)
    torch.testing.assert_close(outputs.target_embeds, images[[1, 2, 3]])
    torch.testing.assert_close(outputs.reference_embeds, images[[0, 1, 1]])
    for embeds in (queries, images):
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)))
    assert (queries[1] - queries[2]).abs().max() > 1e-3  # one image, two texts
    assert 1 <= outputs.logit_scale <= 100


def test_images_are_those_of_clip(build, batch, clip_folder):
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(clip_folder).get_image_features(batch["pixel_values"]).pooler_output
        images = build("tirg").get_image_features(batch["pixel_values"])
    torch.testing.assert_close(images, torch.nn.functional.normalize(expected, dim=-1))


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_every_parameter_moves(build, batch, composition):
    model = build(composition).train()
    outputs = model(**batch)
    scores = outputs.logit_scale * outputs.query_embeds @ outputs.target_embeds.T
    torch.nn.functional.cross_entropy(scores, torch.arange(3)).backward()
    # A bias of the keys moves no attention.
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not [name for name in still if not name.endswith("k_proj.bias")]


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_save_and_load(build, batch, composition, tmp_path):
    model = build(composition)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is CompositionBaseline and loaded.config.composition == composition
    torch.testing.assert_close(loaded(**batch).query_embeds, model(**batch).query_embeds)


def test_loads_where_it_is_not_installed(build, batch, tmp_path):
    model = build("combiner")
    model.save_pretrained(tmp_path / "saved")
    torch.save({"batch": batch, "expected": model(**batch).query_embeds.detach()}, tmp_path / "expected.pt")
    code = """
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("saved", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
saved = torch.load("expected.pt")
torch.testing.assert_close(model(**saved["batch"]).query_embeds, saved["expected"])
"""
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)


def test_a_clip_that_lacks_tensors_is_refused(clip_folder, tmp_path):
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lack text_projection.weight"):
        CompositionBaseline.from_clip_pretrained(tmp_path)


def test_temperature_is_that_of_clip_unless_one_is_given(clip_folder, clip_config):
    own = CompositionBaseline.from_clip_pretrained(clip_folder)
    given = CompositionBaseline.from_clip_pretrained(clip_folder, logit_scale_init_value=1.5)
    assert own.logit_scale.item() == pytest.approx(clip_config.logit_scale_init_value)
    assert given.logit_scale.item() == pytest.approx(1.5)


def test_without_targets_none_are_embedded(build, batch):
    outputs = build("tirg")(**{name: value for name, value in batch.items() if name != "target_index"})
    assert outputs.target_embeds is None and outputs.query_embeds.shape == (3, 20)


@pytest.mark.parametrize(("tensor", "message"), [(None, "lack"), (float("nan"), "hold NaN or infinite values in")])
def test_missing_and_broken_tensors_are_refused(build, tmp_path, tensor, message):
    build("combiner").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("composer.image.bias") if tensor is None else tensors["composer.image.bias"].fill_(tensor)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{message} composer.image.bias"):
        CompositionBaseline.from_pretrained(tmp_path)


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="no field 'compositoin'"):
        CompositionBaselineConfig(compositoin="tirg")


def test_an_unknown_composition_is_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match=r"one of \('combiner', 'tirg'\), got sum"):
        CompositionBaselineConfig(composition="sum")
