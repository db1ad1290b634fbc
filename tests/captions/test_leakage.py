"""Test images are found by their names and by their content."""

import numpy as np
from PIL import Image

from contextcir.captions.leakage import HeldOut, difference_hash


def photo(seed):
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((240, 200), Image.Resampling.BICUBIC)


def test_test_images_are_found_by_name_and_by_content(tmp_path):
    photo(0).save(tmp_path / "000000000042.png")
    held_out = HeldOut.from_files([("circo", tmp_path / "000000000042.png"), ("cirr", tmp_path / "test1-1-img0.png")])
    assert len(held_out.owners) == 1  # the other file is missing: only its name is used
    assert held_out.find("mine/test1-1-img0.jpg", photo(1)) == "cirr test1-1-img0"
    photo(0).resize((120, 100)).save(tmp_path / "copy.jpg", quality=60)
    with Image.open(tmp_path / "copy.jpg") as copy:
        assert held_out.find("copy.jpg", copy) == "circo 000000000042"
    assert [held_out.find("42.jpg", photo(seed)) for seed in range(1, 30)] == [None] * 29


def test_names_are_found_without_files(tmp_path):
    held_out = HeldOut.from_files([("fashioniq", tmp_path / "B00.png")])
    assert held_out.find("B00", photo(0)) == "fashioniq B00" and held_out.find("B01", photo(0)) is None


def test_a_difference_hash_depends_only_on_gradients():
    assert (difference_hash(Image.new("RGB", (50, 50), "white")) == 0).all()
    ramp = Image.fromarray(np.tile(np.arange(0, 255, 5, dtype=np.uint8), (50, 1)))
    assert np.bitwise_count(difference_hash(ramp)).sum() == 256
    assert np.bitwise_count(difference_hash(ramp.transpose(Image.Transpose.ROTATE_180))).sum() == 0
