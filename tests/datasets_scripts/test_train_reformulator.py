"""Training of a reformulator on a tiny language model with random weights, and triplets written by it."""

import asyncio
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contextcir.captions.examples import Example
from contextcir.captions.recipes import load_prompts
from contextcir.captions.reformulator import ADAPTER, RECORD, Reformulator
from contextcir.captions.schemas import Reformulation
from contextcir.chat.exchange import ChatRequest
from contextcir.chat.ledger import LedgerError
from contextcir.cli import generate as generate_command
from contextcir.cli.options import as_flags
from contextcir.data.triplets import load_triplets
from contextcir.scenes import describe, realise, render, sample_scene
from contextcir.scenes.ground_truth import scene_to_json
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth
from datasets_scripts import reformulator_training, train_reformulator
from research import build_tiny_lm

pytest.importorskip("peft", reason="adapters need the extra `peft`")
SIZES = {"hidden_size": 32, "num_layers": 1, "num_texts": 200}
WRITTEN = "make it red"  # the answer to all captions


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    build_tiny_lm.main(as_flags({"output": folder} | SIZES))
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """A prompt of the user, in a file with the line ends of Windows."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "reformulation.txt").write_text("version: short\r\n\r\n{caption_a} to {caption_b}?\r\n")
    return folder


@pytest.fixture(scope="module")
def seed_pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("seed") / "seed.jsonl"
    rng = random.Random(0)
    captions = [realise(describe(rng, sample_scene(rng)))[0] for _ in range(40)]
    pairs = zip(captions[:20], captions[20:], strict=True)
    rows = [{"caption_a": a, "caption_b": b, "modification_text": WRITTEN} for a, b in pairs]
    rows += [rows[0], rows[1] | {"modification_text": "no"}, rows[2] | {"caption_a": "x" * 1000}]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def train(base, prompts, seed_pairs):
    def run(output_dir, **options):
        where = {"model_name_or_path": base, "data": seed_pairs, "output_dir": output_dir, "learning_rate": 1e-2}
        return train_reformulator.main(as_flags(where | options))

    return run


@pytest.fixture(scope="module")
def adapter(train, prompts, tmp_path_factory):
    """A trained adapter and its measures."""
    folder = tmp_path_factory.mktemp("runs") / "adapter"
    return folder, train(folder, prompts=prompts, max_steps=60, held_out=0.2)


def change(reformulator, a, b, prompts):
    prompt = load_prompts("instructcir", prompts)["reformulation"].render(caption_a=a, caption_b=b)
    return asyncio.run(reformulator.complete(ChatRequest("reformulation", prompt, schema=Reformulation))).value.change


# --- training --------------------------------------------------------------------------------------------------------


def test_it_learns_and_the_record_has_its_measures(adapter, base):
    folder, metrics = adapter
    assert metrics["loss"] < 0.1 and metrics["loss_untrained"] > 3
    assert metrics["exact_match"] == metrics["word_f1"] == metrics["usable"] == 100 and metrics["written"] == 4
    record = json.loads((folder / "training.json").read_text())
    assert record["held_out"] == metrics and record["base_model"] == str(base)
    left_out = {"repeated": 1, "length": 1, "too_long": 1}
    assert record["examples"] == {"learned": 16, "held_out": 4, "left_out": left_out}
    assert record["prompt"]["version"] == "short" and any("loss" in entry for entry in record["history"])


def test_the_base_model_is_unchanged(adapter, base):
    folder, _ = adapter
    assert not list(folder.glob("model*.safetensors"))
    fresh = AutoModelForCausalLM.from_pretrained(base).state_dict()
    adapted = Reformulator.load(str(folder)).model.get_base_model().state_dict()
    shared = {name.replace(".base_layer", ""): value for name, value in adapted.items() if "lora" not in name}
    assert shared.keys() == fresh.keys() and all(torch.equal(shared[name], fresh[name]) for name in fresh)


def test_the_card_has_the_numbers_of_the_record(adapter):
    folder, metrics = adapter
    card = (folder / "README.md").read_text()
    assert f"| loss of the answer | {metrics['loss']} |" in card and f"| {WRITTEN} | {WRITTEN} |" in card
    assert "1 repeated, 1 length, 1 too_long" in card and "2504.00812" in card
    assert "16 examples, and 4 held out" in card


def test_only_the_answer_has_labels(base):
    tokenizer, prompt = AutoTokenizer.from_pretrained(base), load_prompts("instructcir")["reformulation"]
    examples = [Example("a", "b", "make it red"), Example("a" * 50, "b", "do it")]
    tokenized = reformulator_training.TokenizedExamples(examples, tokenizer, prompt, 10_000)
    batch = reformulator_training.collate([tokenized[0], tokenized[1]], pad=7)
    for row, example in enumerate(examples):
        labels, mask = batch["labels"][row], batch["attention_mask"][row].bool()
        learned = labels[labels != -100]
        assert tokenizer.decode(learned) == example.modification_text + build_tiny_lm.END
        read = batch["input_ids"][row][mask]
        assert torch.equal(read[-len(learned) :], learned)  # at the end of the input
        assert tokenizer.decode(read[: -len(learned)]) == reformulator_training.render_prompt(example, prompt) + "\n\n"
        assert (batch["input_ids"][row][~mask] == 7).all()
    longest = len(tokenized[0]["input_ids"])
    shorter = reformulator_training.TokenizedExamples(examples, tokenizer, prompt, longest)
    assert (len(shorter), shorter.too_long, shorter.examples) == (1, 1, examples[:1])


def test_activation_checkpointing_changes_nothing(train, prompts, tmp_path):
    losses = [
        train(tmp_path / str(on), prompts=prompts, max_steps=3, activation_checkpointing=on)["loss"]
        for on in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_word_f1():
    word_f1 = reformulator_training.word_f1
    assert word_f1("Make it red.", "make it red") == 1
    assert word_f1("red red dog", "a red cat") == pytest.approx(2 / 6)
    assert word_f1("", "a") == word_f1("", "") == 0


@pytest.mark.parametrize(
    "name, value, problem",
    [
        ("held_out", 1, "held_out.* got 1.0"),
        ("lora_rank", 0, "lora_rank.* got 0"),
        ("max_steps", 0, "max_steps.* got 0"),
        ("learning_rate", 0, "learning_rate.* got 0"),
        ("max_length", 30, "21 of 21 .* 30 .* 0 .*max_length"),
    ],
)
def test_impossible_options_are_refused(train, tmp_path, name, value, problem):
    with pytest.raises(ValueError, match=problem):
        train(tmp_path / "out", **{name: value})


def test_unusable_examples_are_refused(train, tmp_path):
    path = tmp_path / "seed.jsonl"
    path.write_text(json.dumps({"caption_a": "a", "caption_b": "b", "modification_text": " ".join(["word"] * 13)}))
    with pytest.raises(ValueError, match=f"1 examples of {path} .*'length': 1"):
        train(tmp_path / "out", data=path)


def test_a_model_without_end_token_or_with_another_tokenizer_is_refused(train, base, tmp_path):
    endless, small = (shutil.copytree(base, tmp_path / name) for name in ("endless", "small"))
    AutoTokenizer.from_pretrained(base, eos_token=None).save_pretrained(endless)
    with pytest.raises(ValueError, match="endless.* end token"):
        train(tmp_path / "out", model_name_or_path=endless)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(100)
    model.save_pretrained(small)
    with pytest.raises(ValueError, match="small.* [0-9]{3} .* 100 "):
        train(tmp_path / "out", model_name_or_path=small)


def test_a_folder_with_results_is_refused(train, adapter):
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        train(adapter[0])


# --- the adapter at work ---------------------------------------------------------------------------------------------


def test_an_adapter_is_loaded_with_its_base_and_refused_on_another(adapter, base, prompts, tmp_path):
    folder, _ = adapter
    reformulator = Reformulator.load(str(folder))
    assert change(reformulator, "a red circle", "a blue ring", prompts) == WRITTEN and reformulator.name == "adapter"
    assert Reformulator.load(str(folder)).digest == reformulator.digest
    kept = tmp_path / "kept"
    shutil.move(base, kept)
    try:
        build_tiny_lm.main(as_flags({"output": base, "seed": 1} | SIZES))
        with pytest.raises(ValueError, match=f"{folder} .*{base}"):
            Reformulator.load(str(folder))
    finally:
        shutil.rmtree(base)
        shutil.move(kept, base)


def test_an_adapter_that_is_damaged_or_lacks_its_base_is_refused(adapter, tmp_path):
    folder = shutil.copytree(adapter[0], tmp_path / "copy")
    tensors, record = load_file(folder / ADAPTER), json.loads((folder / RECORD).read_text())
    first, *others = tensors

    def refused(message):
        with pytest.raises(ValueError, match=message):
            Reformulator.load(str(folder))

    save_file({name: tensors[name] for name in others}, folder / ADAPTER)
    refused(f"{ADAPTER} .*adapter_config.json.* {first} ")
    save_file(tensors | {first: torch.full_like(tensors[first], float("nan"))}, folder / ADAPTER)
    refused(f"{ADAPTER} .*NaN.* {first}")
    (folder / ADAPTER).write_bytes((adapter[0] / ADAPTER).read_bytes()[:-9])
    refused(ADAPTER)
    (folder / RECORD).write_text(json.dumps(record | {"base_model": str(tmp_path / "gone")}))
    refused("copy .*gone")
    (folder / RECORD).write_text("{}")
    refused("training.json .*base_model")


def test_generation_ignores_the_settings_of_the_base_model(adapter, base, prompts):
    path = base / "generation_config.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(before) | {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1}))
        reformulator = Reformulator.load(str(adapter[0]))
        assert change(reformulator, "a red circle", "a blue ring", prompts) == WRITTEN
    finally:
        path.write_text(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Six pictures and their truth."""
    folder, rng = tmp_path_factory.mktemp("world"), random.Random(0)
    rows = []
    for number in range(6):
        scene, name = sample_scene(rng), f"images/{number}.jpg"
        (folder / name).parent.mkdir(exist_ok=True)
        render(scene, number).save(folder / name, quality=92)
        rows.append(json.dumps({"image": name, "scene": scene_to_json(scene)}))
    (folder / "truth.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def generate(world, output, **options):
    drawn = {"recipe": "instructcir", "images": world / "images", "num_pairs": 9, "output": output}
    with Oracle(Truth.from_folder(world)) as url:
        server = {"model": "oracle", "base_url": url, "free": True}
        return generate_command.main(as_flags(drawn | server | options))


@pytest.mark.parametrize("mode", ["online", "batch"])
def test_triplets_with_changes_by_the_adapter(adapter, world, tmp_path, mode):
    assert generate(world, tmp_path, reformulator=adapter[0], mode=mode, poll_seconds=0.1) == 0
    rows = load_triplets(str(tmp_path / "triplets"))
    assert set(rows["modification_text"]) == {WRITTEN} and len(rows) == 9
    report = json.loads((tmp_path / "report.json").read_text())
    sent = {stage["stage"]: stage["requests"] for stage in report["requests"]["stages"]}
    assert sent == {"image_caption": 6, "reformulation": 9} and report["models"] == ["adapter", "oracle"]
    assert report["settings"]["reformulator"] and report["prompts"]["reformulation"]["version"] == "short"


def test_a_run_cannot_continue_without_its_reformulator(adapter, world, tmp_path):
    assert generate(world, tmp_path, reformulator=adapter[0]) == 0
    with pytest.raises(LedgerError, match="reformulator"):
        generate(world, tmp_path)


def test_a_dry_run_loads_no_weights(adapter, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Reformulator, "load", None)
    assert generate(world, tmp_path / "out", reformulator=adapter[0], dry_run=True) == 0
    assert "--- reformulation: Reformulation of no image\n<caption_a>" in capsys.readouterr().out


def test_a_dry_run_has_no_cost_for_the_adapter(adapter, world, tmp_path, capsys):
    def dollars(**options):
        price = {"free": None, "usd_per_million": [0, 1_000_000], "max_tokens": 1}
        assert generate(world, tmp_path, **price, dry_run=True, **options) == 0
        return capsys.readouterr().out.partition(", or $")[2].partition(" ")[0]

    assert (dollars(), dollars(reformulator=adapter[0])) == ("15.00", "6.00")  # six captions, nine changes


def test_wrong_uses_of_an_adapter(adapter, prompts, world, tmp_path):
    with pytest.raises(ValueError, match="good4cir.*reformulator"):
        generate(world, tmp_path, recipe="good4cir", reformulator=adapter[0])
    with pytest.raises(ValueError, match="adapter_config.json"):
        generate(world, tmp_path, reformulator=prompts)
    other = tmp_path / "other"
    other.mkdir()
    (other / "reformulation.txt").write_text("version: 2\n\nFrom {caption_a} to {caption_b}.")
    with pytest.raises(ValueError, match=f"{adapter[0]}.*reformulation.txt.*{other}"):
        generate(world, tmp_path, reformulator=adapter[0], prompts=other)
    assert generate(world, tmp_path / "same", reformulator=adapter[0], prompts=prompts) == 0
    assert not Path(tmp_path / "ledger.sqlite").exists()
