"""Configs fill in what follows from other fields, refuse what they do not know, and are saved and loaded unchanged."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, CLIPTextConfig, CLIPVisionConfig

from modeling_contextcir import CompositionBaselineConfig, ContextCIRConfig, InstructCIRConfig

CONFIGS = {
    ContextCIRConfig: ("configuration_contextcir", {"fusion_num_layers": 1, "fusion_direction": "image_to_text"}),
    InstructCIRConfig: ("configuration_instructcir", {"predictor_text": False, "predictor_hidden_size": 17}),
    CompositionBaselineConfig: ("modeling_baselines", {"composition": "tirg", "composer_hidden_size": 17}),
}
every_config = pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config_class: config_class.model_type)


@every_config
def test_defaults(config_class):
    config = config_class(text_config={"hidden_size": 768})
    assert isinstance(config.text_config, CLIPTextConfig) and isinstance(config.vision_config, CLIPVisionConfig)
    assert config.text_config.hidden_size == config.vision_config.hidden_size == 768 and config.projection_dim == 512
    assert config.empty_text_ids == (49406, 49407)


def test_defaults_that_follow_from_other_fields():
    config = ContextCIRConfig(text_config={"hidden_size": 768, "num_attention_heads": 12})
    assert (config.fusion_hidden_size, config.fusion_num_heads, config.fusion_intermediate_size) == (768, 12, 3072)
    fusion = (config.fusion_num_layers, config.fusion_direction, config.target_encoding)
    assert fusion == (2, "text_to_image", "fusion")
    config = InstructCIRConfig(projection_dim=30)
    assert (config.cross_attention, config.predictor_text, config.predictor_hidden_size) == (True, True, 60)
    assert InstructCIRConfig(projection_dim=30, predictor_text=False).predictor_hidden_size == 30
    assert CompositionBaselineConfig(projection_dim=30).composer_hidden_size == 60


@every_config
@pytest.mark.parametrize("attention", [None, "eager"])
def test_save_load_save(tmp_path, config_class, attention):
    file, fields = CONFIGS[config_class]
    config = config_class(
        text_config={"hidden_size": 96, "intermediate_size": 37, "num_attention_heads": 3},
        vision_config={"image_size": 96, "patch_size": 16},
        attn_implementation=attention,
        dtype="bfloat16",
        **fields,
    )
    config.save_pretrained(tmp_path / "one")
    again = AutoConfig.from_pretrained(tmp_path / "one")
    assert type(again) is config_class
    again.save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / name / "config.json").read_text() for name in ("one", "two"))
    assert one == two
    written = json.loads(one)
    assert written["model_type"] == config_class.model_type and written["dtype"] == "bfloat16"
    assert written["auto_map"] == {"AutoConfig": f"{file}.{config_class.__name__}"}
    assert {name: getattr(again, name) for name in fields} == fields
    assert (again.text_config.intermediate_size, again.vision_config.patch_size) == (37, 16)


@every_config
def test_unknown_fields_are_refused(tmp_path, config_class):
    with pytest.raises(ValueError, match="'projection_size'.*projection_dim"):
        config_class(projection_size=3)
    config_class().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "projectiondim": 3}))
    with pytest.raises(ValueError, match="'projectiondim'"):
        config_class.from_pretrained(tmp_path)


# Every field that transformers 4 wrote into the text_config of a CLIP.
OLD_TEXT_CONFIG = """{
    "_name_or_path": "", "add_cross_attention": false, "architectures": null, "attention_dropout": 0.0,
    "bad_words_ids": null, "begin_suppress_tokens": null, "bos_token_id": 0, "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": null, "decoder_start_token_id": null, "diversity_penalty": 0.0, "do_sample": false,
    "dropout": 0.0, "early_stopping": false, "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2,
    "exponential_decay_length_penalty": null, "finetuning_task": null, "forced_bos_token_id": null,
    "forced_eos_token_id": null, "gradient_checkpointing": false, "hidden_act": "quick_gelu", "hidden_size": 512,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "initializer_factor": 1.0, "initializer_range": 0.02,
    "intermediate_size": 2048, "is_decoder": false, "is_encoder_decoder": false,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "layer_norm_eps": 1e-05, "length_penalty": 1.0, "max_length": 20,
    "max_position_embeddings": 77, "min_length": 0, "model_type": "clip_text_model", "no_repeat_ngram_size": 0,
    "num_attention_heads": 8, "num_beam_groups": 1, "num_beams": 1, "num_hidden_layers": 12,
    "num_return_sequences": 1, "output_attentions": false, "output_hidden_states": false, "output_scores": false,
    "pad_token_id": 1, "prefix": null, "problem_type": null, "projection_dim": 512, "pruned_heads": {},
    "remove_invalid_values": false, "repetition_penalty": 1.0, "return_dict": true, "return_dict_in_generate": false,
    "sep_token_id": null, "suppress_tokens": null, "task_specific_params": null, "temperature": 1.0,
    "tf_legacy_loss": false, "tie_encoder_decoder": false, "tie_word_embeddings": true, "tokenizer_class": null,
    "top_k": 50, "top_p": 1.0, "torch_dtype": null, "torchscript": false, "transformers_version": "4.16.0.dev0",
    "typical_p": 1.0, "use_bfloat16": false, "use_cache": true, "vocab_size": 49408}"""


@every_config
def test_old_fields_of_the_encoders_are_accepted(config_class):
    old = json.loads(OLD_TEXT_CONFIG)
    vision = {name: value for name, value in old.items() if name not in CLIPTextConfig.__annotations__}
    vision |= {"image_size": 96, "model_type": "clip_vision_model"}
    config = config_class(text_config=old, vision_config=vision)
    assert config.empty_text_ids == (49406, 49407) and config.vision_config.image_size == 96
    config_class(text_config=config.text_config, vision_config=config.vision_config)


@every_config
@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize(
    "encoder, field, similar",
    [
        ("text_config", "hiden_size", "hidden_size"),
        ("text_config", "num_hiden_layers", "num_hidden_layers"),
        ("text_config", "layer_norm_epsilon", "layer_norm_eps"),
        ("vision_config", "patchsize", "patch_size"),
        ("vision_config", "img_size", "image_size"),
    ],
)
def test_misspelt_fields_of_the_encoders_are_refused(config_class, encoder, field, similar, as_object):
    given = {field: 16}
    if as_object:  # which accepts it
        given = config_class.sub_configs[encoder](**given)
    with pytest.raises(ValueError, match=f"{encoder}.*'{field}'.*'{similar}'"):
        config_class(**{encoder: given})


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (ContextCIRConfig, {"fusion_hidden_size": 100, "fusion_num_heads": 7}, r"fusion_hidden_size.*100.*\b7\b"),
        (ContextCIRConfig, {"fusion_num_layers": 0}, r"fusion_num_layers.*\b0\b"),
        (ContextCIRConfig, {"text_config": {"vocab_size": 99}}, r"\(49406, 49407\).*\b99\b"),
        (InstructCIRConfig, {"predictor_hidden_size": 0}, r"predictor_hidden_size.*\b0\b"),
        (InstructCIRConfig, {"cross_attention": False, "predictor_text": False}, "cross_attention.*predictor_text"),
        (InstructCIRConfig, {"text_config": {"vocab_size": 99}}, r"\(49406, 49407\).*\b99\b"),
    ],
)
def test_fields_that_do_not_fit(config_class, fields, message):
    with pytest.raises(Exception, match=message):
        config_class(**fields)


@pytest.mark.parametrize(
    ("config_class", "name", "value"),
    [
        (ContextCIRConfig, "fusion_direction", "sideways"),
        (ContextCIRConfig, "target_encoding", "blip"),
        (InstructCIRConfig, "cross_attention", "both"),
        (CompositionBaselineConfig, "composition", "sum"),
    ],
)
def test_values_of_another_kind_are_refused(config_class, name, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"{name}"):
        config_class(**{name: value})


@every_config
def test_token_ids_of_old_clip_configs(config_class):
    text = {"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 2}
    assert config_class(text_config=text).empty_text_ids == (97, 98)
    assert config_class(text_config={**text, "eos_token_id": 5}).empty_text_ids == (0, 5)
