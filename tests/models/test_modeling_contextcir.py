"""ConText-CIR: shapes of the mathematics (invariances and closed forms), loading and saving, precision, training."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, CLIPModel

from modeling_contextcir import ContextCIRConfig, ContextCIRModel, ContextCIRProcessor, clip_model

DIRECTIONS = ["text_to_image", "image_to_text"]
VARIANTS = [(direction, target) for direction in DIRECTIONS for target in ("fusion", "clip")]
TEXTS = ["make the red dog look at the cat", "", "add a tree", "the red hat and the red bag with a long, long strap"]
PHRASES = [[(5, 16), (25, 32)], [], [(4, 10)], [(0, 11), (16, 27), (33, 51)]]


@pytest.fixture(scope="module")
def processor(clip_folder):
    return ContextCIRProcessor.from_pretrained(clip_folder)


@pytest.fixture(scope="module")
def batch(processor, images):
    """Arguments of `forward` for four triplets with six noun phrases."""
    inputs = processor(images=images, text=TEXTS, noun_phrases=PHRASES)
    assert inputs.pop("num_truncated_texts") == 0 and inputs.pop("num_dropped_phrases") == 0
    return {"reference_index": torch.arange(4), "target_index": torch.arange(4, 8), **inputs}


@pytest.fixture
def build(clip_config):
    def build(direction="text_to_image", target="fusion", seed=0, **fields):
        torch.manual_seed(seed)
        fields = {"fusion_hidden_size": 40, "projection_dim": 20} | fields  # differs from both encoders
        config = ContextCIRConfig(
            vision_config=clip_config.vision_config.to_dict(),
            text_config=clip_config.text_config.to_dict(),
            fusion_direction=direction,
            target_encoding=target,
            **fields,
        )
        return ContextCIRModel(config).eval()

    return build


def losses(output):
    """A loss that reads everything that the real ones read."""
    logits = output.logit_scale * output.query_embeds @ torch.cat([output.target_embeds, output.reference_embeds]).T
    contrastive = F.cross_entropy(logits, torch.arange(len(logits)))
    return contrastive + (output.context_attentions - output.isolated_attentions).relu().sum()


def assert_equal_outputs(one, other, atol=1e-5):
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=atol, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


# Mathematics


@pytest.mark.parametrize(("direction", "target"), VARIANTS)
def test_outputs(build, batch, direction, target):
    output = build(direction, target)(**batch)
    for name in ("query_embeds", "target_embeds", "reference_embeds"):
        assert output[name].shape == (4, 20)
        torch.testing.assert_close(output[name].norm(dim=-1), torch.ones(4))
    assert output.logit_scale.item() == pytest.approx(14.2848, abs=1e-3)
    for name in ("context_attentions", "isolated_attentions"):
        assert output[name].shape == (6, 25) and (output[name] >= 0).all()
        torch.testing.assert_close(output[name].sum(dim=-1), torch.ones(6))
    assert output.context_attentions.requires_grad and not output.isolated_attentions.requires_grad


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(("direction", "target"), VARIANTS)
def test_images_come_in_one_form(build, batch, direction, target, class_token):
    model = build(direction, target, fusion_class_token=class_token)
    encoded = model.encode_images(batch["pixel_values"])
    others = {name: value for name, value in batch.items() if name != "pixel_values"}
    assert_equal_outputs(model(**others, encoded_images=encoded), model(**batch))
    for images in ({}, {"pixel_values": batch["pixel_values"], "encoded_images": encoded}):
        with pytest.raises(ValueError, match="`pixel_values` or `encoded_images`"):
            model(**others, **images)


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_without_the_class_token_it_does_not_matter(build, batch, direction):
    model = build(direction, fusion_class_token=False)
    encoded = model.encode_images(batch["pixel_values"])
    other = encoded.clone()
    other[:, 0] = 100.0
    others = {name: value for name, value in batch.items() if name != "pixel_values"}
    one = model(**others, encoded_images=encoded)
    assert_equal_outputs(one, model(**others, encoded_images=other))
    assert one.context_attentions.shape == (6, 25)


@pytest.mark.parametrize(("direction", "target"), VARIANTS)
def test_forward_agrees_with_the_features(build, batch, direction, target):
    model = build(direction, target)
    output = model(**batch)
    ids, mask, (references, targets) = batch["input_ids"], batch["attention_mask"], batch["pixel_values"].split(4)
    torch.testing.assert_close(output.query_embeds, model.get_query_features(references, ids, mask))
    torch.testing.assert_close(output.reference_embeds, model.get_image_features(references))
    torch.testing.assert_close(output.target_embeds, model.get_image_features(targets))
    maps = model.get_concept_attentions(
        pixel_values=references, **{k: v for k, v in batch.items() if k != "pixel_values" and "index" not in k}
    )
    torch.testing.assert_close(maps, (output.context_attentions, output.isolated_attentions))


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


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_isolated_attention_is_that_of_the_phrase_as_a_whole_text(build, batch, processor, direction):
    """Packing phrases as rows (or repeating images) changes nothing: each phrase alone gives the same map."""
    model = build(direction)
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


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_phrases_may_come_in_any_order(build, batch, direction):
    model, order = build(direction), torch.tensor([3, 0, 5, 2, 4, 1])
    shuffled = {key: value[order] if key.startswith("phrase_") else value for key, value in batch.items()}
    one, other = model(**batch), model(**shuffled)
    torch.testing.assert_close(one.context_attentions[order], other.context_attentions)
    torch.testing.assert_close(one.isolated_attentions[order], other.isolated_attentions)


def test_context_attention_from_the_definition(build, batch):
    """Mean of tokens, heads and layers, class token left out, normalised: written out with one layer."""
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
    """For each patch the attention on the phrase's tokens, normalised over patches: written out with one layer."""
    model = build("image_to_text", fusion_num_layers=1)
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


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_encoders_run_as_seldom_as_can_be(build, batch, direction):
    model, passes = build(direction), []
    model.vision_model.register_forward_pre_hook(lambda _, args: passes.append(("vision", len(args[0]))))
    model.text_model.register_forward_pre_hook(lambda _, args: passes.append(("text", tuple(args[0].shape))))
    model(**batch)
    whole, phrases = (batch[name].sum(dim=1).tolist() for name in ("attention_mask", "phrase_attention_mask"))
    assert whole == [21, 2, 9, 34] and sorted(phrases) == [6, 6, 7, 7, 7, 17]
    num_phrases = 5 if direction == "text_to_image" else 6  # without the phrase that begins its text: see below
    texts = [("text", (4, 34)), ("text", (1, 2)), ("text", (num_phrases, 17))]
    assert passes == [("vision", 8), *texts]


