"""Properties of all models: agreement of their methods, invariances, precision, training, loading and saving."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, CLIPModel

from modeling_contextcir import text_passes
from tests.models.conftest import KINDS, TEXTS, assert_equal_outputs, queries, step, total_loss, with_phrases

MAIN = ["contextcir", "instructcir", "combiner"]  # one of each class
every_kind = pytest.mark.parametrize("kind", KINDS)
every_class = pytest.mark.parametrize("kind", MAIN)


# Agreement


@every_kind
def test_forward_agrees_with_the_features(build, batch, kind):
    model = build(kind)
    output, pixels = step(model, batch), batch["pixel_values"]
    expected = {"query_embeds": model.get_query_features(**queries(batch))}
    expected |= {"target_embeds": model.get_image_features(pixels[4:])}
    if not kind.startswith("instructcir"):
        expected |= {"reference_embeds": model.get_image_features(pixels[:4])}
    for name, value in expected.items():
        assert value.shape == (4, 20)
        torch.testing.assert_close(value.norm(dim=-1), torch.ones(4))
        torch.testing.assert_close(output[name], value)
    assert output.logit_scale.item() == pytest.approx(14.2848, abs=1e-3)
    maps = {"context_attentions", "isolated_attentions"} if with_phrases(model) else set()
    assert set(output) == {*expected, "logit_scale"} | maps


@every_kind
def test_a_query_depends_on_both_halves(build, batch, kind):
    model, inputs = build(kind, combiner_weight=1.0), queries(batch)
    plain, order = model.get_query_features(**inputs), torch.tensor([1, 2, 3, 0])
    for changed in (("pixel_values",), ("input_ids", "attention_mask")):
        other = model.get_query_features(**{n: v[order] if n in changed else v for n, v in inputs.items()})
        assert ((other - plain).abs().amax(dim=1) > 1e-3).all(), changed


@every_kind
@pytest.mark.parametrize("num_images, num_texts", [(3, 2), (2, 3), (1, 3)])
def test_queries_need_one_image_for_each_text(build, batch, kind, num_images, num_texts):
    model, inputs = build(kind), queries(batch, num_texts)
    pixels, numbers = batch["pixel_values"][:num_images], rf"\b{num_images}\b.*\b{num_texts}\b"
    for masks in ({"attention_mask": inputs["attention_mask"]}, {}):
        with pytest.raises(ValueError, match=f"pixel_values.*{numbers}"):
            model.get_query_features(pixels, inputs["input_ids"], **masks)
    with pytest.raises(ValueError, match=rf"attention_mask.*\b4\b.*\b{num_texts}\b"):
        model.get_query_features(
            batch["pixel_values"][:num_texts], inputs["input_ids"], attention_mask=batch["attention_mask"]
        )


@every_kind
@pytest.mark.parametrize(
    "name, rows",
    [(name, rows) for name in ("reference_index", "attention_mask") for rows in (3, 5)] + [("target_index", 3)],
)
def test_a_training_step_needs_one_row_for_each_text(build, batch, kind, name, rows):
    changed = batch[name][[0, 1, 2, 3, 0][:rows]]
    with pytest.raises(ValueError, match=rf"{name}.*\b{rows}\b.*\b4\b"):
        step(build(kind), batch, **{name: changed})


@every_kind
def test_images_of_no_text_are_embedded_as_targets_are(build, batch, kind):
    model, places = build(kind), torch.tensor([1, 3, 5, 7, 0, 5, 2])
    output = step(model, batch, target_index=places)
    torch.testing.assert_close(output.target_embeds, model.get_image_features(batch["pixel_values"][places]))
    torch.testing.assert_close(output.query_embeds, step(model, batch).query_embeds)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("instructcir")])
@pytest.mark.parametrize("class_token", [True, False])
def test_images_may_be_encoded_before(build, batch, kind, class_token):
    model = build(kind, **({"fusion_class_token": class_token} if kind.startswith("contextcir") else {}))
    encoded, pixels = model.encode_images(batch["pixel_values"]), batch["pixel_values"]
    assert_equal_outputs(step(model, batch, pixel_values=None, encoded_images=encoded), step(model, batch))
    for images in ((None, None), (pixels, encoded)):
        with pytest.raises(ValueError, match="pixel_values.*encoded_images"):
            step(model, batch, pixel_values=images[0], encoded_images=images[1])
    with pytest.raises(ValueError, match="reference_index"):
        step(model, batch, reference_index=None)


@every_class
def test_an_image_of_several_rows_gives_the_same_as_its_copies(build, batch, kind):
    model = build(kind)
    index = {"reference_index": torch.tensor([2, 0, 2, 1]), "target_index": torch.tensor([1, 3, 1, 2])}
    copies = torch.cat([batch["pixel_values"][places] for places in index.values()])
    assert_equal_outputs(step(model, batch, **index), step(model, batch, pixel_values=copies))


@every_class
def test_without_targets_none_is_embedded(build, batch, kind):
    model = build(kind)
    output = step(model, batch, target_index=None)
    assert output.target_embeds is None
    assert torch.equal(output.query_embeds, step(model, batch).query_embeds)


# Invariances


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("combiner", "tirg")])
def test_the_number_of_text_passes_changes_nothing(monkeypatch, build, batch, kind):
    outputs, gradients = [], []
    for cost in (0, 10**6):
        monkeypatch.setitem(text_passes.PASS_COST, "cpu", cost)
        model = build(kind)
        outputs.append(step(model, batch, **({"isolated_grad": True} if with_phrases(model) else {})))
        total_loss(outputs[-1]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert_equal_outputs(*outputs)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["contextcir", "contextcir-image-queries", "instructcir", "combiner"])
def test_a_batch_gives_the_same_as_its_rows(build, processor, images, kind):
    model = build(kind)
    texts = [f"{TEXTS[i % 4]} {'very ' * (i % 5)}red" for i in range(20)]
    inputs = processor(images=[images[i % 8] for i in range(20)], text=texts)
    with torch.no_grad():
        together, gallery = model.get_query_features(**inputs), model.get_image_features(inputs["pixel_values"])
        for i in range(20):
            one = processor(images=[images[i % 8]], text=[texts[i]])
            torch.testing.assert_close(model.get_query_features(**one)[0], together[i], atol=2e-6, rtol=0)
            if i < 8:
                torch.testing.assert_close(model.get_image_features(one["pixel_values"])[0], gallery[i])


@every_kind
def test_padding_does_not_count(build, batch, processor, kind):
    model, inputs = build(kind), queries(batch)
    pixels, short = inputs["pixel_values"], model.get_query_features(**inputs)
    padded = processor(text=TEXTS, padding="max_length")
    assert padded["input_ids"].shape == (4, 77)
    torch.testing.assert_close(model.get_query_features(pixels, **padded), short)
    torch.testing.assert_close(model.get_query_features(pixels, padded["input_ids"]), short)  # found by the end token
    padded["input_ids"][:, -20:] = 7  # other padding than the end token
    torch.testing.assert_close(model.get_query_features(pixels, **padded), short)


@every_kind
def test_eager_equals_sdpa(build, batch, kind):
    model = build(kind)
    sdpa = step(model, batch)
    assert model.text_model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.text_model.config._attn_implementation == "eager"
    assert_equal_outputs(sdpa, step(model, batch))


@pytest.mark.parametrize("kind", ["contextcir", "contextcir-image-queries", "instructcir", "combiner"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(build, batch, kind, dtype):
    """In half precision or autocast, outputs are float32, of unit length and near those of float32."""
    model = build(kind)
    expected = step(model, batch)
    with torch.autocast("cpu", dtype=dtype):
        autocast = step(model, batch)
    for output in (autocast, step(model.to(dtype), batch)):
        for key, value in output.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected[key], atol=0.05, rtol=0.01)
        torch.testing.assert_close(output.query_embeds.norm(dim=-1), torch.ones(4))
        if with_phrases(model):
            torch.testing.assert_close(output.context_attentions.sum(-1), torch.ones(6))


# Training


@every_kind
def test_every_parameter_is_trained(build, batch, kind):
    """Except lambda of InstructCIR. A bias of the keys changes no attention of CLIP."""
    model = build(kind).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    total_loss(step(model, batch)).backward()
    optimizer.step()
    same = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert {name for name in same if not name.endswith("k_proj.bias")} == (
        {"combiner_weight"} if kind.startswith("instructcir") else set()
    )


@pytest.mark.parametrize("kind", ["contextcir", "contextcir-image-queries", "instructcir", "combiner"])
def test_gradient_checkpointing_changes_nothing(build, batch, kind):
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = build(kind).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            layers = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
            assert layers and all(layer.gradient_checkpointing for layer in layers)
        count = []
        model.vision_model.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        total_loss(step(model, batch)).backward()
        calls.append(len(count))
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert calls[1] == 2 * calls[0]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda m, name=name: f"{name}: {m}")


@every_class
def test_the_temperature_has_a_bound_and_a_gradient_there(build, batch, kind):
    model = build(kind, logit_scale_init_value=4.7).train()
    scale = step(model, batch).logit_scale
    assert 99.99 < scale.item() <= 100
    scale.backward()
    assert model.logit_scale.grad > 0
    assert step(build(kind, logit_scale_init_value=4.7), batch).logit_scale.item() == 100


@every_class
def test_lora_on_the_encoders(build, batch, tmp_path, kind):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=r"(text_model|vision_model)\..*\.(q_proj|v_proj)", r=3)
    model = peft.get_peft_model(build(kind), config)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 * 2  # encoders, layers, projections, matrices
    assert all("text_model." in name or "vision_model." in name for name in trained)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    total_loss(step(model.base_model.model, batch)).backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build(kind), tmp_path).base_model.model
    assert_equal_outputs(step(model.base_model.model, batch), step(again, batch))
    assert not torch.allclose(step(again, batch).query_embeds, step(build(kind), batch).query_embeds, atol=1e-4)


# Loading and saving


@every_kind
def test_save_load_save(batch, clip_folder, tmp_path, kind):
    model_class, processor_class, fields = KINDS[kind]
    model = model_class.from_clip_pretrained(clip_folder, **fields)
    model.save_pretrained(tmp_path / "one")
    processor_class.from_pretrained(clip_folder).save_pretrained(tmp_path / "one")
    again = AutoModel.from_pretrained(tmp_path / "one")
    assert type(again) is model_class and not again.training
    assert type(AutoProcessor.from_pretrained(tmp_path / "one")) is processor_class
    again.save_pretrained(tmp_path / "two")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert_equal_outputs(step(model, batch), step(again, batch), atol=0)
    frozen = ["combiner_weight"] if kind.startswith("instructcir") else []
    for loaded in (again, model_class.from_pretrained(tmp_path / "one", output_loading_info=True)[0]):
        assert [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad] == frozen


NEW_PARTS = {
    "contextcir": {"fusion", "pooler", "projection"},
    "instructcir": {"blocks", "predictor", "combiner_weight"},
    "combiner": {"composer"},
}


@every_class
def test_from_clip_pretrained(clip_folder, capfd, kind):
    clip = CLIPModel.from_pretrained(clip_folder)
    capfd.readouterr()
    fields = KINDS[kind][2]
    model = KINDS[kind][0].from_clip_pretrained(clip_folder, **fields, dtype=torch.bfloat16)
    assert "MISSING" not in (printed := "".join(capfd.readouterr())) and "UNEXPECTED" not in printed
    assert not model.training and model.config.projection_dim == 20
    assert all(getattr(model.config, name) == value for name, value in fields.items())
    state, shared = model.state_dict(), clip.state_dict()
    assert {name.split(".")[0] for name in state.keys() - shared.keys()} == NEW_PARTS[kind]
    assert shared.keys() - state.keys() == (
        {"text_projection.weight", "visual_projection.weight"} if kind == "contextcir" else set()
    )
    for name in state.keys() & shared.keys():
        assert torch.equal(state[name], shared[name].bfloat16())


@pytest.mark.parametrize("kind", ["contextcir-clip-targets", "instructcir", "combiner"])
def test_what_does_not_fit_the_clip_is_refused(clip_folder, kind):
    model_class, _, fields = KINDS[kind]
    with pytest.raises(ValueError, match=rf"projection_dim.*\b16\b.*{clip_folder}.*\b20\b"):
        model_class.from_clip_pretrained(clip_folder, **fields | {"projection_dim": 16})
    with pytest.raises(ValueError, match=f"vision_config.*{clip_folder}"):
        model_class.from_clip_pretrained(clip_folder, vision_config={"num_hidden_layers": 4})


@every_class
def test_the_temperature_is_that_of_clip_unless_it_is_given(clip_folder, kind):
    model_class, clip_scale = KINDS[kind][0], CLIPModel.from_pretrained(clip_folder).logit_scale.item()
    assert model_class.from_clip_pretrained(clip_folder).logit_scale.item() == clip_scale
    assert model_class.from_clip_pretrained(clip_folder, logit_scale_init_value=1.5).logit_scale.item() == 1.5


@every_class
def test_a_clip_folder_is_no_folder_of_a_model(clip_folder, build, kind):
    model_class, missing = KINDS[kind][0], "|".join(NEW_PARTS[kind])
    with pytest.raises(ValueError, match="from_clip_pretrained"):
        model_class.from_pretrained(clip_folder)
    with pytest.raises(ValueError, match=rf"{clip_folder}.* ({missing})\..* \d+ more"):
        model_class.from_pretrained(clip_folder, config=build(kind).config)


@pytest.fixture(params=[(kind, from_clip) for kind in MAIN for from_clip in (False, True)], ids=str)
def saved(request, build, clip_folder, tmp_path):
    """A folder of a model or of a CLIP, and the function that loads a model from it."""
    kind, from_clip = request.param
    model_class = KINDS[kind][0]
    model = CLIPModel.from_pretrained(clip_folder) if from_clip else build(kind)
    return model, tmp_path, model_class.from_clip_pretrained if from_clip else model_class.from_pretrained


def test_missing_and_broken_tensors_are_refused(saved):
    model, folder, load = saved
    model.save_pretrained(folder)
    load(folder)
    tensors, name = load_file(folder / "model.safetensors"), "text_model.final_layer_norm.weight"
    broken = {**tensors, name: tensors[name].clone().index_fill_(0, torch.tensor([3]), float("nan"))}
    for content, problem in ((broken, "NaN"), ({k: v for k, v in tensors.items() if k != name}, "")):
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{folder}.*{problem}.* {name}"):
            load(folder)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_damaged_file_is_named(saved, shards):
    model, folder, load = saved
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=size // shards + 1000)
    files = sorted(folder.glob("*.safetensors"))
    assert (len(files) > 1) == (shards > 1)
    content = files[-1].read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        files[-1].write_bytes(damaged)
        with pytest.raises(ValueError, match=str(files[-1])):
            load(folder)


@every_class
def test_a_clip_config_of_transformers_4(clip_folder, batch, tmp_path, kind):
    """Old CLIP configs hold token ids 0 and 2; begin and end are the last two of the vocabulary."""
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"].update(bos_token_id=0, eos_token_id=2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    models = []
    for folder in (tmp_path, clip_folder):
        torch.manual_seed(0)
        models.append(KINDS[kind][0].from_clip_pretrained(folder))
        assert models[-1].config.empty_text_ids == (516, 517)
    assert_equal_outputs(*(step(model, batch) for model in models), atol=0)
