"""The cache of galleries: by the content of images and by who embeds."""

from functools import partial

import pytest

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.store.cache import GalleryCache
from contextcir.retrieval.store.operations import index_images
from tests.retrieval.models import make_images, make_queries
from tests.retrieval.store.photos import CountingModel, retriever_of


def search(folder, images, model):
    retriever = retriever_of(model, keep=GalleryCache(folder))
    gallery = Gallery([f"g{number}" for number in range(len(images))], images)
    return retriever.search(make_queries(), gallery, 5)


def test_a_gallery_is_embedded_once_for_each_model(tmp_path):
    images, model = make_images(), CountingModel()
    expected = retriever_of().search(make_queries(), Gallery([f"g{n}" for n in range(13)], images), 5)
    for _ in range(2):  # another gallery and another retriever, the same content
        found = search(tmp_path, images, model)
        assert found.gallery_ids == expected.gallery_ids and found.candidate_ids == expected.candidate_ids
    assert model.embedded == 13
    other = CountingModel(seed=1)
    assert search(tmp_path, images, other).gallery_ids != expected.gallery_ids and other.embedded == 13
    assert len(list(tmp_path.iterdir())) == 2
    search(tmp_path, [*images[1:], images[0]], model)
    assert model.embedded == 26


def test_an_interrupted_gallery_goes_on(tmp_path, monkeypatch):
    class Stopping(CountingModel):
        limit = 6

        def get_image_features(self, pixel_values):
            if self.embedded > self.limit:
                raise KeyboardInterrupt
            return super().get_image_features(pixel_values)

    small = partial(index_images, shard_size=4)
    monkeypatch.setattr("contextcir.retrieval.store.cache.index_images", small)
    model = Stopping()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, make_images(), model)
    model.limit = 100
    search(tmp_path, make_images(), model)
    assert model.embedded == 13


def test_a_bad_image_of_a_benchmark_is_an_error(tmp_path):
    images = make_images()
    images[12] = b"x"
    with pytest.raises(ImageError, match="g12"):
        search(tmp_path, images, CountingModel())
