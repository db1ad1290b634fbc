"""Queries and galleries, and the contract that all retrievers keep."""

import pytest

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever
from tests.imagescope_world import composed, world
from tests.retrieval.models import Model, Processor
from tests.tiny_triplets import png


@pytest.fixture
def gallery():
    return Gallery(["a", "b", "broken"], [png(0), png(1), {"bytes": b"no image", "path": None}])


def test_images_are_read_by_id(gallery):
    assert len(gallery) == 3
    assert gallery.image("b") == Gallery(["x"], [png(1)]).image("x") != gallery.image("a")
    with pytest.raises(ImageError, match="gallery image 'broken'"):
        gallery.image("broken")


def test_a_gallery_of_the_images_of_a_folder(tmp_path):
    for name in ("b.png", "dogs/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(len(name)))
    (tmp_path / "notes.txt").write_text("no image")
    gallery = Gallery.from_folder(tmp_path)
    assert gallery.ids == ["b.png", "dogs/a.png"]
    assert gallery.image("dogs/a.png") == Gallery(["x"], [png(len("dogs/a.png"))]).image("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        Gallery.from_folder(tmp_path / "empty")


def test_the_reference_image_is_the_querys_own_or_the_gallerys(gallery):
    assert gallery.reference_image(Query("q", "x", reference_id="a")) == gallery.image("a")
    own = Query("q", "x", reference_image=png(1), reference_id="a")
    assert gallery.reference_image(own) == gallery.image("b")
    assert gallery.reference_source(own) == png(1) and gallery.reference_source(Query("q", "x", None, "a")) == png(0)
    for query in (Query("q7", "x"), Query("q7", "x", reference_id="z")):
        with pytest.raises(ValueError, match=f"'q7'.*{query.reference_id!r}"):
            gallery.reference_image(query)
    with pytest.raises(ImageError, match="query 'q7'"):
        gallery.reference_image(Query("q7", "x", reference_image=b""))
    with pytest.raises(ImageError, match="gallery image 'broken'"):
        gallery.reference_image(Query("q7", "x", reference_id="broken"))


def test_ids_are_unique_and_as_many_as_images():
    with pytest.raises(ValueError, match="gallery.*'b'"):
        Gallery(["a", "b", "c", "b"], [None] * 4)
    with pytest.raises(ValueError, match="2 ids and 1 images"):
        Gallery(["a", "b"], [None])


def test_the_reference_is_not_a_ranked_candidate():
    assert Query("q", "x", reference_id="a", candidate_ids=("b", "a", "c")).ranked_candidate_ids == ["b", "c"]
    assert Query("q", "x", candidate_ids=("b", "a")).ranked_candidate_ids == ["b", "a"]


# --- the contract of retrievers --------------------------------------------------------------------------------------


@pytest.fixture(params=["DenseRetriever", "ReasonedRetriever", "ImageScope"])
def retriever(request, tmp_path):
    scope = world(range(6)).scope(tmp_path)
    dense = DenseRetriever.from_model(Model(), Processor())
    return {"DenseRetriever": dense, "ReasonedRetriever": scope.first, "ImageScope": scope}[request.param]


def test_two_queries_with_the_same_id_are_refused(retriever):
    queries = [composed(0, 1, "a"), composed(0, 2, "twice"), composed(1, 2, "twice")]
    with pytest.raises(ValueError, match="queries.*'twice'"):
        retriever.search(queries, world(range(6)).gallery(), 3)


def test_an_empty_gallery_is_refused(retriever):
    for queries in ([composed(0, 1)], []):
        with pytest.raises(ValueError, match="gallery"):
            retriever.search(queries, Gallery([], []), 3)


@pytest.mark.parametrize("wanted", [None, {"q": "p1"}])
def test_no_queries_give_an_empty_ranking(retriever, wanted):
    ranking = retriever.search([], world(range(6)).gallery(), 3, exclude_reference=True, wanted=wanted)
    assert ranking.query_ids == ranking.gallery_ids == ranking.candidate_ids == [] and not ranking.scores
    assert ranking.wanted_ranks == (None if wanted is None else {})
