"""ConText-CIR: its mathematics, written out, and the number of passes of its encoders."""

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from modeling_contextcir import ContextCIRModel
from tests.models.conftest import KINDS, PHRASES, TEXTS, assert_equal_outputs, queries, step, total_loss

every_variant = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("contextcir")])
both_directions = pytest.mark.parametrize("kind", ["contextcir", "contextcir-image-queries"])


@every_variant
def test_attentions_are_distributions_over_patches(build, batch, kind):
    model = build(kind)
    output = model(**batch)
    for name in ("context_attentions", "isolated_attentions"):
        assert output[name].shape == (6, 25) and (output[name] >= 0).all()
        torch.testing.assert_close(output[name].sum(dim=-1), torch.ones(6))
    assert output.context_attentions.requires_grad and not output.isolated_attentions.requires_grad
    phrases = {name: value for name, value in batch.items() if name.startswith("phrase_")}
    maps = model.get_concept_attentions(**queries(batch), **phrases)
    torch.testing.assert_close(maps, (output.context_attentions, output.isolated_attentions))
    with pytest.raises(ValueError, match=r"pixel_values.*\b3\b.*\b4\b"):
        model.get_concept_attentions(**queries(batch) | {"pixel_values": batch["pixel_values"][:3]}, **phrases)


@both_directions
def test_without_the_class_token_its_value_changes_nothing(build, batch, kind):
    model = build(kind, fusion_class_token=False)
    encoded = model.encode_images(batch["pixel_values"])
    other = encoded.clone()
    other[:, 0] = 100.0
    one, other = (step(model, batch, pixel_values=None, encoded_images=images) for images in (encoded, other))
    assert_equal_outputs(one, other)
    assert one.context_attentions.shape == (6, 25)


def test_gallery_images_are_fused_with_the_empty_text(build, batch, processor):
    model = build()
    empty = processor(text=[""] * 4)
    assert empty["input_ids"].shape == (4, 2)
    images = batch["pixel_values"][4:]
    torch.testing.assert_close(model.get_image_features(images), model.get_query_features(images, **empty))


def test_clip_targets_are_those_of_clip(clip_folder, batch):
    model = ContextCIRModel.from_clip_pretrained(clip_folder, target_encoding="clip")
    clip = CLIPModel.from_pretrained(clip_folder)
    expected = F.normalize(clip.get_image_features(batch["pixel_values"]).pooler_output, dim=-1)
    torch.testing.assert_close(model.get_image_features(batch["pixel_values"]), expected)


def test_sizes_follow_the_clip_model(clip_folder):
    model = ContextCIRModel.from_clip_pretrained(clip_folder, fusion_num_layers=3)
    config = model.config
    assert len(model.fusion.layers) == 3
    assert (config.fusion_hidden_size, config.fusion_num_heads, config.fusion_intermediate_size) == (32, 4, 128)
    assert ContextCIRModel.from_clip_pretrained(clip_folder, projection_dim=16).projection.out_features == 16


@both_directions
def test_isolated_attention_is_that_of_the_phrase_as_a_whole_text(build, batch, processor, kind):
    """Phrases packed as rows, or with repeated images, give the same maps as each phrase alone."""
    model = build(kind)
    isolated = model(**batch).isolated_attentions
    alone = []
    for sample, (text, spans) in enumerate(zip(TEXTS, PHRASES, strict=True)):
        for start, end in spans:
            phrase = text[start:end]
            inputs = processor(text=[phrase], noun_phrases=[[(0, len(phrase))]])
            inputs = {key: value for key, value in inputs.items() if not key.startswith("num_")}
            image = batch["pixel_values"][sample : sample + 1]
            context, by_itself = model.get_concept_attentions(image, **inputs)
            torch.testing.assert_close(context, by_itself)
            alone.append(context)
    torch.testing.assert_close(isolated, torch.cat(alone), atol=1e-6, rtol=0)


@both_directions
def test_phrases_may_come_in_any_order(build, batch, kind):
    model, order = build(kind), torch.tensor([3, 0, 5, 2, 4, 1])
    shuffled = {key: value[order] if key.startswith("phrase_") else value for key, value in batch.items()}
    one, other = model(**batch), model(**shuffled)
    torch.testing.assert_close(one.context_attentions[order], other.context_attentions)
    torch.testing.assert_close(one.isolated_attentions[order], other.isolated_attentions)


def test_context_attention_from_the_definition(build, batch):
    """Mean of tokens, heads and layers, without the class token, normalised: written out for one layer."""
    model = build(fusion_num_layers=1)
    images = model.encode_images(batch["pixel_values"][:4])
    layer = model.fusion.layers[0]
    rows = layer.norm1(model.fusion.input_projection(model._encode_texts(batch["input_ids"])))
    phrase = 4
    sample, tokens = batch["phrase_sample"][phrase], batch["phrase_token_mask"][phrase].nonzero()[:, 0]
    query = layer.attention.q_proj(rows[sample, tokens]).reshape(len(tokens), 4, 10)
    key = layer.attention.k_proj(images[sample]).reshape(26, 4, 10)
    weights = (torch.einsum("thd,nhd->thn", query, key) / 10**0.5).softmax(-1).mean(dim=(0, 1))
    expected = weights[1:] / weights[1:].sum()
    torch.testing.assert_close(model(**batch).context_attentions[phrase], expected)


