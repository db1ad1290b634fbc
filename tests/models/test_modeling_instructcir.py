"""InstructCIR: what it is by its equations, loading and saving, precision, training."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, CLIPModel

from modeling_contextcir import InstructCIRConfig, InstructCIRModel, InstructCIRProcessor, clip_model

# The model, and the paper's ablations of it.
VARIANTS = [{}, {"cross_attention": False}, {"predictor_text": False}]
TEXTS = ["make the red dog look at the cat", "", "add a tree", "the red hat and the red bag with a long, long strap"]


@pytest.fixture(scope="module")
def processor(clip_folder):
    return InstructCIRProcessor.from_pretrained(clip_folder)


@pytest.fixture(scope="module")
def batch(processor, images):
    """Arguments of `forward` for four triplets."""
    inputs = processor(images=images, text=TEXTS)
    return {"reference_index": torch.arange(4), "target_index": torch.arange(4, 8), **inputs}


@pytest.fixture(scope="module")
def queries(batch):
    return {"pixel_values": batch["pixel_values"][:4], **{n: batch[n] for n in ("input_ids", "attention_mask")}}


@pytest.fixture
def build(clip_config):
    def build(combiner_weight=0.8, **fields):
        """A model like one in the midst of training: nothing is zero, and lambda is not 1."""
        torch.manual_seed(0)
        encoders = {name: getattr(clip_config, name).to_dict() for name in ("vision_config", "text_config")}
        model = InstructCIRModel(InstructCIRConfig(**encoders, **{"projection_dim": 20} | fields)).eval()
        torch.nn.init.normal_(model.predictor.fc2.weight, std=0.1)
        model.combiner_weight.fill_(combiner_weight)
        return model

    return build


def loss_of(output):
    logits = output.logit_scale * output.query_embeds @ output.target_embeds.T
    return F.cross_entropy(logits, torch.arange(len(logits)))


def assert_equal_outputs(one, other, atol=1e-5):
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=atol, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


# Equations


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_outputs(build, batch, queries, fields):
    model = build(**fields)
    output = model(**batch)
    for name in ("query_embeds", "target_embeds"):
        assert output[name].shape == (4, 20)
        torch.testing.assert_close(output[name].norm(dim=-1), torch.ones(4))
    assert output.logit_scale.item() == pytest.approx(14.2848, abs=1e-3)
    torch.testing.assert_close(output.query_embeds, model.get_query_features(**queries))
    torch.testing.assert_close(output.target_embeds, model.get_image_features(batch["pixel_values"][4:]))


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_a_query_depends_on_both_halves(build, queries, fields):
    model = build(combiner_weight=1.0, **fields)
    plain = model.get_query_features(**queries)
    order = torch.tensor([1, 2, 3, 0])
    for changed in (("pixel_values",), ("input_ids", "attention_mask")):
        other = model.get_query_features(**{n: v[order] if n in changed else v for n, v in queries.items()})
        assert ((other - plain).abs().amax(dim=1) > 1e-3).all(), changed


def test_a_block_from_its_definition(build, batch):
    """Self-attention, cross-attention with the image tokens as queries, MLP; norms before, residuals around."""
    model = build()
    block, layer = model.blocks[0], model.vision_model.encoder.layers[0]
    torch.manual_seed(1)
    states, text = torch.randn(2, 26, 24), torch.randn(2, 7, 32)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    out = block(states, layer, *block.project_text(text), mask[:, None, None, :])

    for row, length in ((0, 7), (1, 4)):
        x = states[row] + layer.self_attn(layer.layer_norm1(states[row : row + 1]))[0][0]
        query = block.q_proj(block.norm(x)).reshape(26, 3, 8)
        key, value = (proj(text[row, :length]).reshape(length, 3, 8) for proj in (block.k_proj, block.v_proj))
        weights = (torch.einsum("nhd,thd->hnt", query, key) / 8**0.5).softmax(dim=-1)
        x = x + block.out_proj(torch.einsum("hnt,thd->nhd", weights, value).reshape(26, 24))
        torch.testing.assert_close(out[row], x + layer.mlp(layer.layer_norm2(x)))


def test_the_predictor_and_the_combination_from_their_equations(build, queries):
    model = build(combiner_weight=0.3)
    tokens, text = model._encode_texts(queries["input_ids"], queries["attention_mask"].sum(dim=1))
    image = model._encode_images(queries["pixel_values"], tokens, queries["attention_mask"].bool())
    predictor = model.predictor
    reformulated = image + predictor.fc2(predictor.activation(predictor.fc1(torch.cat([image, text], dim=1))))
    mixed = 0.3 * F.normalize(reformulated, dim=-1) + 0.7 * F.normalize(text, dim=-1)
    torch.testing.assert_close(model.get_query_features(**queries), F.normalize(mixed, dim=-1))


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_gallery_images_are_seen_under_the_null_text(build, batch, processor, fields):
    """The same function (section II-C), except that lambda combines queries only."""
    empty = processor(text=[""] * 4)
    assert empty["input_ids"].shape == (4, 2)
    model, pixels = build(combiner_weight=1.0, **fields), batch["pixel_values"][4:]
    gallery = model.get_image_features(pixels)
    torch.testing.assert_close(gallery, model.get_query_features(pixels, **empty))
    model.combiner_weight.fill_(0.5)
    assert torch.equal(gallery, model.get_image_features(pixels))
    assert not torch.allclose(gallery, model.get_query_features(pixels, **empty), atol=1e-3)


def test_without_cross_attention_it_starts_as_the_sum_of_clip(clip_folder, batch, queries):
    """The predictor adds nothing yet, so that all is in CLIP's space; half of each is the well-known baseline."""
    model = InstructCIRModel.from_clip_pretrained(clip_folder, cross_attention=False)
    model.combiner_weight.fill_(0.5)
    clip = CLIPModel.from_pretrained(clip_folder)
    image = F.normalize(clip.get_image_features(batch["pixel_values"]).pooler_output, dim=-1)
    texts = {name: queries[name] for name in ("input_ids", "attention_mask")}
    text = F.normalize(clip.get_text_features(**texts).pooler_output, dim=-1)
    output = model(**batch)
    torch.testing.assert_close(output.target_embeds, image[4:])
    torch.testing.assert_close(output.query_embeds, F.normalize(image[:4] + text, dim=-1))


