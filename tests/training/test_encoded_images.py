"""Images that are encoded once: each id has its output, and only a change causes a new encoding."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.data.images import ImageError
from contextcir.data.triplets import load_triplets
from contextcir.training.encoded_images import encode_images
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import CompositionBaseline, ContextCIRModel


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Triplets of grey images: a -> b, b -> c, a -> c."""
    path = tmp_path / "images"
    path.mkdir()
    for name, grey in {"a": 40, "b": 120, "c": 200}.items():
        Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(path / f"{name}.png")
    rows = [
        f'{{"reference_file_name": "{one}.png", "target_file_name": "{two}.png", "modification_text": "brighter",'
        ' "noun_phrases": []}'
        for one, two in ("ab", "bc", "ac")
    ]
    (path / "metadata.jsonl").write_text("\n".join(rows))
    return path


class Brightness(torch.nn.Module):
    """Encodes an image as its brightness, twice."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.vision_model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.vision_model.weight, factor)
        self.seen = 0

    def encode_images(self, pixel_values):
        self.seen += len(pixel_values)
        return self.vision_model(pixel_values.mean(dim=(1, 2, 3))[:, None]).expand(-1, 2)


def encoded(folder, processor, model, **options):
    return encode_images(load_triplets(str(folder)), processor, model, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_id_has_its_output(folder, processor, dtype):
    found = encoded(folder, processor, Brightness(), dtype=dtype, batch_size=2)(["c.png", "a.png", "c.png", "b.png"])
    assert found.shape == (4, 2) and found.dtype == dtype
    assert torch.equal(found[0], found[2])
    assert found[1, 0] < found[3, 0] < found[0, 0]


def test_images_are_encoded_again_if_weights_or_images_change(folder, processor):
    first, second, other = Brightness(), Brightness(), Brightness(2.0)
    encoded(folder, processor, first)
    assert first.seen == 3 + 1  # and one for the shape
    encoded(folder, processor, second)
    assert second.seen == 1
    doubled = encoded(folder, processor, other)
    assert other.seen == 4
    assert torch.equal(doubled(["b.png"]), 2 * encoded(folder, processor, second)(["b.png"]))
    Image.new("RGB", (32, 32), "white").save(folder / "b.png")
    whiter = encoded(folder, processor, second)(["b.png", "c.png"])
    assert whiter[0, 0] > whiter[1, 0]


def test_one_progress_bar_is_shown_and_those_of_datasets_are_restored(folder, processor, monkeypatch, capfd):
    monkeypatch.setattr("contextcir.training.encoded_images.CHUNK", 1)
    datasets.enable_progress_bars()
    encoded(folder, processor, Brightness())
    shown = capfd.readouterr().err
    assert "Encoding images: 100%" in shown and "3/3" in shown and "Map" not in shown
    assert not datasets.are_progress_bars_disabled()
    encoded(folder, processor, Brightness(2.0), share=(1, 2))
    assert "Encoding" not in capfd.readouterr().err


def test_processes_share_the_work(folder, processor, monkeypatch):
    monkeypatch.setattr("contextcir.training.encoded_images.CHUNK", 1)
    encoders = [Brightness(), Brightness()]

    def second_process():
        encoded(folder, processor, encoders[1], share=(1, 2))

    found = encoded(folder, processor, encoders[0], share=(0, 2), wait=second_process)
    assert [encoder.seen for encoder in encoders] == [2 + 1, 1 + 1]  # and one for the shape
    once = Brightness()
    whole = encoded(folder, processor, once)
    assert once.seen == 1
    ids = ["b.png", "c.png", "a.png"]
    assert torch.equal(found(ids), whole(ids))
    assert len(set(found(ids)[:, 0].tolist())) == 3


def test_two_models_of_one_clip_do_not_share_outputs(folder, processor, clip_folder, tmp_path):
    shapes = []
    for number, kind in enumerate((ContextCIRModel, CompositionBaseline)):
        args = {"freeze_vision": True, "encode_images_once": True, "cc_weight": 0.0, "use_cpu": True}
        trainer = CIRTrainer(
            kind.from_clip_pretrained(clip_folder),
            CIRTrainingArguments(str(tmp_path / str(number)), **args),
            train_dataset=load_triplets(str(folder)),
            processing_class=processor,
        )
        shapes.append(trainer.data_collator.encoded_images(["a.png", "b.png"]).shape)
    assert shapes == [(2, 26, 24), (2, 24)]


def test_an_unreadable_image_is_named(folder, processor):
    (folder / "c.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="'1', target_image"):
        encoded(folder, processor, Brightness())
