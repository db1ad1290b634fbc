"""Pairs of similar images from a folder, by a CLIP."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from contextcir.cli.options import as_flags
from contextcir.data.images import load_image
from contextcir.data.pairs import read_pairs
from datasets_scripts import build_hotel_cir

LOW, HIGH = -1.0, 0.999


@pytest.fixture
def folder(tmp_path, images):
    for number, image in enumerate(images):
        path = tmp_path / "images" / f"hotel {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    images[0].save(tmp_path / "images" / "copy.png")
    return tmp_path


@pytest.fixture
def build(folder, clip_folder):
    def run(*options, high=HIGH):
        flags = {"images": folder / "images", "clip": clip_folder, "output": folder / "out", "low": LOW, "high": high}
        assert build_hotel_cir.main([*as_flags(flags), *options]) == 0

    return run


@pytest.mark.fault("F14", "mined pairs keep their similarity, and the nearest and farthest are drawn with it")
def test_the_similarities_of_pairs_are_within_the_bounds(folder, clip_folder, build, capsys):
    build("--pairs_per_image", "2")
    pairs = read_pairs(str(folder / "out" / "pairs.json"))
    assert f"{len(pairs)} pairs" in capsys.readouterr().out and len(pairs) >= 9
    clip, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)
    for pair in pairs:
        shown = [load_image(image) for image in (pair.reference_image, pair.target_image)]
        with torch.inference_mode():
            embeds = clip.get_image_features(**processor(images=shown, return_tensors="pt")).pooler_output
        similarity = torch.nn.functional.cosine_similarity(*embeds, dim=0).item()
        assert LOW <= similarity <= HIGH + 1e-4 and pair.similarity == pytest.approx(similarity, abs=1e-3)
    with Image.open(folder / "out" / "pairs.png") as drawn:
        assert min(drawn.size) > 200
    assert {pair.reference_id for pair in pairs} <= {f"hotel {n % 2}/{n}.png" for n in range(8)} | {"copy.png"}
    assert ("copy.png", "hotel 0/0.png") not in {tuple(sorted((pair.reference_id, pair.target_id))) for pair in pairs}
    assert np.unique([pair.id for pair in pairs]).size == len(pairs)


def test_with_a_model_the_pairs_are_captioned(folder, build, monkeypatch):
    called = []
    monkeypatch.setattr("contextcir.cli.generate.main", lambda argv: called.append(argv) or 0)
    build("--model", "m", "--free")
    pairs, output = str(folder / "out" / "pairs.json"), str(folder / "out")
    assert called == [["--pairs", pairs, "--output", output, "--model", "m", "--free"]]


def test_nothing_is_written_if_there_is_no_pair(folder, build):
    with pytest.raises(ValueError, match=r"9 images.*-1\.0.*-0\.99"):
        build(high=-0.99)
    assert not (folder / "out").exists()


def test_same_seed_same_pairs(folder, build):
    found = []
    for seed in ("0", "0", "5"):
        build("--pairs_seed", seed)
        found.append(json.loads((folder / "out" / "pairs.json").read_text()))
    assert found[0] == found[1] != found[2]
