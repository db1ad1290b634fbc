"""InstructCIR: its equations, written out, its initialisation, and the number of passes of its encoders."""

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from modeling_contextcir import InstructCIRModel
from tests.models.conftest import queries, step, total_loss

every_variant = pytest.mark.parametrize(
    "kind", ["instructcir", "instructcir-no-cross-attention", "instructcir-no-predictor-text"]
)


def test_a_block_from_its_definition(build):
    """Self-attention, cross-attention with the image tokens as queries, MLP; norms before, residuals around."""
    model = build("instructcir")
    block, layer = model.blocks[0], model.vision_model.encoder.layers[0]
    torch.manual_seed(1)
    states, text = torch.randn(2, 26, 24), torch.randn(2, 7, 32)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    out = block(states, layer, text, mask[:, None, None, :])

    for row, length in ((0, 7), (1, 4)):
        x = states[row] + layer.self_attn(layer.layer_norm1(states[row : row + 1]))[0][0]
        query = block.q_proj(block.norm(x)).reshape(26, 3, 8)
        key, value = (proj(text[row, :length]).reshape(length, 3, 8) for proj in (block.k_proj, block.v_proj))
        weights = (torch.einsum("nhd,thd->hnt", query, key) / 8**0.5).softmax(dim=-1)
        x = x + block.out_proj(torch.einsum("hnt,thd->nhd", weights, value).reshape(26, 24))
        torch.testing.assert_close(out[row], x + layer.mlp(layer.layer_norm2(x)))


def test_the_predictor_and_the_combination_from_their_equations(build, batch):
    model, inputs = build("instructcir", combiner_weight=0.3), queries(batch)
    tokens, text = model._encode_texts(inputs["input_ids"], inputs["attention_mask"].sum(dim=1))
    image = model._encode_images(inputs["pixel_values"], tokens, inputs["attention_mask"].bool())
    predictor = model.predictor
    reformulated = image + predictor.fc2(predictor.activation(predictor.fc1(torch.cat([image, text], dim=1))))
    mixed = 0.3 * F.normalize(reformulated, dim=-1) + 0.7 * F.normalize(text, dim=-1)
    torch.testing.assert_close(model.get_query_features(**inputs), F.normalize(mixed, dim=-1))


@every_variant
def test_gallery_images_are_encoded_with_the_null_text(build, batch, processor, kind):
    """They use the same function as queries (section II-C), except that lambda combines queries only."""
    empty = processor(text=[""] * 4)
    assert empty["input_ids"].shape == (4, 2)
    model, pixels = build(kind, combiner_weight=1.0), batch["pixel_values"][4:]
    gallery = model.get_image_features(pixels)
    torch.testing.assert_close(gallery, model.get_query_features(pixels, **empty))
    model.combiner_weight.fill_(0.5)
    assert torch.equal(gallery, model.get_image_features(pixels))
    assert not torch.allclose(gallery, model.get_query_features(pixels, **empty), atol=1e-3)


def test_without_cross_attention_it_starts_as_the_sum_of_clip(clip_folder, batch):
    """The predictor adds nothing at first, so that all embeddings are in CLIP's space."""
    model = InstructCIRModel.from_clip_pretrained(clip_folder, cross_attention=False)
    model.combiner_weight.fill_(0.5)
    clip = CLIPModel.from_pretrained(clip_folder)
    image = F.normalize(clip.get_image_features(batch["pixel_values"]).pooler_output, dim=-1)
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    text = F.normalize(clip.get_text_features(**texts).pooler_output, dim=-1)
    output = step(model, batch)
    torch.testing.assert_close(output.target_embeds, image[4:])
    torch.testing.assert_close(output.query_embeds, F.normalize(image[:4] + text, dim=-1))


def test_cross_attention_starts_at_random_as_in_the_paper(clip_folder, batch):
    """Xavier, not zero: a fresh model does not embed images as CLIP does."""
    model = InstructCIRModel.from_clip_pretrained(clip_folder, predictor_hidden_size=7)
    clip = CLIPModel.from_pretrained(clip_folder)
    image = F.normalize(clip.get_image_features(batch["pixel_values"]).pooler_output, dim=-1)
    assert not torch.allclose(model.get_image_features(batch["pixel_values"]), image, atol=1e-2)
    assert len(model.blocks) == 2 and {block.num_heads for block in model.blocks} == {3}
    for block in model.blocks:
        for linear in (block.q_proj, block.k_proj, block.v_proj, block.out_proj):
            bound = (6 / sum(linear.weight.shape)) ** 0.5
            assert 0.9 * bound < linear.weight.abs().max() <= bound
            assert linear.bias is None or not linear.bias.any()
    assert not model.predictor.fc2.weight.any() and model.combiner_weight == 1
    assert model.predictor.fc1.out_features == 7


def test_number_of_encoder_passes(build, batch):
    """One for texts of similar length, one for the null text; the target of several rows is encoded once."""
    model, passes, projected = build("instructcir"), [], []
    model.vision_model.embeddings.register_forward_pre_hook(lambda _, args: passes.append(("vision", len(args[0]))))
    model.text_model.register_forward_pre_hook(lambda _, args: passes.append(("text", tuple(args[0].shape))))
    for block in model.blocks:
        for name in ("k_proj", "v_proj"):
            getattr(block, name).register_forward_pre_hook(lambda _, args: projected.append(len(args[0])))
    step(model, batch, target_index=torch.tensor([5, 4, 5, 5]))
    assert passes == [("text", (1, 2)), ("vision", 2), ("text", (4, 34)), ("vision", 4)]
    passes.clear()
    projected.clear()
    model.get_image_features(batch["pixel_values"])
    assert passes == [("text", (1, 2)), ("vision", 8)]
    assert projected == [1] * 2 * len(model.blocks)  # one null text, however many images


@every_variant
def test_every_trained_parameter_has_a_gradient_from_queries_only(build, batch, kind):
    """Distributed training requires it with targets from the moving average. At lambda 1, the gradient of the text
    projection may be zero, but it exists."""
    model = build(kind, combiner_weight=1.0).train()
    output = step(model, batch, target_index=None)
    (output.logit_scale * output.query_embeds @ torch.randn(20, 4)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == ["combiner_weight"]


def test_lambda_alone_can_be_tuned(build, batch):
    model = build("instructcir", combiner_weight=1.0).requires_grad_(False)
    model.combiner_weight.requires_grad_(True)
    total_loss(step(model, batch)).backward()
    assert model.combiner_weight.grad.abs() > 1e-4
    assert all(p.grad is None for name, p in model.named_parameters() if name != "combiner_weight")
