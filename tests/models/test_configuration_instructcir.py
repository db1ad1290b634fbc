"""The config fills in what follows from other fields, refuses what it does not know, and survives being written."""

import json

import pytest
from transformers import AutoConfig, CLIPTextConfig, CLIPVisionConfig

from modeling_contextcir import InstructCIRConfig


def test_defaults():
    config = InstructCIRConfig(text_config={"hidden_size": 768, "num_attention_heads": 12}, projection_dim=30)
    assert isinstance(config.text_config, CLIPTextConfig) and isinstance(config.vision_config, CLIPVisionConfig)
    assert (config.cross_attention, config.predictor_text, config.predictor_hidden_size) == (True, True, 60)
    assert config.empty_text_ids == (49406, 49407)
    assert InstructCIRConfig(projection_dim=30, predictor_text=False).predictor_hidden_size == 30


@pytest.mark.parametrize("attention", [None, "eager"])
def test_written_and_read(tmp_path, attention):
    config = InstructCIRConfig(
        text_config={"hidden_size": 96, "intermediate_size": 37, "num_attention_heads": 3},
        vision_config={"image_size": 96, "patch_size": 16},
        predictor_text=False,
        predictor_hidden_size=17,
        attn_implementation=attention,
        dtype="bfloat16",
    )
    config.architectures = ["InstructCIRModel"]
    config.save_pretrained(tmp_path / "one")
    again = AutoConfig.from_pretrained(tmp_path / "one")
    assert type(again) is InstructCIRConfig
    again.save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / name / "config.json").read_text() for name in ("one", "two"))
    assert one == two
    written = json.loads(one)
    assert written["model_type"] == "instructcir" and written["dtype"] == "bfloat16"
    assert written["auto_map"] == {"AutoConfig": "configuration_instructcir.InstructCIRConfig"}
    assert (again.cross_attention, again.predictor_text, again.predictor_hidden_size) == (True, False, 17)
    assert (again.text_config.intermediate_size, again.vision_config.patch_size) == (37, 16)


def test_unknown_fields_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no field 'predictor_size'.*predictor_hidden_size"):
        InstructCIRConfig(predictor_size=3)
    InstructCIRConfig().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "crossattention": False}))
    with pytest.raises(ValueError, match="no field 'crossattention'"):
        InstructCIRConfig.from_pretrained(tmp_path)


def test_old_fields_of_the_encoders_are_fine():
    old = {"torchscript": False, "pruned_heads": {}, "sep_token_id": None, "top_k": 50, "use_bfloat16": False}
    config = InstructCIRConfig(text_config=old | {"eos_token_id": 2}, vision_config=old | {"image_size": 96})
    assert config.empty_text_ids == (49406, 49407) and config.vision_config.image_size == 96
    InstructCIRConfig(text_config=config.text_config, vision_config=config.vision_config)


@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize(
    "encoder, field, meant",
    [("text_config", "num_hiden_layers", "num_hidden_layers"), ("vision_config", "patchsize", "patch_size")],
)
def test_misspelt_fields_of_the_encoders_are_refused(encoder, field, meant, as_object):
    given = {field: 16}
    if as_object:  # which has taken it without a word
        given = InstructCIRConfig.sub_configs[encoder](**given)
    with pytest.raises(ValueError, match=f"`{encoder}` has no field '{field}'. Did you mean '{meant}'"):
        InstructCIRConfig(**{encoder: given})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"predictor_hidden_size": 0}, "at least 1"),
        ({"cross_attention": False, "predictor_text": False}, "Nothing reads the text"),
        ({"cross_attention": "both"}, "cross_attention"),
        ({"text_config": {"vocab_size": 99}}, "outside the vocabulary"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(Exception, match=message):
        InstructCIRConfig(**fields)


def test_legacy_token_ids():
    text = {"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 2}
    assert InstructCIRConfig(text_config=text).empty_text_ids == (97, 98)
    assert InstructCIRConfig(text_config={**text, "eos_token_id": 5}).empty_text_ids == (0, 5)
