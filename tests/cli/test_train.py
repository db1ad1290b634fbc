"""`contextcir train` from its options to the folder that it leaves."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from huggingface_hub import ModelCardData
from safetensors.torch import load_file
from transformers import CLIPModel

from contextcir.cli import benchmark, train
from contextcir.cli.main import command
from contextcir.cli.options import UsageError
from contextcir.data.images import ImageError
from contextcir.data.triplets import TRIPLET_FEATURES, load_triplets
from contextcir.training.trainer import CIRTrainer
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor, InstructCIRModel, InstructCIRProcessor
from tests.conftest import build_clip_tokenizer
from tests.loopback_hub import LoopbackHub
from tests.tiny_triplets import triplet, triplets, write_benchmark, write_parquet

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def options(tmp_path, clip_folder):
    return {
        "clip_name_or_path": clip_folder,
        "data": write_parquet(tmp_path / "data", train=triplets(9), validation=triplets(3)),
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": "1e-3",  # YAML reads this as a string
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def flags(options):
    return [f"--{name}={value}" for name, value in options.items()]


def write_yaml(path, options):
    path.write_text(yaml.safe_dump(options))
    return str(path)


def test_a_run_leaves_a_model_a_record_and_a_card(options, tmp_path):
    options |= {"benchmark": write_benchmark(tmp_path / "bench"), "eval_split": "validation", "fusion_num_layers": 1}
    options |= {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "recall_subset@1"}
    options |= {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}
    metrics = train.main([write_yaml(tmp_path / "config.yaml", options), "--seed", "3"])

    folder = Path(options["output_dir"])
    model = ContextCIRModel.from_pretrained(folder)
    assert len(model.fusion.layers) == 1
    ContextCIRProcessor.from_pretrained(folder)
    record = json.loads((folder / "training.json").read_text())
    assert record["metrics"]["eval_recall@1"] == metrics["eval_recall@1"]
    assert {"eval_loss", "eval_loss_contrastive", "eval_recall@50", "eval_recall_subset@1"} <= set(metrics)
    assert record["train_triplets"] == 9 and record["arguments"]["seed"] == 3
    assert record["model"]["config"]["fusion_num_layers"] == 1
    assert record["model"]["base_model"] == options["clip_name_or_path"]
    assert record["command"].startswith("contextcir train ") and record["command"].endswith("config.yaml --seed 3")
    assert [entry["step"] for entry in record["history"] if "loss_contrastive" in entry] == [1, 2]
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["log_history"] == record["history"]
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card and f"`{options['data']}`" in card
    assert "base_model:" not in card.split("---")[1]  # a local path is no Hub name


def test_widths_are_trained_in_chunks_measured_and_picked_by(options, tmp_path):
    options |= {"benchmark": write_benchmark(tmp_path / "bench"), "matryoshka_dims": [20, 5], "grad_cache_chunk": 2}
    options |= {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "dim5_recall@1"}
    options |= {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}
    metrics = train.main([write_yaml(tmp_path / "config.yaml", options)])
    assert {"eval_recall@1", "eval_dim5_recall@1", "eval_dim5_recall@50"} <= set(metrics)
    assert "eval_dim20_recall@1" not in metrics
    record = json.loads((Path(options["output_dir"]) / "training.json").read_text())
    arguments = record["arguments"]
    assert (arguments["grad_cache_chunk"], arguments["matryoshka_dims"]) == (2, [20, 5])
    measured = ["--retriever", options["output_dir"], "--benchmark", "custom", "--data_root", options["benchmark"]]
    found = benchmark.main([*measured, "--split", "validation", "--truncate_dim", "5"])
    for name, value in found["results"][0]["metrics"].items():
        assert metrics[f"eval_dim5_{name}"] == pytest.approx(value), name


def test_several_data_sets_are_one(options, tmp_path):
    more = write_parquet(tmp_path / "more", train=[triplet(row, id=f"more{row}") for row in range(4)])
    options |= {"data": [options["data"], more], "data_weights": [1.0, 0.5], "max_steps": 1}
    train.main([write_yaml(tmp_path / "config.yaml", options)])
    record = json.loads((Path(options["output_dir"]) / "training.json").read_text())
    assert record["train_triplets"] == 9 + 2
    assert record["data"]["names"] == options["data"] and record["data"]["data_weights"] == [1.0, 0.5]
    card = (Path(options["output_dir"]) / "README.md").read_text()
    assert f"- data: `{options['data'][0]}` (weight 1.0), `{more}` (weight 0.5), split `train`, 11 triplets" in card


def test_flags_override_the_file(options, tmp_path):
    config = write_yaml(tmp_path / "config.yaml", options)
    model_args, data_args, args = train.parse_arguments([config, "--max_steps", "5", "--no_mask_repeated_targets"])
    assert (args.max_steps, args.learning_rate, args.mask_repeated_targets) == (5, 1e-3, False)
    assert model_args.clip_name_or_path == options["clip_name_or_path"] and data_args.data == [options["data"]]


def test_lists_dicts_booleans_and_nothing_in_a_file(options, tmp_path):
    options |= {"report_to": ["none"], "remove_unused_columns": False, "eval_split": None}
    options |= {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.0001}}
    _, data_args, args = train.parse_arguments([write_yaml(tmp_path / "config.yaml", options)])
    assert args.report_to == [] and data_args.eval_split is None
    assert args.lr_scheduler_kwargs == {"min_lr": 0.0001}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lerning_rate": 1}, "config.yaml: There is no option 'lerning_rate'. Did you mean --learning_rate"),
        ({"data": None}, "data is missing"),
        ({"data_weights": [1, 2]}, "2 data_weights for 1 data sets"),
        ({"clip_name_or_path": None}, "either clip_name_or_path or model_name_or_path"),
        ({"model_name_or_path": "a"}, "either clip_name_or_path or model_name_or_path"),
        ({"model_name_or_path": "a", "clip_name_or_path": None, "projection_dim": 3}, "projection_dim: given by the"),
        ({"model_name_or_path": "a", "clip_name_or_path": None, "model": "instructcir"}, "model: given by the"),
        (
            {"model": "instructcir", "fusion_num_layers": 2},
            "fusion_num_layers: instructcir has projection_dim, cross_attention, ",
        ),
        ({"predictor_text": False}, "predictor_text: contextcir has projection_dim, "),
        ({"lora_rank": -1}, "lora_rank must not be negative"),
        ({"lora_rank": 2, "train_only": "fusion"}, "train_only freezes the adapters"),
        ({"hub_token": "hf_secret"}, "hub_token would be published with the command"),
        ({"benchmark_max_queries": 0}, "benchmark_max_queries must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train.parse_arguments([write_yaml(tmp_path / "config.yaml", options | changes)])


def test_unknown_flags_bad_values_and_bad_files_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match="--lerning_rate"):
        train.parse_arguments([*flags(options), "--lerning_rate", "1"])
    with pytest.raises(UsageError, match="--max_steps"):
        train.parse_arguments([write_yaml(tmp_path / "config.yaml", options | {"max_steps": "many"})])
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="list.yaml: expected `option: value` lines, got list"):
        train.parse_arguments([str(tmp_path / "list.yaml")])


def test_what_is_not_given_is_what_the_paper_of_the_model_has():
    start = ["--clip_name_or_path", "clip", "--data", "data"]
    given = {
        None: (2e-5, 0.01, 0.08, "own"),
        "contextcir": (2e-5, 0.01, 0.08, "own"),
        "instructcir": (2e-6, 0.1, 0, "none"),
        "cir_baseline": (2e-5, 0.01, 0, "own"),
    }
    for model, expected in given.items():
        args = train.parse_arguments([*start, *(["--model", model] if model else [])])[2]
        assert (args.learning_rate, args.weight_decay, args.cc_weight, args.query_negatives) == expected
    args = train.parse_arguments([*start, "--model=instructcir", "--learning_rate", "1e-3"])[2]
    assert (args.learning_rate, args.weight_decay, args.per_device_train_batch_size) == (1e-3, 0.1, 32)


@pytest.mark.parametrize("config", sorted(path.name for path in (REPOSITORY / "configs").glob("*.yaml")))
def test_every_config_parses(config):
    train.parse_arguments([str(REPOSITORY / "configs" / config), "--use_cpu"])


@pytest.mark.parametrize("place", ["learning_rate: [1e-3", "seed: 1\nmax_steps: 3\nseed: 2", "a: {b: 1, b: 2}", "\0"])
def test_yaml_that_is_damaged_or_says_a_thing_twice_is_named(tmp_path, place):
    (tmp_path / "config.yaml").write_text(place)
    with pytest.raises(
        ValueError, match="(?s)config.yaml: expected YAML, .*each option once.*line|special characters"
    ):
        train.parse_arguments([str(tmp_path / "config.yaml")])


def test_yaml_that_is_no_text_is_named(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="config.yaml: expected YAML"):
        train.parse_arguments([str(tmp_path / "config.yaml")])


def test_a_tokenizer_of_another_model_is_refused(options, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(options["clip_name_or_path"], other)
    merges = [("r", "e"), ("re", "d</w>"), ("t", "h"), ("th", "e</w>"), ("a", "b")]  # one more than the model has
    build_clip_tokenizer(merges).save_pretrained(other)
    with pytest.raises(ValueError, match="other: the tokenizer has 519 entries, the text encoder knows 518 tokens"):
        train.main(flags(options | {"clip_name_or_path": str(other)}))


def test_a_bad_image_in_the_last_evaluation_does_not_lose_the_model(options):
    rows = triplets(3)
    rows[1]["target_image"] = {"bytes": b"", "path": None}
    write_parquet(Path(options["data"]), validation=rows)
    with pytest.raises(ImageError, match="triplet 't1', target_image: is empty"):
        train.main(flags(options | {"eval_split": "validation"}))
    folder = Path(options["output_dir"])
    model = ContextCIRModel.from_pretrained(folder)
    start = ContextCIRModel.from_clip_pretrained(options["clip_name_or_path"])
    assert not torch.equal(model.text_model.final_layer_norm.weight, start.text_model.final_layer_norm.weight)
    ContextCIRProcessor.from_pretrained(folder)
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2]


def test_the_output_folder_is_claimed_until_everything_is_written(options, monkeypatch):
    refused, evaluate = [], CIRTrainer.evaluate

    def starts_another_run(trainer):
        with pytest.raises(ValueError, match="Another run is training into"):
            train.main(flags(options | {"seed": 7}))
        refused.append(True)
        return evaluate(trainer)

    monkeypatch.setattr(CIRTrainer, "evaluate", starts_another_run)
    train.main(flags(options | {"eval_split": "validation", "seed": 3}))
    assert refused
    assert json.loads((Path(options["output_dir"]) / "training.json").read_text())["arguments"]["seed"] == 3


def test_going_on_from_an_earlier_model(options, tmp_path):
    train.main(flags(options))
    again = {name: value for name, value in options.items() if name != "clip_name_or_path"}
    again |= {"model_name_or_path": options["output_dir"], "output_dir": str(tmp_path / "again"), "learning_rate": 0}
    train.main(flags(again | {"min_learning_rate": 0}))
    first, second = (
        ContextCIRModel.from_pretrained(folder) for folder in (options["output_dir"], again["output_dir"])
    )
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_resuming_by_flag(options):
    train.main(flags(options | {"save_strategy": "steps", "save_steps": 1}))
    with pytest.raises(ValueError, match="holds the results of another run"):
        train.main(flags(options))
    train.main(flags(options | {"resume_from_checkpoint": "true", "max_steps": 3}))
    assert json.loads((Path(options["output_dir"]) / "trainer_state.json").read_text())["global_step"] == 3


def test_lora_trains_adapters_and_leaves_a_plain_model(options):
    pytest.importorskip("peft")
    options |= {"lora_rank": 2, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1}
    train.main(flags(options))
    start = ContextCIRModel.from_clip_pretrained(options["clip_name_or_path"]).state_dict()
    saved = ContextCIRModel.from_pretrained(options["output_dir"]).state_dict()
    assert set(saved) == set(start)
    encoders = [name for name in start if name.startswith(("text_model.", "vision_model."))]
    moved = {name for name in encoders if not torch.equal(start[name], saved[name])}
    assert moved == {name for name in encoders if name.endswith(("q_proj.weight", "v_proj.weight"))}
    assert not torch.equal(start["projection.weight"], saved["projection.weight"])
    assert json.loads((Path(options["output_dir"]) / "training.json").read_text())["model"]["lora"]["lora_rank"] == 2
    train.main(flags(options | {"resume_from_checkpoint": "true", "max_steps": 3}))


OF_INSTRUCTCIR = {"model": "instructcir"}


@pytest.mark.slow
def test_instructcir_and_its_second_stage(options, tmp_path):
    options |= {"benchmark": write_benchmark(tmp_path / "bench"), "ema_momentum": 0.9, "predictor_hidden_size": 7}
    options |= {"save_strategy": "steps", "save_steps": 1}
    metrics = train.main(flags(options | OF_INSTRUCTCIR))
    first = Path(options["output_dir"])
    assert "eval_recall@1" in metrics
    model = InstructCIRModel.from_pretrained(first)
    assert model.predictor.fc1.out_features == 7 and model.combiner_weight == 1
    InstructCIRProcessor.from_pretrained(first)
    config = json.loads((first / "training.json").read_text())["model"]["config"]
    assert config == {"cross_attention": True, "predictor_text": True, "predictor_hidden_size": 7} | {
        name: getattr(model.config, name) for name in ("projection_dim", "logit_scale_init_value")
    }
    assert "is an InstructCIR model" in (first / "README.md").read_text()
    train.main(flags(options | OF_INSTRUCTCIR | {"resume_from_checkpoint": "true", "max_steps": 3}))

    again = {name: options[name] for name in options if name not in ("clip_name_or_path", "predictor_hidden_size")}
    again |= {
        "model_name_or_path": str(first),
        "output_dir": str(tmp_path / "second"),
        "train_only": "combiner_weight",
    }
    del again["ema_momentum"]
    train.main(flags(again | {"cc_weight": 0, "query_negatives": "none"}))
    before, after = (InstructCIRModel.from_pretrained(folder).state_dict() for folder in (first, tmp_path / "second"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"combiner_weight"}


def test_the_average_is_measured_and_saved_where_that_is_asked_for(options, tmp_path):
    options |= OF_INSTRUCTCIR | {"benchmark": write_benchmark(tmp_path / "bench"), "ema_momentum": 0.9}
    options |= {"save_strategy": "steps", "save_steps": 1, "publish_moving_average": "true"}
    metrics = train.main(flags(options))
    folder = Path(options["output_dir"])
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    average, trained = load_file(last / "moving_average.safetensors"), load_file(last / "model.safetensors")
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[name], average[name]) for name in average)
    assert any(not torch.equal(trained[name], average[name]) for name in average)
    record = benchmark.main(
        ["--retriever", str(folder), "--benchmark", "custom", "--data-root", options["benchmark"]]
        + ["--split", "validation"]
    )
    assert record["results"][0]["metrics"]["recall@1"] == pytest.approx(metrics["eval_recall@1"])
    protocol_id = json.loads((Path(options["output_dir"]) / "training.json").read_text())["protocol_id"]
    assert record["protocol_id"] == protocol_id
    assert "weights here: the moving average;" in (folder / "README.md").read_text()


@pytest.mark.parametrize("composition", ["combiner", "tirg"])
def test_a_baseline_is_trained_and_measured_through_the_same_doors(options, tmp_path, composition):
    benchmark_folder = write_benchmark(tmp_path / "bench")
    options |= {"model": "cir_baseline", "composition": composition, "benchmark": benchmark_folder}
    metrics = train.main(flags(options))
    card = (Path(options["output_dir"]) / "README.md").read_text()
    assert {"combiner": "CLIP4Cir", "tirg": "TIRG"}[composition] in card and "eval_" not in card
    record = benchmark.main(
        ["--retriever", options["output_dir"], "--benchmark", "custom", "--data-root", benchmark_folder]
        + ["--split", "validation"]
    )
    assert record["results"][0]["metrics"]["recall@1"] == pytest.approx(metrics["eval_recall@1"])
    again = {
        name: value for name, value in options.items() if name not in ("clip_name_or_path", "model", "composition")
    }
    again |= {"model_name_or_path": options["output_dir"], "output_dir": str(tmp_path / "again"), "cc_weight": 0}
    train.main(flags(again))


def test_a_baseline_has_no_concepts_to_be_consistent(options):
    with pytest.raises(
        ValueError, match="CompositionBaseline has no attention maps of noun phrases. Set cc_weight to 0"
    ):
        train.main(flags(options | {"model": "cir_baseline", "cc_weight": 0.08}))


def test_lora_leaves_lambda_at_rest(options):
    pytest.importorskip("peft")
    train.main(flags(options | OF_INSTRUCTCIR | {"lora_rank": 2, "learning_rate": 1e-2}))
    saved = InstructCIRModel.from_pretrained(options["output_dir"])
    torch.manual_seed(42)
    start = InstructCIRModel.from_clip_pretrained(options["clip_name_or_path"])
    assert saved.combiner_weight == 1
    assert not torch.equal(saved.visual_projection.weight, start.visual_projection.weight)
    assert not torch.equal(saved.predictor.fc2.weight, start.predictor.fc2.weight)


def test_a_clip_model_is_nothing_to_go_on_from(options):
    options["model_name_or_path"] = options.pop("clip_name_or_path")
    with pytest.raises(ValueError, match="is a CLIPModel. To start from a CLIP model, give clip_name_or_path"):
        train.main(flags(options))


def test_without_noun_phrases_the_concept_loss_must_be_off(options, tmp_path):
    rows = datasets.Dataset.from_parquet(f"{options['data']}/train-00000-of-00001.parquet")
    (tmp_path / "plain").mkdir()
    rows.remove_columns("noun_phrases").to_parquet(tmp_path / "plain" / "train.parquet")
    options["data"] = str(tmp_path / "plain")
    with pytest.raises(ValueError, match="no column noun_phrases"):
        train.main(flags(options))
    train.main(flags(options | {"cc_weight": 0}))


@pytest.mark.fault("S01", "weights that are NaN or infinite are never saved; step and triplets are named")
def test_nan_gradients_end_the_command_with_1_and_no_model(options, monkeypatch, capsys):
    after = CIRTrainer.training_step

    def poisoned(trainer, *args):
        loss = after(trainer, *args)
        if trainer.state.global_step == 1:
            trainer.model.projection.weight.grad[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(CIRTrainer, "training_step", poisoned)
    assert command("train", flags(options)) == 1
    assert re.search(
        r"^contextcir train: The gradient is nan in step 2 \(triplets 't\d'", capsys.readouterr().err, re.M
    )
    assert [
        path.name for path in Path(options["output_dir"]).iterdir() if path.suffix in (".safetensors", ".md")
    ] == []


@pytest.mark.fault("S04", "a model stored in half precision trains on float32 weights")
@pytest.mark.parametrize("start", ["clip_name_or_path", "model_name_or_path"])
def test_a_half_precision_start_is_trained_and_saved_in_float32(options, tmp_path, clip_folder, start):
    clip, half = options.pop("clip_name_or_path"), tmp_path / "half"
    if start == "clip_name_or_path":
        shutil.copytree(clip, half)
        CLIPModel.from_pretrained(clip).to(torch.bfloat16).save_pretrained(half)
    else:
        ContextCIRModel.from_clip_pretrained(clip).to(torch.bfloat16).save_pretrained(half)
        ContextCIRProcessor.from_pretrained(clip).save_pretrained(half)
    train.main(flags(options | {start: str(half), "learning_rate": 2e-5}))
    saved = load_file(Path(options["output_dir"]) / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    moved = saved["text_model.final_layer_norm.weight"] != saved["text_model.final_layer_norm.weight"].bfloat16()
    assert moved.float().mean() > 0.9


@pytest.mark.fault("S10", "faults of the triplets are counted; more than 1 % warn, all of them end the run")
def test_triplets_that_show_images_of_the_benchmark_are_counted(options, tmp_path):
    options |= {"benchmark": write_benchmark(tmp_path / "bench"), "save_strategy": "no"}
    train.main(flags(options))
    record = json.loads((Path(options["output_dir"]) / "training.json").read_text())
    assert record["data_audit"]["in_benchmark"] == 5 and record["data_audit"]["rows"] == 9
    train_on_it = write_parquet(tmp_path / "test", train=triplets(5))
    with pytest.raises(ValueError, match="in_benchmark: all 5"):
        train.main(flags(options | {"data": train_on_it, "output_dir": str(tmp_path / "other")}))


@pytest.mark.fault("L03", "rows need no noun phrases without the concept loss, and ids may be integers")
def test_integer_ids_are_read(options, tmp_path):
    rows = [row | {"id": n, "reference_id": n, "target_id": 50 + n} for n, row in enumerate(triplets(9))]
    kinds = TRIPLET_FEATURES | dict.fromkeys(("id", "reference_id", "target_id"), datasets.Value("int32"))
    (tmp_path / "numbers").mkdir()
    numbered = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
    numbered.to_parquet(tmp_path / "numbers" / "train.parquet")
    loaded = load_triplets(str(tmp_path / "numbers"))
    assert loaded.features["id"].dtype == "string" and loaded[3]["target_id"] == "53"
    train.main(flags(options | {"data": str(tmp_path / "numbers")}))


PUSH_AND_TRAIN = """
import datasets, sys
from contextcir.cli import train
from contextcir.data.triplets import TRIPLET_FEATURES

