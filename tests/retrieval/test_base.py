"""Queries and galleries: ids are unique, images are read when asked for, and errors name them."""

import io

import pytest
from PIL import Image

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery, Query


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def gallery():
    return Gallery(["a", "b", "broken"], [png("red"), png("blue"), {"bytes": b"no image", "path": None}])


def test_images_are_read_by_id(gallery):
    assert len(gallery) == 3
    assert gallery.image("b").getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(ImageError, match="gallery image 'broken'"):
        gallery.image("broken")


def test_the_reference_is_the_querys_own_or_the_gallerys(gallery):
    assert gallery.reference_image(Query("q", "x", reference_id="a")).getpixel((0, 0)) == (255, 0, 0)
    own = Query("q", "x", reference_image=png("lime"), reference_id="a")
    assert gallery.reference_image(own).getpixel((0, 0)) == (0, 255, 0)
    for query in (Query("q7", "x"), Query("q7", "x", reference_id="z")):
        with pytest.raises(ValueError, match="Query 'q7' has no reference_image"):
            gallery.reference_image(query)
    with pytest.raises(ImageError, match="reference image of query 'q7'"):
        gallery.reference_image(Query("q7", "x", reference_image=b""))


def test_ids_are_unique_and_as_many_as_images():
    with pytest.raises(ValueError, match="'b' more than once"):
        Gallery(["a", "b", "c", "b"], [None] * 4)
    with pytest.raises(ValueError, match="2 ids and 1 images"):
        Gallery(["a", "b"], [None])


def test_the_reference_is_no_candidate():
    assert Query("q", "x", reference_id="a", candidate_ids=("b", "a", "c")).ranked_candidate_ids == ["b", "c"]
    assert Query("q", "x", candidate_ids=("b", "a")).ranked_candidate_ids == ["b", "a"]