def test_cross_attention_starts_at_random_as_in_the_paper(clip_folder, queries):
    """Xavier, not zero: a fresh model does not embed images as CLIP does."""
    model = InstructCIRModel.from_clip_pretrained(clip_folder)
    clip = CLIPModel.from_pretrained(clip_folder)
    image = F.normalize(clip.get_image_features(queries["pixel_values"]).pooler_output, dim=-1)
    assert not torch.allclose(model.get_image_features(queries["pixel_values"]), image, atol=1e-2)
    for block in model.blocks:
        for linear in (block.q_proj, block.k_proj, block.v_proj, block.out_proj):
            bound = (6 / sum(linear.weight.shape)) ** 0.5
            assert 0.9 * bound < linear.weight.abs().max() <= bound
            assert linear.bias is None or not linear.bias.any()
    assert not model.predictor.fc2.weight.any() and model.combiner_weight == 1


def test_encoders_run_as_seldom_as_can_be(build, batch):
    """One pass for texts of similar length, one for the null text; a shared target is encoded once."""
    model, passes = build(), []
    model.vision_model.embeddings.register_forward_pre_hook(lambda _, args: passes.append(("vision", len(args[0]))))
    model.text_model.register_forward_pre_hook(lambda _, args: passes.append(("text", tuple(args[0].shape))))
    model(**batch | {"target_index": torch.tensor([5, 4, 5, 5])})
    assert passes == [("text", (1, 2)), ("vision", 2), ("text", (4, 34)), ("vision", 4)]
    passes.clear()
    model.get_image_features(batch["pixel_values"])
    assert passes == [("text", (1, 2)), ("vision", 8)]


def test_text_keys_and_values_are_made_once_for_each_text(build, batch):
    model, projected = build(), []
    for block in model.blocks:
        for name in ("k_proj", "v_proj"):
            getattr(block, name).register_forward_pre_hook(lambda _, args: projected.append(len(args[0])))
    model.get_image_features(batch["pixel_values"])
    assert projected == [1] * 2 * len(model.blocks)  # one null text, however many images


def test_without_targets_none_is_encoded(build, batch):
    model = build()
    whole = model(**batch)
    output = model(**{name: value for name, value in batch.items() if name != "target_index"})
    assert output.target_embeds is None
    assert torch.equal(output.query_embeds, whole.query_embeds)


