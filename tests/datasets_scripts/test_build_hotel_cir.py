"""Pairs out of a folder of images, by a CLIP."""

import json

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from contextcir.data.images import load_image
from contextcir.data.pairs import read_pairs
from datasets_scripts import build_hotel_cir


@pytest.fixture
def folder(tmp_path, images):
    for number, image in enumerate(images):
        path = tmp_path / "images" / f"hotel {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    images[0].save(tmp_path / "images" / "copy.png")
    return tmp_path


def flags(folder, clip_folder, *others):
    return ["--images", f"{folder}/images", "--clip", clip_folder, "--output", f"{folder}/out", *others]


def test_pairs_are_alike_within_the_bounds(folder, clip_folder, capsys):
    bounds = {"low": -1.0, "high": 0.999}
    build_hotel_cir.main(flags(folder, clip_folder, "--low", "-1.0", "--high", "0.999", "--pairs_per_image", "2"))
    pairs = read_pairs(str(folder / "out" / "pairs.json"))
    assert f"{len(pairs)} pairs written to" in capsys.readouterr().out and len(pairs) >= 9
    clip, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)
    for pair in pairs:
        shown = [load_image(image) for image in (pair.reference_image, pair.target_image)]
        with torch.inference_mode():
            embeds = clip.get_image_features(**processor(images=shown, return_tensors="pt")).pooler_output
        similarity = torch.nn.functional.cosine_similarity(*embeds, dim=0).item()
        assert bounds["low"] <= similarity <= bounds["high"] + 1e-4
    assert {pair.reference_id for pair in pairs} <= {f"hotel {n % 2}/{n}.png" for n in range(8)} | {"copy.png"}
    assert ("copy.png", "hotel 0/0.png") not in {tuple(sorted((pair.reference_id, pair.target_id))) for pair in pairs}
    assert np.unique([pair.id for pair in pairs]).size == len(pairs)


def test_with_a_model_the_captions_are_made_of_them(folder, clip_folder, monkeypatch):
    called = []
    monkeypatch.setattr("contextcir.cli.generate.main", lambda argv: called.append(argv) or 0)
    build_hotel_cir.main(flags(folder, clip_folder, "--low", "-1.0", "--high", "0.999", "--model", "m", "--free"))
    pairs, output = str(folder / "out" / "pairs.json"), str(folder / "out")
    assert called[0] == ["--pairs", pairs, "--output", output, "--model", "m", "--free"]


def test_without_a_pair_nothing_is_written(folder, clip_folder):
    with pytest.raises(ValueError, match="No two of 9 images are -1.0 to -0.99 alike. Move the bounds"):
        build_hotel_cir.main(flags(folder, clip_folder, "--low", "-1.0", "--high", "-0.99"))
    assert not (folder / "out").exists()


def test_same_seed_same_pairs(folder, clip_folder):
    found = []
    for seed in ("0", "0", "5"):
        build_hotel_cir.main(flags(folder, clip_folder, "--low", "-1.0", "--high", "0.999", "--pairs_seed", seed))
        found.append(json.loads((folder / "out" / "pairs.json").read_text()))
    assert found[0] == found[1] != found[2]