def test_image_queries_from_the_definition(build, batch):
    """For each patch the attention to the phrase's tokens, normalised over patches: written out for one layer."""
    model = build("contextcir-image-queries", fusion_num_layers=1)
    rows = model.fusion.input_projection(model.encode_images(batch["pixel_values"][:4]))
    layer, phrase = model.fusion.layers[0], 0
    sample, tokens = batch["phrase_sample"][phrase], batch["phrase_token_mask"][phrase]
    length = int(batch["attention_mask"][sample].sum())
    text = model._encode_texts(batch["input_ids"])[sample, :length]
    query = layer.attention.q_proj(layer.norm1(rows[sample])).reshape(26, 4, 10)
    key = layer.attention.k_proj(text).reshape(length, 4, 10)
    weights = (torch.einsum("nhd,thd->nht", query, key) / 10**0.5).softmax(-1).mean(dim=1)
    patches = weights[1:, tokens[:length]].sum(dim=1)
    torch.testing.assert_close(model(**batch).context_attentions[phrase], patches / patches.sum())


@both_directions
def test_number_of_encoder_passes(build, batch, kind):
    model, passes = build(kind), []
    model.vision_model.register_forward_pre_hook(lambda _, args: passes.append(("vision", len(args[0]))))
    model.text_model.register_forward_pre_hook(lambda _, args: passes.append(("text", tuple(args[0].shape))))
    model(**batch)
    whole, phrases = (batch[name].sum(dim=1).tolist() for name in ("attention_mask", "phrase_attention_mask"))
    assert whole == [21, 2, 9, 34] and sorted(phrases) == [6, 6, 7, 7, 7, 17]
    num_phrases = 5 if kind == "contextcir" else 6  # without the phrase that begins its text: see below
    texts = [("text", (4, 34)), ("text", (1, 2)), ("text", (num_phrases, 17))]
    assert passes == [("vision", 8), *texts]


@pytest.mark.parametrize("isolated_grad", [False, True])
def test_a_phrase_that_begins_its_text_has_no_loss(build, batch, isolated_grad):
    """The text encoder is causal: both maps are the same to the last bit, without a gradient."""
    model = build()
    output = model(**batch, isolated_grad=isolated_grad)
    difference = output.context_attentions - output.isolated_attentions
    assert (difference[3] == 0).all() and (difference[[0, 1, 2, 4, 5]].abs().sum(dim=1) > 1e-3).all()
    difference[3].relu().sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


@both_directions
def test_a_batch_without_noun_phrases(build, batch, processor, kind):
    model = build(kind)
    inputs = processor(text=TEXTS, noun_phrases=[[], [], [], []])
    nothing = {key: value for key, value in inputs.items() if key.startswith("phrase_")}
    output = model(**{**batch, **nothing})
    assert output.context_attentions.shape == output.isolated_attentions.shape == (0, 25)
    total_loss(output).backward()
    torch.testing.assert_close(output.query_embeds, model(**batch).query_embeds)


@every_variant
def test_without_phrase_tensors_no_maps_are_made_and_everything_trains(build, batch, kind):
    model = build(kind).train()
    output = model(**{name: value for name, value in batch.items() if not name.startswith("phrase_")})
    assert output.context_attentions is None and output.isolated_attentions is None
    torch.testing.assert_close(output.query_embeds, model(**batch).query_embeds)
    total_loss(output).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@both_directions
def test_isolated_grad_gives_isolated_maps_a_gradient(build, batch, kind):
    model = build(kind)
    output = model(**batch, isolated_grad=True)
    output.isolated_attentions[0].square().sum().backward()
    assert model.fusion.layers[0].attention.k_proj.weight.grad.abs().sum() > 0


@every_variant
def test_random_attention_is_new_in_the_attention_only(build, batch, kind):
    model = build(kind)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    other, same, third = (model.with_random_attention(seed) for seed in (1, 1, 2))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])  # the model itself is as it was
        random = name.startswith("fusion.") and ("q_proj" in name or "k_proj" in name)
        assert torch.equal(value, other.state_dict()[name]) is not (random and "weight" in name), name
        assert torch.equal(other.state_dict()[name], same.state_dict()[name])
    assert other.text_model is model.text_model  # not a second copy in memory
    maps, others, thirds = (step(one, batch).context_attentions for one in (model, other, third))
    assert (maps - others).abs().max() > 1e-3 and (others - thirds).abs().max() > 1e-3


@every_variant
def test_the_pooling_may_read_the_tokens_of_the_image(build, batch, kind):
    """With no value in the cross-attention's output, only this way is left from the image to the query."""
    plain, model = build(kind, pool_image_tokens=False), build(kind, pool_image_tokens=True)
    new = model.state_dict().keys() - plain.state_dict().keys()
    assert new == {"fusion.image_projection.weight", "fusion.image_projection.bias"}
    for one in (plain, model):
        for layer in one.fusion.layers:
            torch.nn.init.zeros_(layer.attention.out_proj.weight)
    order, text_queries = torch.tensor([1, 2, 3, 0]), model.config.fusion_direction == "text_to_image"
    for one, depends in ((plain, not text_queries), (model, True)):
        found = one.get_query_features(**queries(batch))
        inputs = queries(batch)
        other = one.get_query_features(**inputs | {"pixel_values": inputs["pixel_values"][order]})
        assert ((found - other).abs().amax(dim=1) > 1e-3).all() == depends
    images = model.encode_images(batch["pixel_values"])
    rows = model.fusion.prepare_images(images).pooled
    torch.testing.assert_close(rows, images @ model.fusion.image_projection.weight.T)