@pytest.mark.parametrize("lengths", [[1], [7, 7, 7], [0, 12, 2, 9, 40, 41, 0], list(range(2, 78)), [0, 0]])
@pytest.mark.parametrize("cost", [0, 5, 64, 10**6])
def test_texts_are_split_into_passes_at_the_least_cost(monkeypatch, lengths, cost):
    def price(ends):
        """Of passes up to these lengths."""
        texts = [sum(low < length <= high for length in lengths) for low, high in zip([0, *ends], ends, strict=False)]
        return sum(number * end + cost for number, end in zip(texts, ends, strict=True))

    monkeypatch.setitem(clip_model.PASS_COST, "cpu", cost)
    passes = clip_model.split_into_passes(torch.tensor(lengths))
    together = torch.cat([index for index, _ in passes]).tolist() if passes else []
    assert sorted(together) == [i for i, length in enumerate(lengths) if length]
    assert all(max(lengths[i] for i in index) == longest for index, longest in passes)
    distinct = sorted({*lengths} - {0})
    if len(distinct) <= 5 and distinct:
        inner = [ends for n in range(5) for ends in itertools.combinations(distinct[:-1], n)]
        assert price([longest for _, longest in passes]) == min(price([*ends, distinct[-1]]) for ends in inner)


@pytest.mark.parametrize(("direction", "target"), VARIANTS)
def test_the_number_of_passes_changes_nothing(monkeypatch, build, batch, direction, target):
    outputs, gradients = [], []
    for cost in (0, 10**6):
        monkeypatch.setitem(clip_model.PASS_COST, "cpu", cost)
        model = build(direction, target)
        outputs.append(model(**batch, isolated_grad=True))
        losses(outputs[-1]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert_equal_outputs(*outputs)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_shared_images_are_those_of_their_rows(build, batch):
    """A batch that names an image twice is the one that holds it twice."""
    model = build()
    index = {"reference_index": torch.tensor([2, 0, 2, 1]), "target_index": torch.tensor([1, 3, 4, 2])}
    shared = model(**batch | index)
    pixel_values = torch.cat([batch["pixel_values"][places] for places in index.values()])
    assert_equal_outputs(shared, model(**batch | {"pixel_values": pixel_values}))


@pytest.mark.parametrize("isolated_grad", [False, True])
def test_a_phrase_that_begins_its_text_costs_nothing(build, batch, isolated_grad):
    """A causal encoder reads it as if it stood alone: both maps are the same to the last bit, without a gradient."""
    model = build()
    output = model(**batch, isolated_grad=isolated_grad)
    difference = output.context_attentions - output.isolated_attentions
    assert (difference[3] == 0).all() and (difference[[0, 1, 2, 4, 5]].abs().sum(dim=1) > 1e-3).all()
    difference[3].relu().sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_batch_of_one_equals_batch_of_64(build, processor, images, direction):
    model = build(direction)
    texts = [f"{TEXTS[i % 4]} {'very ' * (i % 5)}red" for i in range(64)]
    inputs = processor(images=[images[i % 8] for i in range(64)], text=texts)
    with torch.no_grad():
        together, gallery = model.get_query_features(**inputs), model.get_image_features(inputs["pixel_values"])
        for i in range(64):
            one = processor(images=[images[i % 8]], text=[texts[i]])
            torch.testing.assert_close(model.get_query_features(**one)[0], together[i], atol=2e-6, rtol=0)
            if i < 8:
                torch.testing.assert_close(model.get_image_features(one["pixel_values"])[0], gallery[i])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_padding_does_not_count(build, batch, processor, direction):
    model, pixels = build(direction), batch["pixel_values"][:4]
    short = model.get_query_features(pixels, batch["input_ids"], batch["attention_mask"])
    padded = processor(text=TEXTS, padding="max_length")
    assert padded["input_ids"].shape == (4, 77)
    torch.testing.assert_close(model.get_query_features(pixels, **padded), short)
    torch.testing.assert_close(model.get_query_features(pixels, padded["input_ids"]), short)  # found by the end token
    # What stands in the padding is of no consequence; the end token is.
    padded["input_ids"][:, -20:] = 7
    torch.testing.assert_close(model.get_query_features(pixels, **padded), short)


@pytest.mark.parametrize(("direction", "target"), VARIANTS)
def test_eager_equals_sdpa(build, batch, direction, target):
    model = build(direction, target)
    sdpa = model(**batch)
    without_maps = model(**{name: tensor for name, tensor in batch.items() if not name.startswith("phrase_")})
    assert model.text_model.config._attn_implementation == "sdpa"
    assert without_maps.context_attentions is None and without_maps.isolated_attentions is None
    torch.testing.assert_close(without_maps.query_embeds, sdpa.query_embeds)
    model.set_attn_implementation("eager")
    assert model.text_model.config._attn_implementation == "eager"
    assert_equal_outputs(sdpa, model(**batch))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_batch_without_noun_phrases(build, batch, processor, direction):
    model = build(direction)
    inputs = processor(text=TEXTS, noun_phrases=[[], [], [], []])
    nothing = {key: value for key, value in inputs.items() if key.startswith("phrase_")}
    output = model(**{**batch, **nothing})
    assert output.context_attentions.shape == output.isolated_attentions.shape == (0, 25)
    losses(output).backward()
    torch.testing.assert_close(output.query_embeds, model(**batch).query_embeds)


# Training


@pytest.mark.parametrize(("direction", "target"), VARIANTS)
@pytest.mark.parametrize("concepts", [True, False])
def test_every_parameter_moves(build, batch, direction, target, concepts):
    model = build(direction, target).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    output = model(**batch) if concepts else model(**{k: v for k, v in batch.items() if not k.startswith("phrase_")})
    loss = (
        losses(output)
        if concepts
        else (output.query_embeds @ output.target_embeds.T).diag().sum() * output.logit_scale
    )
    loss.backward()
    optimizer.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not still


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradient_through_the_isolated_side_on_request(build, batch, direction):
    output = build(direction)(**batch, isolated_grad=True)
    assert output.isolated_attentions.requires_grad
    gradient = torch.autograd.grad(output.isolated_attentions.square().sum(), output.isolated_attentions)[0]
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradient_checkpointing_changes_nothing(build, batch, direction):
    gradients = []
    for checkpointing in (False, True):
        model = build(direction).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert (
                model.fusion.layers[0].gradient_checkpointing
                and model.vision_model.encoder.layers[0].gradient_checkpointing
            )
        losses(model(**batch, isolated_grad=True)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda m, name=name: f"{name}: {m}")


def test_logit_scale_is_bounded_and_comes_back_from_the_bound(build, batch):
    model = build(logit_scale_init_value=4.7).train()
    scale = model(**batch).logit_scale
    assert 99.99 < scale.item() <= 100
    scale.backward()
    assert model.logit_scale.grad > 0
    assert build(logit_scale_init_value=4.7)(**batch).logit_scale.item() == 100


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(build, batch, direction, dtype):
    """Whole model or autocast: outputs are float32, of unit length and near those of float32."""
    model = build(direction)
    expected = model(**batch)
    with torch.autocast("cpu", dtype=dtype):
        autocast = model(**batch)
    for output in (autocast, model.to(dtype)(**batch)):
        for key, value in output.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected[key], atol=0.05, rtol=0.01)
        torch.testing.assert_close(output.context_attentions.sum(-1), torch.ones(6))
        torch.testing.assert_close(output.query_embeds.norm(dim=-1), torch.ones(4))


