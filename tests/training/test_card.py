"""The card of a model: metadata for the Hub, results with intervals, the picture, and a snippet that runs."""

import json

import pytest
from huggingface_hub import ModelCard

from contextcir.runtime.locations import shipped
from contextcir.training.card import hub_name_of, licence_of, render_card

TEMPLATES = ["contextcir", "instructcir", "cir_baseline"]
RECORD = {
    "protocol_id": "folder/bench-0f/reference-included",
    "command": "contextcir train --data user/triplets",
    "commit": None,
    "data": {
        "names": ["user/triplets", "/somewhere/local"],
        "data_weights": None,
        "train_split": "train",
        "benchmark": "user/bench",
        "benchmark_split": "validation",
        "benchmark_max_queries": None,
    },
    "model": {
        "class": "ContextCIRModel",
        "parameters": 10,
        "scalars": {"combiner_weight": 1},
        "base_model": "openai/clip-vit-base-patch32",
        "config": {"composition": "tirg"},
        "lora": None,
    },
    "train_triplets": 3,
    "bad_images": {},
    "processes": 1,
    "arguments": {"seed": 1, "cc_weight": 0.1, "ema_momentum": None, "publish_moving_average": False},
    "training": {},
    "metrics": {"eval_recall@1": 12.34567, "eval_loss": 2.0, "step": 3},
    "history": [],
    "versions": {"torch": "2"},
}
METRICS = {
    "benchmark": "scenes",
    "protocol_id": "scenes-3/test/reference-excluded",
    "num_queries": 1408,
    "gallery_size": 2000,
    "arguments": {"retriever": "runs/demo", "split": "test"},
    "results": [
        {"retriever": "CLIP, slerp", "metrics": {"recall@1": 1.0}, "intervals": {"recall@1": [0.0, 2.0]}},
        {"retriever": "runs/demo", "metrics": {"recall@1": 31.6176}, "intervals": {"recall@1": [26.96, 36.27]}},
    ],
}


def card_of(folder, template, **options):
    path = shipped(f"model_cards/{template}_template.md")
    render_card(folder, RECORD, path, title="demo", **options)
    return ModelCard.load(folder / "README.md")


@pytest.mark.fault("P03", "a card has licence, task, library, base model, data sets and the metrics of training")
@pytest.mark.parametrize("template", TEMPLATES)
def test_metadata(tmp_path, template):
    data = card_of(tmp_path, template, licence="mit").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "image-feature-extraction")
    assert data.base_model == "openai/clip-vit-base-patch32" and data.datasets == ["user/triplets"]
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_split) == ("user/bench", "validation")
    assert (result.metric_type, result.metric_value) == ("recall@1", 12.3457)
    assert result.dataset_args == {"protocol_id": "folder/bench-0f/reference-included", "queries": "all"}


@pytest.mark.fault("P03", "a measured model's card has protocol, intervals and the retrieval grid")
@pytest.mark.parametrize("template", TEMPLATES)
def test_measured_results(tmp_path, template):
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "retrieval_grid.png").write_bytes(b"")
    card = card_of(tmp_path, template)
    (result,) = card.data.eval_results
    assert result.dataset_args == {"protocol_id": "scenes-3/test/reference-excluded"}
    assert (result.metric_value, result.metric_args) == (31.6176, {"interval_95": [26.96, 36.27]})
    assert "| recall@1 | 31.62 | 27.0 to 36.3 |" in card.text and "1,408 queries" in card.text
    assert "](figures/retrieval_grid.png)" in card.text


def test_incomplete_results_are_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS | {"incomplete": "More than 5% failed."}))
    (result,) = card_of(tmp_path, TEMPLATES[0]).data.eval_results
    assert (result.metric_value, result.metric_args) == (12.3457, None)


@pytest.mark.fault("P05", "the snippet of a card has the model's name and a revision, and says why")
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_snippet(tmp_path, template):
    text = card_of(tmp_path, template, hub_name="me/demo", revision="abc123").text
    assert 'name, revision = "me/demo", "abc123"' in text and "path/or" not in text
    assert text.count("revision=revision, trust_remote_code=True") == 2
    assert "`trust_remote_code` runs" in text
    assert 'name, revision = "path/or/hub-name", "main"' in card_of(tmp_path, template).text
    (tmp_path / "adapter_config.json").write_text("{}")
    card = card_of(tmp_path, template)
    assert "PeftModel.from_pretrained(base, name" in card.text and "trust_remote_code" not in card.text
    assert card.data.library_name == "peft"


def test_the_licence_of_a_base_model_in_a_folder(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert licence_of(str(tmp_path), online=False) == "apache-2.0"
    assert licence_of("no/such-model", online=False) is None
    assert licence_of("no/such-model", online=True) is None  # there is no network here
    (tmp_path / "README.md").write_text("no header")
    assert licence_of(str(tmp_path), online=False) is None


def test_names_on_the_hub(tmp_path):
    assert hub_name_of("openai/clip") == hub_name_of("hf://openai/clip") == "openai/clip"
    assert hub_name_of("/home/x/hub/models--openai--clip/snapshots/1") == "openai/clip"
    for local in (str(tmp_path), "checkpoints/scenes-clip-tiny", "a/b/c", "/home/x/clip"):
        assert hub_name_of(local) is None, local
