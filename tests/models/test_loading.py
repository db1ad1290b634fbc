"""Loading refuses what does not fit, by the name of the tensor, and begins from a CLIP with the right token ids."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AltCLIPConfig,
    AutoModel,
    ChineseCLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPSegConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    MetaClip2Config,
    MetaClip2Model,
    OwlViTConfig,
    SiglipConfig,
    XCLIPConfig,
    XLMRobertaTokenizer,
)

from modeling_contextcir import CompositionBaseline, ContextCIRModel, ContextCIRProcessor
from tests.models.conftest import KINDS, assert_equal_outputs, step
from tests.models.test_every_model import every_class, saved  # noqa: F401 (a fixture)


def change_config(folder, **text_config):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(text_config)
    (folder / "config.json").write_text(json.dumps(config))


# Tensors that do not fit


@pytest.mark.fault("L32", "a tensor that the model does not have, or of another shape, is named")
def test_unknown_tensors_and_wrong_shapes_are_named(saved):  # noqa: F811
    model, folder, load = saved
    model.save_pretrained(folder)
    tensors, name = load_file(folder / "model.safetensors"), "text_model.final_layer_norm.weight"
    cases = {
        r"the unknown fusion_old\.weight": tensors | {"fusion_old.weight": torch.ones(3)},
        rf"{name} of shape \(5,\) .*\(32,\)": tensors | {name: torch.ones(5)},
    }
    for message, content in cases.items():
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{folder}.*{message}"):
            load(folder)


def test_old_buffers_are_no_unknown_tensors(saved):  # noqa: F811
    model, folder, load = saved
    model.save_pretrained(folder)
    buffers = {f"{part}.embeddings.position_ids": torch.arange(77)[None] for part in ("text_model", "vision_model")}
    save_file(load_file(folder / "model.safetensors") | buffers, folder / "model.safetensors", {"format": "pt"})
    load(folder)


@every_class
@pytest.mark.fault("L33", "weights that were saved from a compiled model load")
@pytest.mark.parametrize("place", ["", "text_model."])
def test_weights_of_a_compiled_model(build, batch, tmp_path, kind, place):
    model = build(kind)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    compiled = {
        name.replace(place, f"{place}_orig_mod.", 1) if name.startswith(place) else name: value
        for name, value in tensors.items()
    }
    assert compiled.keys() != tensors.keys()
    save_file(compiled, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = type(model).from_pretrained(tmp_path)
    assert_equal_outputs(step(model, batch), step(again, batch), atol=0)
    again.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()


@every_class
@pytest.mark.fault("L34", "output_loading_info=True returns the model and what was loaded")
def test_loading_info(clip_folder, build, tmp_path, kind):
    build(kind).save_pretrained(tmp_path)
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, KINDS[kind][0]) and not info["missing_keys"] and not info["unexpected_keys"]
    model, info = KINDS[kind][0].from_clip_pretrained(clip_folder, output_loading_info=True)
    assert isinstance(model, KINDS[kind][0])
    assert (
        info["missing_keys"] == model.state_dict().keys() - CLIPModel.from_pretrained(clip_folder).state_dict().keys()
    )


@every_class
@pytest.mark.fault("P06", "a repository with pickles only is refused unless it is asked for, and the error says so")
def test_pickles_are_refused_unless_asked_for(build, batch, clip_folder, tmp_path, kind):
    model, clip = build(kind), CLIPModel.from_pretrained(clip_folder)
    for one, load in ((model, type(model).from_pretrained), (clip, type(model).from_clip_pretrained)):
        folder = tmp_path / type(one).__name__
        one.config.save_pretrained(folder)
        torch.save(one.state_dict(), folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=f"{folder}.*pytorch_model.bin.*allow_pickle=True"):
            load(folder)
        load(folder, allow_pickle=True)
    again = AutoModel.from_pretrained(tmp_path / type(model).__name__, allow_pickle=True)
    assert_equal_outputs(step(model, batch), step(again, batch), atol=0)


# Token ids


@every_class
@pytest.mark.fault("S07", "begin and end come from the tokenizer, not from the end of a padded vocabulary")
def test_a_padded_vocabulary(clip_folder, batch, tmp_path, kind):
    clip = CLIPModel.from_pretrained(clip_folder)
    clip.text_model.resize_token_embeddings(576)
    clip.config.text_config.vocab_size = 576
    clip.save_pretrained(tmp_path)
    CLIPProcessor.from_pretrained(clip_folder).save_pretrained(tmp_path)
    change_config(tmp_path, bos_token_id=0, eos_token_id=2)
    models = [KINDS[kind][0].from_clip_pretrained(folder) for folder in (tmp_path, clip_folder)]
    assert models[0].config.empty_text_ids == models[1].config.empty_text_ids == (516, 517)
    new = {name: value for name, value in models[1].state_dict().items() if "token_embedding" not in name}
    models[0].load_state_dict(new, strict=False)
    assert_equal_outputs(*(step(model, batch) for model in models), atol=1e-6)
    models[0].save_pretrained(tmp_path / "saved")
    again = type(models[0]).from_pretrained(tmp_path / "saved")
    assert again.config.empty_text_ids == (516, 517)
    assert_equal_outputs(step(models[0], batch), step(again, batch), atol=0)


@pytest.fixture(scope="module")
def swapped(clip_folder, tmp_path_factory):
    """A CLIP whose begin and end really are 0 and 2: the rows 516 and 517 of its vocabulary have those places."""
    folder = tmp_path_factory.mktemp("swapped")
    shutil.copytree(clip_folder, folder, dirs_exist_ok=True)
    content = json.loads((folder / "tokenizer.json").read_text())
    names = {place: token for token, place in content["model"]["vocab"].items()}
    for one, other in ((516, 0), (517, 2)):
        names[one], names[other] = names[other], names[one]
    content["model"]["vocab"] = {token: place for place, token in names.items()}
    for token in content["added_tokens"]:
        token["id"] = {516: 0, 517: 2}[token["id"]]
    text = json.dumps(content).replace('["<|startoftext|>", 516]', '["<|startoftext|>", 0]')
    text = text.replace('["<|endoftext|>", 517]', '["<|endoftext|>", 2]')
    (folder / "tokenizer.json").write_text(text)
    change_config(folder, bos_token_id=0, eos_token_id=2)
    tensors = load_file(folder / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    order = torch.arange(len(tensors[name]))
    order[[0, 516, 2, 517]] = torch.tensor([516, 0, 517, 2])
    tensors[name] = tensors[name][order].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@every_class
@pytest.mark.fault("S07", "a model whose begin and end really are 0 and 2 keeps them")
def test_ids_that_really_are_0_and_2(clip_folder, swapped, images, kind):
    embeds = []
    for folder in (clip_folder, swapped):
        model_class, processor_class, fields = KINDS[kind]
        torch.manual_seed(0)
        model = model_class.from_clip_pretrained(folder, **fields)
        processor = processor_class.from_pretrained(folder)
        inputs = processor(images=images[:2], text=["make the red dog look", ""])
        with torch.inference_mode():
            embeds.append((model.get_query_features(**inputs), model.get_image_features(inputs["pixel_values"])))
            masks = {name: inputs[name] for name in ("pixel_values", "input_ids")}
            torch.testing.assert_close(model.get_query_features(**masks), embeds[-1][0])
    assert model.config.empty_text_ids == (0, 2)
    torch.testing.assert_close(*embeds, atol=1e-6, rtol=0)


@pytest.mark.fault("S07", "a saved model with a tokenizer of other begin and end tokens is refused")
def test_another_tokenizer_is_refused(clip_folder, swapped, tmp_path, caplog):
    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(swapped / name, tmp_path)
    with pytest.raises(ValueError, match=r"\(516, 517\).*\(0, 2\)"):
        ContextCIRModel.from_pretrained(tmp_path)


@every_class
@pytest.mark.fault("L35", "resize_token_embeddings changes no embedding, also after saving")
def test_resized_vocabulary(build, batch, tmp_path, kind):
    model = build(kind)
    model.config.text_config.bos_token_id, model.config.text_config.eos_token_id = 0, 2  # as in old configs
    before = step(model, batch)
    model.resize_token_embeddings(600)
    assert model.config.text_config.vocab_size == 600 and model.config.empty_text_ids == (516, 517)
    assert_equal_outputs(before, step(model, batch), atol=0)
    model.save_pretrained(tmp_path)
    assert_equal_outputs(before, step(type(model).from_pretrained(tmp_path), batch), atol=0)


# Kinds of models


TINY = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
OTHERS = {
    "siglip": (SiglipConfig, "no begin token"),
    "owlvit": (OwlViTConfig, "detection"),
    "xclip": (XCLIPConfig, "video"),
    "clipseg": (CLIPSegConfig, "segmentation"),
    "altclip": (AltCLIPConfig, "XLM-RoBERTa"),
    "chinese_clip": (ChineseCLIPConfig, "BERT"),
    "clip_text_model": (CLIPTextConfig, "half"),
    "clip_vision_model": (CLIPVisionConfig, "half"),
    "contextcir": (ContextCIRModel.config_class, "from_pretrained"),
}


@pytest.mark.fault("S07", "a model of another kind than CLIP is refused, with the reason")
@pytest.mark.parametrize("model_type", OTHERS)
def test_other_kinds_are_refused(tmp_path, model_type):
    config_class, reason = OTHERS[model_type]
    assert config_class.model_type == model_type
    config_class().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}.*{model_type}.*{reason}"):
        ContextCIRModel.from_clip_pretrained(tmp_path)


@every_class
@pytest.mark.fault("S07", "MetaCLIP 2 is a CLIP whose begin and end are 0 and 2")
def test_metaclip_2(batch, tmp_path, kind):
    text = TINY | {"vocab_size": 600, "eos_token_id": 2, "bos_token_id": 0, "max_position_embeddings": 77}
    vision = TINY | {"image_size": 30, "patch_size": 6}
    torch.manual_seed(0)
    clip = MetaClip2Model(MetaClip2Config(text_config=text, vision_config=vision, projection_dim=20)).eval()
    clip.save_pretrained(tmp_path)
    model = KINDS[kind][0].from_clip_pretrained(tmp_path)
    assert model.config.empty_text_ids == (0, 2)
    ids = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
    expected = clip.text_model(ids, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))
    torch.testing.assert_close(model.text_model(ids[:1]).last_hidden_state, expected.last_hidden_state[:1])
    pixels = batch["pixel_values"][:2]
    torch.testing.assert_close(
        model.vision_model(pixels).last_hidden_state, clip.vision_model(pixels).last_hidden_state
    )
    if isinstance(model, CompositionBaseline):
        features = model.text_projection(expected.pooler_output)
        torch.testing.assert_close(features, clip.get_text_features(ids).pooler_output)
    again = model.get_query_features(pixels, ids)
    torch.testing.assert_close(again, model.get_query_features(pixels, ids, (ids != 1).long()))
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(type(model).from_pretrained(tmp_path / "saved").get_query_features(pixels, ids), again)


@pytest.mark.fault("S07", "texts and noun phrases are prepared by the tokenizer of MetaCLIP 2")
def test_the_tokenizer_of_metaclip_2(clip_folder, images, tmp_path):
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁red", -1.0), ("▁dog", -1.0)]
    pieces += [(chr(code), -3.0) for code in range(97, 123)] + [(f"x{place}", -9.0) for place in range(300)]
    tokenizer = XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])
    CLIPProcessor(CLIPProcessor.from_pretrained(clip_folder).image_processor, tokenizer).save_pretrained(tmp_path)
    text = TINY | {"vocab_size": len(tokenizer) + 1, "eos_token_id": 2, "bos_token_id": 0}
    config = MetaClip2Config(text_config=text, vision_config=TINY | {"image_size": 30, "patch_size": 6})
    MetaClip2Model(config).save_pretrained(tmp_path)
    model, processor = ContextCIRModel.from_clip_pretrained(tmp_path), ContextCIRProcessor.from_pretrained(tmp_path)
    inputs = processor(images=images[:2], text=["a red dog", "red"], noun_phrases=[[(2, 9)], []])
    assert inputs.pop("num_dropped_phrases") == 0 and inputs.pop("num_truncated_texts") == 0
    assert inputs["input_ids"][1].tolist() == [0, 5, 2, 1, 1, 1] and inputs["phrase_input_ids"].tolist() == [
        [0, 5, 6, 2]
    ]
    output = model(**inputs, reference_index=torch.arange(2))
    assert output.context_attentions.shape == (1, 25) and output.query_embeds.isfinite().all()


# Precision


@pytest.mark.fault("S04", "from_clip_pretrained makes float32 weights of a half-precision CLIP, and says so")
def test_a_half_precision_clip(clip_folder, tmp_path, caplog, monkeypatch):
    CLIPModel.from_pretrained(clip_folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    said = []
    monkeypatch.setattr("modeling_contextcir.clip_loading.logger.warning", said.append)
    assert ContextCIRModel.from_clip_pretrained(tmp_path).dtype == torch.float32
    assert "bfloat16" in said[0] and "float32" in said[0]
    assert ContextCIRModel.from_clip_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert ContextCIRModel.from_clip_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert len(said) == 1
