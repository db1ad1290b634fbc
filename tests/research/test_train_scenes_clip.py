"""Training of the tiny CLIP, in small, and the shipped one."""

import json
import random
from pathlib import Path

import torch
from transformers import CLIPModel, CLIPProcessor

from contextcir.scenes import Scene, Thing, realise, sample_query, sample_scene
from contextcir.scenes.world import BACKGROUNDS, COLOURS, SHAPES
from research import train_scenes_clip

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "checkpoints" / "scenes-clip-tiny"


def shrink(monkeypatch):
    """Measure on few scenes, with a tokenizer of few texts."""
    monkeypatch.setattr(train_scenes_clip, "NUM_SCORED", 24)
    monkeypatch.setattr(train_scenes_clip, "NUM_TEXTS", 200)


def test_a_run_writes_a_clip(tmp_path, monkeypatch):
    shrink(monkeypatch)
    options = "--steps 4 --batch_size 8 --captions 4 --save_every 2 --vision_width 32 --text_width 32 --image_size 48"
    record = train_scenes_clip.main(["--output", str(tmp_path), *options.split()])
    assert record["steps_done"] == 4
    assert [entry["step"] for entry in record["log"]] == [2, 4]
    model = CLIPModel.from_pretrained(tmp_path)
    assert model.config.vision_config.hidden_size == 32
    assert sum(parameter.numel() for parameter in model.parameters()) == record["num_parameters"]
    assert "4 of 4 steps" in (tmp_path / "README.md").read_text()


def test_a_run_continues_another(tmp_path, monkeypatch):
    shrink(monkeypatch)
    options = ["--init", str(SHIPPED), "--steps", "1", "--batch_size", "4", "--captions", "4", "--learning_rate", "0"]
    record = train_scenes_clip.main(["--output", str(tmp_path), *options])
    one, other = (CLIPModel.from_pretrained(path).state_dict() for path in (SHIPPED, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)
    before = json.loads((SHIPPED / "training.json").read_text())
    assert record["earlier"][-1]["command"] == before["command"]
    assert f"`{before['command']}` at commit `{before['commit']}`" in (tmp_path / "README.md").read_text()


def test_captions_come_in_groups_of_near_misses():
    args = train_scenes_clip.Arguments(output="", batch_size=20, captions=8)
    scenes = train_scenes_clip.sample_scenes(random.Random(0), args)
    assert len(scenes) == 20
    for group in (scenes[:4], scenes[4:8]):
        assert len(set(group)) == 4
        assert all(abs(len(group[0].things) - len(other.things)) <= 1 for other in group)
    assert len(set(scenes)) == 20


def test_labels_of_cells():
    scene = Scene("sea", (Thing((0, 1), "star", "red", "large", "plain"),))
    labels = train_scenes_clip.labels_of([scene])
    assert labels["background"].tolist() == [BACKGROUNDS.index("sea")]
    nothing = len(SHAPES)
    assert labels["shape"].tolist() == [[nothing, SHAPES.index("star"), *[nothing] * 7]]
    assert labels["colour"].tolist() == [[-1, COLOURS.index("red"), *[-1] * 7]]


def test_the_shipped_tokenizer_has_every_word_of_the_grammar():
    tokenizer = CLIPProcessor.from_pretrained(SHIPPED).tokenizer
    rng = random.Random(11)
    for _ in range(200):
        text = sample_query(rng, 2).text
        text = text.lower().replace("do not ", "")  # newer than the tokenizer, which splits these two words
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[1:-1]
        assert all(token.endswith("</w>") for token in tokens), tokens
    assert tokenizer.eos_token_id == len(tokenizer) - 1


def test_scores_of_the_shipped_clip():
    record = json.loads((SHIPPED / "training.json").read_text())
    processor = CLIPProcessor.from_pretrained(SHIPPED)
    rng = random.Random(5)
    scenes = [sample_scene(rng) for _ in range(64)]
    args = train_scenes_clip.Arguments(output="")
    pixels, tokens = train_scenes_clip.make_batch(
        rng, scenes, 64, args, processor.tokenizer, processor.image_processor
    )
    with torch.inference_mode():
        output = CLIPModel.from_pretrained(SHIPPED).eval()(pixel_values=pixels, **tokens)
    hits = (output.logits_per_text.argmax(1) == torch.arange(64)).float().mean().item()
    assert hits > 0.97  # among 64 instead of 1,000
    assert record["scores"]["text_to_image_recall@1"] > 97
    again = processor(images=[train_scenes_clip.render(scenes[0], 1)], return_tensors="pt")["pixel_values"]
    assert again.shape == pixels[:1].shape
    assert (SHIPPED / "model.safetensors").stat().st_size < 8e6
    assert realise(train_scenes_clip.describe(rng, scenes[0]))[0]


def test_the_shipped_card_is_rendered_from_the_shipped_record(tmp_path):
    train_scenes_clip.write_card(tmp_path, json.loads((SHIPPED / "training.json").read_text()))
    assert (tmp_path / "README.md").read_text() == (SHIPPED / "README.md").read_text()