def test_shared_images_are_those_of_their_rows(build, batch):
    """A batch that names an image twice is the one that holds it twice."""
    model = build()
    index = {"reference_index": torch.tensor([2, 0, 2, 1]), "target_index": torch.tensor([1, 3, 1, 2])}
    pixel_values = torch.cat([batch["pixel_values"][places] for places in index.values()])
    assert_equal_outputs(model(**batch | index), model(**batch | {"pixel_values": pixel_values}))


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_the_number_of_passes_changes_nothing(monkeypatch, build, batch, fields):
    outputs, gradients = [], []
    for cost in (0, 10**6):
        monkeypatch.setitem(clip_model.PASS_COST, "cpu", cost)
        model = build(**fields)
        outputs.append(model(**batch))
        loss_of(outputs[-1]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert_equal_outputs(*outputs)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_batch_of_one_equals_batch_of_16(build, processor, images):
    model = build()
    texts = [f"{TEXTS[i % 4]} {'very ' * (i % 5)}red" for i in range(16)]
    inputs = processor(images=[images[i % 8] for i in range(16)], text=texts)
    with torch.no_grad():
        together = model.get_query_features(**inputs)
        for i in range(16):
            one = processor(images=[images[i % 8]], text=[texts[i]])
            torch.testing.assert_close(model.get_query_features(**one)[0], together[i], atol=2e-6, rtol=0)


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_padding_does_not_count(build, queries, processor, fields):
    model, pixels = build(**fields), queries["pixel_values"]
    short = model.get_query_features(**queries)
    padded = processor(text=TEXTS, padding="max_length")
    assert padded["input_ids"].shape == (4, 77)
    torch.testing.assert_close(model.get_query_features(pixels, **padded), short)
    torch.testing.assert_close(model.get_query_features(pixels, padded["input_ids"]), short)  # found by the end token
    # What stands in the padding is of no consequence; the end token is.
    padded["input_ids"][:, -20:] = 7
    torch.testing.assert_close(model.get_query_features(pixels, **padded), short)


def test_eager_equals_sdpa(build, batch):
    model = build()
    sdpa = model(**batch)
    assert model.text_model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.text_model.config._attn_implementation == "eager"
    assert_equal_outputs(sdpa, model(**batch))


# Training


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_every_parameter_moves_but_lambda(build, batch, fields):
    model = build(**fields).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    loss_of(model(**batch)).backward()
    optimizer.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert still == ["combiner_weight"]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_every_trained_parameter_has_a_gradient_from_queries_alone(build, batch, fields):
    """What distributed training asks for, where targets come from the moving average. At lambda 1, that of the text
    projection may be zero, but it is there."""
    model = build(combiner_weight=1.0, **fields).train()
    output = model(**{name: value for name, value in batch.items() if name != "target_index"})
    (output.logit_scale * output.query_embeds @ torch.randn(20, 4)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == ["combiner_weight"]


def test_lambda_alone_can_be_tuned(build, batch):
    model = build(combiner_weight=1.0).requires_grad_(False)
    model.combiner_weight.requires_grad_(True)
    loss_of(model(**batch)).backward()
    assert model.combiner_weight.grad.abs() > 1e-4
    assert all(p.grad is None for name, p in model.named_parameters() if name != "combiner_weight")


def test_gradient_checkpointing_changes_nothing(build, batch):
    gradients = []
    for checkpointing in (False, True):
        model = build().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.blocks[0].gradient_checkpointing and model.text_model.encoder.layers[0].gradient_checkpointing
        calls = []
        model.vision_model.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        loss_of(model(**batch)).backward()
        assert len(calls) == 2 * (1 + checkpointing)  # queries and targets, each once more where nothing is kept
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        if name != "combiner_weight":
            torch.testing.assert_close(gradients[1][name], gradient, msg=lambda m, name=name: f"{name}: {m}")


def test_logit_scale_is_bounded_and_comes_back_from_the_bound(build, batch):
    model = build(logit_scale_init_value=4.7).train()
    scale = model(**batch).logit_scale
    assert 99.99 < scale.item() <= 100
    scale.backward()
    assert model.logit_scale.grad > 0
    assert build(logit_scale_init_value=4.7)(**batch).logit_scale.item() == 100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(build, batch, dtype):
    """Whole model or autocast: outputs are float32, of unit length and near those of float32."""
    model = build()
    expected = model(**batch)
    with torch.autocast("cpu", dtype=dtype):
        autocast = model(**batch)
    for output in (autocast, model.to(dtype)(**batch)):
        for key, value in output.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected[key], atol=0.05, rtol=0.01)
        torch.testing.assert_close(output.query_embeds.norm(dim=-1), torch.ones(4))


def test_lora_on_the_encoders(build, batch, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=r"(text_model|vision_model)\..*\.(q_proj|v_proj)", r=3)
    model = peft.get_peft_model(build(), config)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 * 2  # encoders, layers, projections, matrices
    assert not any("blocks" in name or "predictor" in name for name in trained)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss_of(model(**batch)).backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build(), tmp_path)
    assert_equal_outputs(model(**batch), again(**batch))
    assert not torch.allclose(again(**batch).query_embeds, build()(**batch).query_embeds, atol=1e-4)