def test_lora_on_the_encoders(build, batch, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=r"(text_model|vision_model)\..*\.(q_proj|v_proj)", r=3)
    model = peft.get_peft_model(build(), config)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 * 2  # encoders, layers, projections, matrices
    assert not any("fusion" in name or "pooler" in name for name in trained)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses(model(**batch)).backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build(), tmp_path)
    assert_equal_outputs(model(**batch), again(**batch))
    assert not torch.allclose(again(**batch).query_embeds, build()(**batch).query_embeds, atol=1e-4)


# Loading and saving


@pytest.mark.parametrize(("direction", "target"), VARIANTS)
def test_save_load_save(clip_folder, batch, tmp_path, direction, target):
    fields = {"fusion_direction": direction, "target_encoding": target, "fusion_hidden_size": 40}
    model = ContextCIRModel.from_clip_pretrained(clip_folder, **fields)
    model.save_pretrained(tmp_path / "one")
    again = AutoModel.from_pretrained(tmp_path / "one")
    assert type(again) is ContextCIRModel and not again.training
    again.save_pretrained(tmp_path / "two")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert_equal_outputs(model(**batch), again(**batch), atol=0)


def test_from_clip_pretrained(clip_folder, capfd):
    clip = CLIPModel.from_pretrained(clip_folder)
    capfd.readouterr()
    model = ContextCIRModel.from_clip_pretrained(clip_folder, fusion_num_layers=3, dtype=torch.bfloat16)
    assert "MISSING" not in (said := "".join(capfd.readouterr())) and "UNEXPECTED" not in said
    state = model.state_dict()
    taken = {key: value for key, value in clip.state_dict().items() if key in state}
    assert {key.split(".")[0] for key in taken} == {"text_model", "vision_model", "logit_scale"}
    for key, value in taken.items():
        assert torch.equal(state[key], value.bfloat16())
    assert len(model.fusion.layers) == 3
    config = model.config
    assert (config.projection_dim, config.fusion_hidden_size, config.fusion_num_heads) == (20, 32, 4)
    assert config.fusion_intermediate_size == 128