rows = datasets.Dataset.from_parquet(sys.argv[1], features=TRIPLET_FEATURES)
rows.push_to_hub("tester/triplets", config_name="triplets", split="train")
train.main(sys.argv[2:])
"""


@pytest.mark.fault("P01", "train --push_to_hub makes a private repository, and a public one with --hub_public")
@pytest.mark.fault("P02", "train --push_to_hub publishes weights, configs, code, card and record, without local paths")
@pytest.mark.parametrize("public", [False, True])
@pytest.mark.slow
def test_data_from_the_hub_and_the_model_to_it(options, tmp_path, public):
    parquet = f"{options.pop('data')}/train-00000-of-00001.parquet"
    options |= {"data": "tester/triplets", "data_config": "triplets", "save_strategy": "steps", "save_steps": 2}
    options |= {"push_to_hub": True, "hub_model_id": "tester/cir", "hub_public": public}
    Path(options["output_dir"]).mkdir()
    (Path(options["output_dir"]) / "notes.txt").write_text("mine")
    (Path(options["output_dir"]) / "draft.py").write_text("")
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", PUSH_AND_TRAIN, parquet, *flags(options)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        pushed = hub.files("model", "tester/cir")
        assert hub.private["model", "tester/cir"] is not public
    code = {name for name in pushed if name.endswith(".py")}
    assert {"modeling_contextcir.py", "clip_loading.py", "processing_contextcir.py"} <= code and "draft.py" not in code
    texts = {"config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "training.json"}
    texts |= {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
    assert set(pushed) - code == texts | {"model.safetensors", "README.md"}
    for name in code | texts | {"README.md"}:
        assert str(tmp_path) not in pushed[name].decode(), name
    card = ModelCardData(**yaml.safe_load(pushed["README.md"].decode().split("---")[1]))
    assert (card.datasets, card.base_model, card.license) == (["tester/triplets"], None, "other")
    text = pushed["README.md"].decode()
    assert "# cir\n" in text and re.search(r'name, revision = "tester/cir", "[0-9a-f]{40}"', text)


@pytest.mark.fault("P02", "a push during training, of whole folders with optimizer states, is refused")
@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_pushes_during_training_are_refused(options, strategy):
    with pytest.raises(ValueError, match="hub_strategy.*end"):
        train.parse_arguments(flags(options | {"push_to_hub": True, "hub_strategy": strategy}))
    with pytest.raises(ValueError, match="hub_private_repo=False.*hub_public"):
        train.parse_arguments(flags(options | {"push_to_hub": True, "hub_private_repo": False}))


def test_fewer_queries_make_validation_cheaper(options, tmp_path, clip_folder):
    bench = write_benchmark(tmp_path / "bench")
    _, data_args, args = train.parse_arguments(flags(options | {"benchmark": bench, "benchmark_max_queries": 1}))
    model, processor = (
        ContextCIRModel.from_clip_pretrained(clip_folder),
        ContextCIRProcessor.from_pretrained(clip_folder),
    )
    few = train.build_evaluator(data_args, args, processor)(model)
    assert set(few.values()) <= {0.0, 100.0}
