"""The composers of the baselines, written out."""

import torch
from transformers import CLIPModel

from modeling_contextcir import CompositionBaseline, CompositionBaselineConfig
from modeling_contextcir.modeling_baselines import Combiner, Gate

SMALL = CompositionBaselineConfig(projection_dim=6)


def test_combiner_by_definition():
    combiner = Combiner(SMALL)
    image, text = torch.randn(2, 5, 6)
    for last in (combiner.mixture[-1], combiner.weight[-1]):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    torch.testing.assert_close(combiner(image, text), (image + text) / 2)  # sigmoid(0) = 1/2, no mixture
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


def test_gallery_images_are_those_of_clip(batch, clip_folder):
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(clip_folder).get_image_features(batch["pixel_values"]).pooler_output
        images = CompositionBaseline.from_clip_pretrained(clip_folder).get_image_features(batch["pixel_values"])
    torch.testing.assert_close(images, torch.nn.functional.normalize(expected, dim=-1))