def test_what_does_not_fit_the_clip_is_refused(clip_folder):
    with pytest.raises(ValueError, match="`projection_dim` is 16, but the projections of .* have 20"):
        ContextCIRModel.from_clip_pretrained(clip_folder, target_encoding="clip", projection_dim=16)
    assert ContextCIRModel.from_clip_pretrained(clip_folder, projection_dim=16).projection.out_features == 16
    with pytest.raises(ValueError, match="vision_config: the encoders are those of"):
        ContextCIRModel.from_clip_pretrained(clip_folder, vision_config={"num_hidden_layers": 4})


def test_temperature_is_that_of_clip_unless_one_is_given(clip_folder):
    clip_scale = CLIPModel.from_pretrained(clip_folder).logit_scale.item()
    assert ContextCIRModel.from_clip_pretrained(clip_folder).logit_scale.item() == clip_scale
    given = ContextCIRModel.from_clip_pretrained(clip_folder, logit_scale_init_value=1.5)
    assert given.logit_scale.item() == 1.5


def test_clip_folder_is_not_a_contextcir_folder(clip_folder, build):
    with pytest.raises(ValueError, match="from_clip_pretrained"):
        ContextCIRModel.from_pretrained(clip_folder)
    with pytest.raises(ValueError, match="lack fusion.input_projection.bias.* and .* more"):
        ContextCIRModel.from_pretrained(clip_folder, config=build().config)


