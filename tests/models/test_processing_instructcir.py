"""Token ids, pixels and the counter of the processor."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil, CLIPProcessor

from modeling_contextcir import InstructCIRProcessor
from tests.conftest import build_clip_tokenizer


@pytest.fixture(scope="module")
def processor(clip_folder):
    return InstructCIRProcessor.from_pretrained(clip_folder)


def test_images_and_texts(processor, images):
    inputs = processor(images=images[:3], text=["the red", "", "a"])
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask"} == set(processor.model_input_names)
    assert inputs["pixel_values"].shape == (3, 3, 30, 30) and inputs["pixel_values"].dtype == torch.float32
    start, end = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
    the, red, a = processor.tokenizer.convert_tokens_to_ids(["the</w>", "red</w>", "a</w>"])
    assert inputs["input_ids"].tolist() == [[start, the, red, end], [start, end, end, end], [start, a, end, end]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]


def test_a_single_image_and_text(processor, images):
    inputs = processor(images=images[0], text="the red")
    assert inputs["pixel_values"].shape == (1, 3, 30, 30) and inputs["input_ids"].shape == (1, 4)


def test_pixels_are_those_of_the_pil_backend(processor, images):
    expected = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    expected = torch.tensor(np.stack(expected(images)["pixel_values"]))
    assert torch.equal(processor(images=images)["pixel_values"], expected)
    torchvision = type("CLIPImageProcessor", (CLIPImageProcessorPil,), {})  # as transformers calls it
    other = InstructCIRProcessor(torchvision.from_dict(processor.image_processor.to_dict()), processor.tokenizer)
    assert type(other.image_processor) is CLIPImageProcessorPil
    assert torch.equal(other(images=images)["pixel_values"], expected)


def test_long_texts_are_cut_and_counted(processor):
    fits = "the red " * 37 + "a"  # 75 tokens, begin and end
    inputs = processor(text=["the red " * 50, fits, fits + " a"], count_truncated=True)
    assert inputs["num_truncated_texts"].shape == () and inputs["num_truncated_texts"] == 2
    assert inputs["input_ids"].shape == (3, 77)
    assert (inputs["input_ids"][:, -1] == processor.tokenizer.eos_token_id).all()
    assert processor(text=[fits], count_truncated=True)["num_truncated_texts"] == 0
    assert "num_truncated_texts" not in processor(text=["the red " * 50])


def test_tokenizer_without_a_limit_is_cut_at_77(processor):
    unlimited = build_clip_tokenizer([("r", "e"), ("re", "d</w>"), ("t", "h"), ("th", "e</w>")])
    unlimited.model_max_length = int(1e30)
    assert InstructCIRProcessor(processor.image_processor, unlimited)(text=["a " * 99])["input_ids"].shape == (1, 77)


def test_a_call_without_anything_is_refused(processor):
    with pytest.raises(ValueError, match="Give `images`, `text` or both"):
        processor()


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_images_of_more_than_8_bits_are_refused(processor, images, mode):
    with pytest.raises(ValueError, match=f"Image 1 is a Pillow image of mode '{mode}', .*images.load_image"):
        processor(images=[images[0], Image.new(mode, (40, 30))])


def test_paths_are_refused(processor, images, tmp_path):
    path = tmp_path / "a.png"
    images[0].save(path)
    for given in (path, str(path), [images[0], str(path)]):
        with pytest.raises(ValueError, match="Image [01] is the path '.*a.png', expected .*images.load_image"):
            processor(images=given)


def test_a_tokenizer_without_its_vocabulary_is_refused(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer of '.*clip' has 2 entries, expected at least 258"):
        InstructCIRProcessor.from_pretrained(tmp_path / "clip")


def test_save_load_save(processor, images, tmp_path):
    processor.save_pretrained(tmp_path / "one")
    again = AutoProcessor.from_pretrained(tmp_path / "one")
    assert type(again) is InstructCIRProcessor and type(again.image_processor) is CLIPImageProcessorPil
    again.save_pretrained(tmp_path / "two")
    AutoProcessor.from_pretrained(tmp_path / "two").save_pretrained(tmp_path / "three")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json", "processing_instructcir.py"} <= names
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name
    assert json.loads((tmp_path / "three" / "tokenizer_config.json").read_text())["backend"] == "tokenizers"
    one, other = (some(images=images, text=["the red"] * 8) for some in (processor, again))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_saved_tokenizer_forgets_its_last_call(processor, tmp_path):
    processor(text=["the red"], padding="max_length", max_length=50)
    processor.save_pretrained(tmp_path)
    again = InstructCIRProcessor.from_pretrained(tmp_path)
    again.tokenizer.padding_side = "left"
    assert again(text=["the red", "a " * 60])["attention_mask"].sum(dim=1).tolist() == [4, 62]
    assert again(text=["the red", "a"])["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_clip_reads_the_same_folder(clip_folder, processor):
    """A CLIP folder serves both; texts get the same ids."""
    clip = CLIPProcessor.from_pretrained(clip_folder, backend="pil")
    assert clip(text=["the red cat"])["input_ids"][0] == processor(text=["the red cat"])["input_ids"][0].tolist()
