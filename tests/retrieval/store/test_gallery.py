"""Searching a stored gallery from Python."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.filters import parse_filters
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.index import search as search_rows
from contextcir.retrieval.store.gallery import StoredRows
from contextcir.retrieval.store.layout import StoreError
from tests.retrieval.models import make_gallery, make_queries
from tests.retrieval.store.photos import COUNT, CountingModel, Named, retriever_of, write_photo, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = write_photos(tmp_path_factory.mktemp("photos"))
    rows = [f'{{"file_name": "{"ab"[n % 2]}/{n:03d}.png", "number": {n}, "side": "{"ab"[n % 2]}"}}' for n in range(39)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def gallery(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "gallery"
    return Gallery.build(photos, retriever_of(), folder, shard_size=7, quiet=True)


def ids(hits):
    return [hit.id for hit in hits]


def test_composed_search_is_that_of_the_retriever(photos, gallery):
    retriever = retriever_of()
    queries = [Query("q", "make it red", reference_id="a/004.png")]
    for searched in (Gallery.from_folder(photos), gallery):
        ranking = retriever.search(queries, searched, 6)
        hits = gallery.search("a/004.png", "make it red", 6)
        assert ids(hits) == ranking.gallery_ids[0] and [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
        assert [hit.score for hit in hits] == pytest.approx(ranking.scores[0], abs=1e-6)


def test_a_stored_gallery_is_not_embedded_again(gallery):
    model = CountingModel()
    ranking = retriever_of(model).search([Query("q", "red", reference_id="b/001.png")], gallery, 3)
    assert len(ranking.gallery_ids[0]) == 3 and model.embedded == 0


def test_candidates_and_wanted_ranks_of_a_stored_gallery(photos, gallery):
    query = Query("q", "red", reference_id="b/001.png", candidate_ids=("b/039.png", "a/000.png", "b/021.png"))
    expected = retriever_of().search([query], Gallery.from_folder(photos), 3, wanted={"q": "a/020.png"})
    found = retriever_of().search([query], gallery, 3, wanted={"q": "a/020.png"})
    assert found.candidate_ids == expected.candidate_ids and found.wanted_ranks == expected.wanted_ranks


def test_image_only_text_only_and_the_weight_between(photos, gallery):
    assert ids(gallery.search(photos / "a" / "010.png"))[0] == "a/010.png"
    assert gallery.search("a/010.png", k=1)[0].score == pytest.approx(1, abs=1e-5)
    assert ids(gallery.search("a/010.png", k=1, exclude=["a/010.png"])) != ["a/010.png"]
    alone = gallery.search("a/010.png", k=COUNT)
    composed = gallery.search("a/010.png", "red", k=COUNT)
    assert ids(gallery.search("a/010.png", "red", k=COUNT, image_weight=1)) == ids(alone) != ids(composed)
    model, mixed = gallery.retriever, gallery.embed(["a/010.png"], ["red"], image_weight=0.3)
    image = gallery.image("a/010.png")
    expected = normalize(0.7 * model.embed_queries([image], ["red"]) + 0.3 * model.embed_images([image]), dim=-1)
    assert torch.allclose(mixed, expected, atol=1e-6)


def test_text_only(tmp_path):
    seen = []

    def encode_queries(images, texts):
        seen.extend(images)
        return torch.eye(len(texts), 3)

    retriever = DenseRetriever(lambda images: torch.eye(len(images), 3), encode_queries, identity=Identity("mine"))
    images = Gallery(["x", "y"], [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")])
    gallery = Gallery.build(images, retriever, tmp_path, quiet=True)
    assert ids(gallery.search(text="red")) == ["x", "y"] and seen == [None]
    assert gallery.image("y").getpixel((0, 0)) == (0, 0, 255)


def test_filters(gallery):
    hits = gallery.search("a/004.png", "red", COUNT, where={"side": "b"})
    assert len(hits) == 19 and all(hit.facts["side"] == "b" and hit.id.startswith("b/") for hit in hits)
    assert len(gallery.search("a/004.png", "red", COUNT, where=parse_filters(["number<10", "side=a"]))) == 5
    assert gallery.search("a/004.png", "red", where={"number": [3, 5, 7]})[0].facts["number"] in (3, 5, 7)
    assert gallery.search("a/004.png", "red", where={"number": 1000}) == []
    with pytest.raises(ValueError, match="colour.*number, side"):
        gallery.search("a/004.png", "red", where={"colour": "red"})


def test_an_index_that_is_ahead_of_the_gallery(photos, tmp_path):
    gallery = Gallery.build(photos, retriever_of(), tmp_path / "g", quiet=True)
    newer = torch.nn.functional.normalize(torch.ones(1, 16), dim=1)
    gallery.index.add(["of/tomorrow.png"], newer)
    assert "of/tomorrow.png" not in ids(gallery.find(newer, COUNT)[0]) and len(gallery.find(newer, 5)[0]) >= 4


def test_batches_give_what_single_queries_give(gallery):
    images, texts = ["a/004.png", "b/001.png", "b/003.png", "b/005.png"], ["red", "blue", "", "the red"]
    together = gallery.find(gallery.embed(images, texts), 5)
    assert [ids(hits) for hits in together] == [
        ids(gallery.search(image, text, 5)) for image, text in zip(images, texts, strict=True)
    ]


def test_bad_questions(photos, gallery):
    with pytest.raises(ValueError, match="neither"):
        gallery.search(text="  ")
    with pytest.raises(ValueError, match="k=0"):
        gallery.search("a/004.png", k=0)
    with pytest.raises(ValueError, match="image_weight=2"):
        gallery.search("a/004.png", "red", image_weight=2)
    with pytest.raises(ValueError, match="retriever"):
        Gallery.open(gallery.folder).search("a/004.png")
    assert len(gallery.search("a/004.png", "red", 10 * COUNT)) == COUNT


def test_two_functions_can_be_indexed_and_must_say_who_they_are(photos, tmp_path):
    def encode_images(images):
        return normalize(torch.tensor([image.resize((1, 1)).getpixel((0, 0)) for image in images]).float(), dim=-1)

    def encode_queries(images, texts):
        return encode_images(images)

    mine = DenseRetriever(encode_images, encode_queries, identity=Identity("mean colour", "v1"), batch_size=4)
    gallery = Gallery.build(photos, mine, tmp_path / "g", quiet=True)
    assert gallery.manifest.dim == 3 and len(gallery.search("a/000.png", "any", 3)) == 3
    newer = DenseRetriever(encode_images, encode_queries, identity=Identity("mean colour", "v2"), batch_size=4)
    with pytest.raises(StoreError, match="revision v1, got v2"):
        Gallery.open(tmp_path / "g", newer)
    with pytest.raises(ValueError, match="identity"):
        Gallery.build(photos, DenseRetriever(encode_images, encode_queries), tmp_path / "h")


def test_drafts_of_large_photographs_are_another_encoder(tmp_path):
    from contextcir.retrieval.loading import ImageLoader

    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    sizes = [ImageLoader(["x"], [tmp_path / "x.jpg"], draft_side=side)[0].pixels.size for side in (None, 16, 40)]
    assert sizes == [(96, 64), (24, 16), (96, 64)]
    assert retriever_of(draft_side=16).identity.fingerprint != retriever_of().identity.fingerprint


def test_the_identity_follows_the_weights():
    model = Named()
    retriever = retriever_of(model)
    before = retriever.identity
    assert retriever.identity == before
    with torch.no_grad():
        model.image.weight.mul_(2)
    assert retriever.identity.weights != before.weights and retriever.identity.model == "tiny"


def test_rows_of_shards_are_one_tensor():
    whole = torch.arange(40.0).reshape(20, 2)
    rows = StoredRows([whole[:7], whole[7:7], whole[7:8], whole[8:].half()])
    assert rows.shape == (20, 2) and len(rows) == 20
    for start, stop in ((0, 20), (0, 7), (3, 5), (6, 9), (7, 8), (8, 20), (19, 30), (4, 4)):
        assert torch.equal(rows[start:stop].float(), whole[start:stop]), (start, stop)
    assert rows[2:5].data_ptr() == whole[2:5].data_ptr()  # a view
    places = torch.tensor([[19, 0], [7, 8]])
    assert torch.equal(rows.gather(places), whole[places])
    queries = torch.tensor([[1.0, -1.0], [0.5, 0.25]])
    for block_size in (None, 3):
        scores, found = search_rows(queries, rows, 4, block_size=block_size)
        expected = search_rows(queries, whole, 4)
        assert torch.equal(found, expected[1]) and torch.equal(scores, expected[0])


def test_gallery_in_memory_gives_the_same_ranking_as_on_disk(tmp_path):
    retriever, gallery, queries = retriever_of(batch_size=5), make_gallery(), make_queries()
    stored = Gallery.build(gallery, retriever, tmp_path / "g", shard_size=5, quiet=True)
    expected, found = (retriever.search(queries, one, 6, exclude_reference=True) for one in (gallery, stored))
    assert found.gallery_ids == expected.gallery_ids and found.scores == expected.scores
    assert found.candidate_ids == expected.candidate_ids


def test_a_gallery_can_be_moved_with_its_photographs(photos, tmp_path):
    write_photo(tmp_path / "p" / "x.png", 1)
    Gallery.build(tmp_path / "p", retriever_of(), tmp_path / "g", quiet=True)
    (tmp_path / "g").rename(tmp_path / "elsewhere")
    assert Gallery.open(tmp_path / "elsewhere", retriever_of()).search("x.png", "red")[0].id == "x.png"