@pytest.mark.parametrize("from_clip", [False, True])
def test_missing_and_broken_tensors_are_refused(build, clip_folder, tmp_path, from_clip):
    load = ContextCIRModel.from_clip_pretrained if from_clip else ContextCIRModel.from_pretrained
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
@pytest.mark.parametrize("shards", [1, 3])
def test_a_damaged_file_is_named(build, clip_folder, tmp_path, from_clip, shards):
    load = ContextCIRModel.from_clip_pretrained if from_clip else ContextCIRModel.from_pretrained
    model = CLIPModel.from_pretrained(clip_folder) if from_clip else build()
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(tmp_path, max_shard_size=size // (2 if shards > 1 else 1) + 1000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (shards > 1)
    content = files[-1].read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        files[-1].write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{files[-1]} is incomplete or damaged .*Write or download it again"):
            load(tmp_path)


def test_legacy_clip_config(clip_folder, clip_config, batch, tmp_path):
    """Old CLIP configs hold token ids 0 and 2; begin and end are the last two of the vocabulary."""
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"].update(bos_token_id=0, eos_token_id=2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    legacy = ContextCIRModel.from_clip_pretrained(tmp_path)
    torch.manual_seed(0)
    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    assert legacy.config.empty_text_ids == model.config.empty_text_ids == (516, 517)
    assert_equal_outputs(legacy(**batch), model(**batch), atol=0)


def test_auto_classes(build, processor, tmp_path):
    build().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is ContextCIRModel
    assert type(AutoProcessor.from_pretrained(tmp_path)) is ContextCIRProcessor
