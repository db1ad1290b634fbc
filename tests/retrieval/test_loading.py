"""Loading images ahead: the same pixels in threads, in processes and in one batch; bad and known images."""

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.data.content import image_digest
from contextcir.data.images import encode_image
from contextcir.retrieval.dense import PixelValues
from contextcir.retrieval.loading import ImageLoader, image_batches
from modeling_contextcir import ContextCIRProcessor


@pytest.fixture
def files(tmp_path, images):
    """Eight photographs of different sizes, one of them damaged."""
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(encode_image(image, "JPEG"))
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    return paths


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pixels_are_those_of_one_batch_to_the_bit(files, clip_folder, num_workers):
    processor = ContextCIRProcessor.from_pretrained(clip_folder)
    loader = ImageLoader([path.name for path in files], files, PixelValues(processor))
    batches = list(image_batches(loader, range(8), batch_size=3, num_workers=num_workers))
    assert [batch.places for batch in batches] == [[0, 1, 2], [4, 5], [6, 7]]
    good = [Image.open(path) for number, path in enumerate(files) if number != 3]
    expected = processor(images=good, return_tensors="pt")["pixel_values"]
    assert torch.equal(torch.cat([batch.pixels for batch in batches]), expected)
    (bad,) = [one for batch in batches for one in batch.loaded if one.error]
    assert bad.place == 3 and "3.jpg" in bad.error
    assert [one.digest for batch in batches for one in batch.loaded] == [image_digest(path) for path in files]


def test_known_images_are_not_decoded(files):
    loader = ImageLoader([path.name for path in files], files, known={image_digest(files[3]), image_digest(files[5])})
    (batch,) = image_batches(loader, [5, 3, 1], batch_size=4)
    assert batch.places == [1] and [one.error for one in batch.loaded] == [None, None, None]
    assert isinstance(batch.pixels[0], Image.Image)  # without preprocessing


def test_images_in_memory_and_missing_files(files):
    pixels = np.zeros((5, 4, 3), np.uint8)
    loader = ImageLoader(["a", "b"], [pixels, files[0].with_name("absent.jpg")])
    first, second = loader[0], loader[1]
    assert first.pixels.size == (4, 5) and first.digest == image_digest(pixels)
    assert second.digest == bytes(32) and "absent.jpg" in second.error
