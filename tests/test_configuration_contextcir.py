"""The config fills in what follows from the encoders, refuses what it does not know, and survives being written."""

import json

import pytest
from transformers import AutoConfig, CLIPTextConfig, CLIPVisionConfig

from modeling_contextcir import ContextCIRConfig


def test_defaults_follow_the_text_encoder():
    config = ContextCIRConfig(text_config={"hidden_size": 768, "num_attention_heads": 12})
    assert (config.fusion_hidden_size, config.fusion_num_heads, config.fusion_intermediate_size) == (768, 12, 3072)
    assert (config.fusion_num_layers, config.fusion_direction, config.target_encoding) == (
        2,
        "text_to_image",
        "fusion",
    )
    assert isinstance(config.text_config, CLIPTextConfig) and isinstance(config.vision_config, CLIPVisionConfig)
    assert config.vision_config.hidden_size == 768 and config.projection_dim == 512
    assert config.empty_text_ids == (49406, 49407)


@pytest.mark.parametrize("attention", [None, "eager"])
def test_written_and_read(tmp_path, attention):
    config = ContextCIRConfig(
        text_config={"hidden_size": 96, "intermediate_size": 37, "num_attention_heads": 3},
        vision_config={"image_size": 96, "patch_size": 16},
        fusion_num_layers=1,
        fusion_direction="image_to_text",
        target_encoding="clip",
        attn_implementation=attention,
        dtype="bfloat16",
    )
    config.architectures = ["ContextCIRModel"]
    config.save_pretrained(tmp_path / "one")
    again = AutoConfig.from_pretrained(tmp_path / "one")
    assert type(again) is ContextCIRConfig
    again.save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / name / "config.json").read_text() for name in ("one", "two"))
    assert one == two
    written = json.loads(one)
    assert written["model_type"] == "contextcir" and written["dtype"] == "bfloat16"
    assert written["auto_map"] == {"AutoConfig": "configuration_contextcir.ContextCIRConfig"}
    assert (again.fusion_num_layers, again.fusion_direction, again.target_encoding) == (1, "image_to_text", "clip")
    assert (again.text_config.intermediate_size, again.vision_config.patch_size) == (37, 16)


def test_unknown_fields_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no field 'fusion_layers'.*fusion_num_layers"):
        ContextCIRConfig(fusion_layers=3)
    ContextCIRConfig().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "targetencoding": "clip"}))
    with pytest.raises(ValueError, match="no field 'targetencoding'"):
        ContextCIRConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion_hidden_size": 100, "fusion_num_heads": 7}, "multiple"),
        ({"fusion_num_layers": 0}, "at least 1"),
        ({"fusion_direction": "sideways"}, "fusion_direction"),
        ({"target_encoding": "blip"}, "target_encoding"),
        ({"text_config": {"vocab_size": 99}}, "outside the vocabulary"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(Exception, match=message):
        ContextCIRConfig(**fields)


def test_legacy_token_ids():
    text = {"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 2}
    assert ContextCIRConfig(text_config=text).empty_text_ids == (97, 98)
    assert ContextCIRConfig(text_config={**text, "eos_token_id": 5}).empty_text_ids == (0, 5)