# Loading and saving


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_save_load_save(clip_folder, batch, tmp_path, fields):
    model = InstructCIRModel.from_clip_pretrained(clip_folder, **fields)
    model.combiner_weight.fill_(0.8)
    model.save_pretrained(tmp_path / "one")
    again = AutoModel.from_pretrained(tmp_path / "one")
    assert type(again) is InstructCIRModel and not again.training
    again.save_pretrained(tmp_path / "two")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert_equal_outputs(model(**batch), again(**batch), atol=0)
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == ["combiner_weight"]


def test_from_clip_pretrained(clip_folder, capfd):
    clip = CLIPModel.from_pretrained(clip_folder)
    capfd.readouterr()
    model = InstructCIRModel.from_clip_pretrained(clip_folder, predictor_hidden_size=7, dtype=torch.bfloat16)
    assert "MISSING" not in (said := "".join(capfd.readouterr())) and "UNEXPECTED" not in said
    state = model.state_dict()
    for key, value in clip.state_dict().items():
        assert torch.equal(state[key], value.bfloat16())
    new = {key.split(".")[0] for key in state.keys() - clip.state_dict().keys()}
    assert new == {"blocks", "predictor", "combiner_weight"}
    assert (model.config.projection_dim, model.predictor.fc1.out_features) == (20, 7)
    assert len(model.blocks) == 2 and {block.num_heads for block in model.blocks} == {3}


def test_the_common_space_is_that_of_clip(clip_folder):
    with pytest.raises(ValueError, match="`projection_dim` is 16, but the projections of .* have 20. Leave it out"):
        InstructCIRModel.from_clip_pretrained(clip_folder, projection_dim=16)
    InstructCIRModel.from_clip_pretrained(clip_folder, projection_dim=20)


def test_temperature_is_that_of_clip_unless_one_is_given(clip_folder):
    clip_scale = CLIPModel.from_pretrained(clip_folder).logit_scale.item()
    assert InstructCIRModel.from_clip_pretrained(clip_folder).logit_scale.item() == clip_scale
    given = InstructCIRModel.from_clip_pretrained(clip_folder, logit_scale_init_value=1.5)
    assert given.logit_scale.item() == 1.5


def test_clip_folder_is_not_an_instructcir_folder(clip_folder, build):
    with pytest.raises(ValueError, match="from_clip_pretrained"):
        InstructCIRModel.from_pretrained(clip_folder)
    with pytest.raises(ValueError, match="lack blocks.0.k_proj.weight.* and .* more"):
        InstructCIRModel.from_pretrained(clip_folder, config=build().config)


@pytest.mark.parametrize("from_clip", [False, True])
def test_missing_and_broken_tensors_are_refused(build, clip_folder, tmp_path, from_clip):
    load = InstructCIRModel.from_clip_pretrained if from_clip else InstructCIRModel.from_pretrained
    (CLIPModel.from_pretrained(clip_folder) if from_clip else build()).save_pretrained(tmp_path)
    load(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "text_model.final_layer_norm.weight"
    broken = {**tensors, name: tensors[name].clone().index_fill_(0, torch.tensor([3]), float("nan"))}
    for content, message in ((broken, "hold NaN"), ({k: v for k, v in tensors.items() if k != name}, "lack")):
        save_file(content, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{message}.*{name}"):
            load(tmp_path)


@pytest.mark.parametrize("from_clip", [False, True])
def test_a_damaged_file_is_named(build, clip_folder, tmp_path, from_clip):
    load = InstructCIRModel.from_clip_pretrained if from_clip else InstructCIRModel.from_pretrained
    (CLIPModel.from_pretrained(clip_folder) if from_clip else build()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is incomplete or damaged .*Write or download it again"):
            load(tmp_path)


def test_legacy_clip_config(clip_folder, batch, tmp_path):
    """Old CLIP configs hold token ids 0 and 2; begin and end are the last two of the vocabulary."""
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"].update(bos_token_id=0, eos_token_id=2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    legacy = InstructCIRModel.from_clip_pretrained(tmp_path)
    torch.manual_seed(0)
    model = InstructCIRModel.from_clip_pretrained(clip_folder)
    assert legacy.config.empty_text_ids == model.config.empty_text_ids == (516, 517)
    assert_equal_outputs(legacy(**batch), model(**batch), atol=0)


def test_auto_classes(build, processor, tmp_path):
    build().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is InstructCIRModel
    assert type(AutoProcessor.from_pretrained(tmp_path)) is InstructCIRProcessor
