"""Search over HTTP: what is found, what is refused, and what the answers say."""

import json
import math
import re

import pytest
import torch

from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.identity import Identity
from contextcir.serving import Settings
from tests.serving.world import COUNT, draw, png

REFERENCE = "circle/red 40.png"


def ids(response) -> list[str]:
    assert response.status_code == 200, response.text
    return [result["id"] for result in response.json()["results"]]


def error(response, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert response.json()["error"].endswith(".") and response.json()["error"][0].isupper() or status == 422
    return response.json()["error"]


def test_the_results_are_those_of_the_gallery(client, gallery):
    form = {"text": "make it blue", "reference": REFERENCE, "k": 7}
    answer = client.post("/search", data=form).json()
    hits = gallery.search(REFERENCE, "make it blue", 7, exclude=[REFERENCE])
    assert [result["id"] for result in answer["results"]] == [hit.id for hit in hits]
    assert [result["rank"] for result in answer["results"]] == list(range(1, 8))
    for result, hit in zip(answer["results"], hits, strict=True):
        assert result["score"] == pytest.approx(hit.score, abs=1e-5)
        assert result["facts"] == hit.facts
    assert set(answer["milliseconds"]) == {"read", "queue", "embed", "search"}
    assert answer["milliseconds"]["embed"] > 0 and answer["generation"] == 0


def test_an_upload_is_the_picture_that_it_holds(client, gallery):
    upload = {"upload": ("anything.png", png(draw("green", "square", 0.6)))}
    found = ids(client.post("/search", files=upload, data={"k": 1}))
    assert found == ["square/green 60.png"]  # the same picture is in the gallery, and not left out
    assert ids(client.post("/search", data={"reference": found[0], "k": 100})) == [
        hit.id for hit in gallery.search(found[0], k=100, exclude=found)
    ]


def test_halves_of_a_query(client, gallery):
    form = {"text": "a red circle", "reference": REFERENCE, "k": 5}
    image = ids(client.post("/search", data=form | {"mode": "image"}))
    text = ids(client.post("/search", data=form | {"mode": "text"}))
    assert image == [hit.id for hit in gallery.search(REFERENCE, k=5, exclude=[REFERENCE])]
    assert text == [hit.id for hit in gallery.search(None, "a red circle", 5)]
    assert ids(client.post("/search", data={"text": "a red circle", "k": 5})) == text  # without a reference


def test_the_weight_of_the_image(client, gallery):
    form = {"text": "make it blue", "reference": REFERENCE, "image_weight": 0.8}
    scores = [result["score"] for result in client.post("/search", data=form).json()["results"]]
    hits = gallery.search(REFERENCE, "make it blue", 20, image_weight=0.8, exclude=[REFERENCE])
    assert scores == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert scores != pytest.approx([hit.score for hit in gallery.search(REFERENCE, "make it blue", 20)], abs=1e-3)


def test_filters(client):
    def count(*conditions) -> int:
        return len(ids(client.post("/search", data={"text": "x", "k": 100, "filters": json.dumps(conditions)})))

    red = {"column": "colour", "operator": "=", "value": "red"}
    assert count() == COUNT
    assert count(red) == 9
    assert count(red | {"value": ["red", "blue"]}) == 18
    assert count(red | {"operator": "!="}) == 27
    assert count(red, {"column": "size", "operator": ">", "value": 40}) == 6
    assert count({"column": "price", "operator": ">=", "value": 0}) == 1  # the others have no price
    assert count({"column": "size", "operator": "<", "value": 0}) == 0
    bad = client.post("/search", data={"text": "x", "filters": json.dumps([red | {"column": "weight"}])})
    assert "'weight'" in error(bad, 422) and "colour, price, shape, size" in error(bad, 422)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"k": 5}, "a reference image, a text, or both"),
        ({"text": "  "}, "a reference image, a text, or both"),
        ({"text": "x", "mode": "image"}, "a reference image"),
        ({"reference": REFERENCE, "mode": "text"}, "a text"),
        ({"text": "x" * 501}, "500"),
        ({"text": "x", "k": "0"}, "k: .*1"),
        ({"text": "x", "k": "101"}, "k: .*100"),
        ({"text": "x", "k": "many"}, "k: .*integer"),
        ({"text": "x", "mode": "both"}, "mode: .*composed"),
        ({"text": "x", "image_weight": "1.1"}, "image_weight"),
        ({"text": "x", "image_weight": "nan"}, "image_weight"),
        ({"text": "x", "colour": "red"}, "'colour'"),
        ({"text": "x", "filters": "{"}, "filters: .*JSON"),
        ({"text": "x", "filters": "{}"}, "filters: .*list"),
        ({"text": "x", "filters": '[{"column": "size", "operator": "~", "value": 1}]'}, "operator"),
        ({"text": "x", "filters": '[{"column": "size", "operator": "<", "value": [1]}]'}, "one value"),
        ({"text": "x", "filters": '[{"column": "size", "value": []}]'}, "filters"),
        ({"text": "x", "filters": '[{"column": "size", "value": NaN}]'}, "filters"),
    ],
)
def test_forms_that_cannot_be_used(client, form, message):
    assert re.search(message, error(client.post("/search", data=form), 422))


def test_references_that_cannot_be_used(client):
    assert "../../etc/passwd" in error(client.post("/search", data={"reference": "../../etc/passwd"}), 404)
    both = client.post(
        "/search", data={"reference": REFERENCE}, files={"upload": ("a.png", png(draw("red", "square", 1)))}
    )
    assert "not both" in error(both, 422)


def test_other_bodies_are_refused(client):
    assert "multipart/form-data" in error(client.post("/search", json={"text": "x"}), 415)
    headers = {"Content-Type": "multipart/form-data"}
    assert "boundary" in error(client.post("/search", content=b"x", headers=headers), 400)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert error(client.post("/search", content=b"--y\r\n", headers=headers), 400)
    twice = "text=a&text=b"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert "'text'" in error(client.post("/search", content=twice, headers=headers), 422)
    assert ids(client.post("/search", content="text=a+red+circle&k=2", headers=headers))


def test_what_is_at_other_addresses(client):
    assert "nothing" in error(client.get("/nothing"), 404)
    assert "method" in error(client.get("/search"), 405)
    assert error(client.post("/rerank", data={"text": "x", "ids": "[]"}), 404)  # there are no chat servers
    assert error(client.post("/phrases", data={"text": "x"}), 404)
    assert error(client.get("/info?seed=x"), 422)


def test_facts_that_json_does_not_have(client, gallery):
    gallery.facts["size"][gallery.positions[REFERENCE]] = math.nan
    form = {"text": "x", "k": 100, "filters": '[{"column": "colour", "value": "red"}]'}
    results = client.post("/search", data=form).json()["results"]
    assert {result["id"]: result["facts"]["size"] for result in results}[REFERENCE] is None


def test_info(client):
    info = client.get("/info").json()
    assert (info["name"], info["count"], info["bad"], info["generation"]) == ("shapes", COUNT, 0, 0)
    assert "/" not in info["model"]  # the last part of a local folder
    columns = {column["name"]: column for column in info["columns"]}
    assert list(columns) == ["colour", "price", "shape", "size"]
    assert {one["value"]: one["count"] for one in columns["colour"]["choices"]} == dict.fromkeys(
        ["red", "blue", "green", "yellow"], 9
    )
    assert (columns["size"]["kind"], columns["size"]["least"], columns["size"]["most"]) == ("number", 40, 80)
    assert columns["size"]["whole"] and not columns["price"]["whole"]
    assert info["capabilities"] == {"phrases": False, "attention": False, "rerank": False}
    assert info["limits"] == {"upload_bytes": 10_000_000, "pixels": 50_000_000, "text": 500, "k": 100}
    first = [one["id"] for one in info["examples"]]
    assert len(first) == len(set(first)) == 12
    assert [one["id"] for one in client.get("/info").json()["examples"]] == first
    assert [one["id"] for one in client.get("/info?seed=5").json()["examples"]] != first


def test_examples_of_the_gallery(gallery, start):
    client = start(gallery, examples=[(REFERENCE, "make it blue"), ("gone.png", "x")])
    assert client.get("/info").json()["examples"] == [{"id": REFERENCE, "text": "make it blue"}]
    assert len(client.get("/info?seed=1").json()["examples"]) == 12  # others, at random


def test_the_documentation(client):
    api = client.get("/openapi.json").json()
    assert set(api["paths"]) == {"/search", "/images/{id}", "/info", "/health", "/metrics"}
    search = api["paths"]["/search"]["post"]
    form = search["requestBody"]["content"]["multipart/form-data"]
    assert set(form["schema"]["properties"]) == {
        *("text", "reference", "upload", "k", "mode", "image_weight", "filters")
    }
    assert {"200", "401", "413", "422", "429"} <= set(search["responses"])
    for example in form["examples"].values():
        assert client.post("/search", data=example["value"] | {"reference": REFERENCE}).status_code in (200, 422)
        assert set(example["value"]) <= set(form["schema"]["properties"])


def test_a_model_that_is_not_ours(pictures, tmp_path, start):
    """Two functions are enough: mean colours, and a text that names one."""
    colours = {"red": (1.0, 0.2, 0.2), "blue": (0.2, 0.4, 1.0)}

    def embed(image):
        pixels = torch.frombuffer(bytearray(image.resize((4, 4)).tobytes()), dtype=torch.uint8).float()
        return torch.nn.functional.normalize(pixels.view(-1, 3).mean(dim=0) - 110, dim=0)

    def queries(images, texts):
        wanted = [colours.get(text) for text in texts]
        pairs = zip(images, wanted, strict=True)
        return torch.stack([torch.tensor(one) - 0.5 if one else embed(image) for image, one in pairs])

    retriever = DenseRetriever(
        lambda images: torch.stack(list(map(embed, images))), queries, identity=Identity("colours", "1")
    )
    gallery = Gallery.build(pictures, retriever, tmp_path / "colours", quiet=True)
    client = start(gallery)
    assert client.get("/info").json()["model"] == "colours"
    assert all("/blue " in id_ for id_ in ids(client.post("/search", data={"text": "blue", "k": 3})))
    upload = {"upload": ("a.png", png(draw("red", "square", 0.8)))}
    assert ids(client.post("/search", files=upload, data={"k": 1})) == ["square/red 80.png"]


def test_a_gallery_without_retriever(stored):
    from contextcir.serving import create_app

    with pytest.raises(ValueError, match=r"Gallery\.open\(folder, retriever\)"):
        create_app(Gallery.open(stored))


def test_settings_that_cannot_be():
    for wrong in ({"queue": 0}, {"batch": 0}, {"wait": 2.0}, {"upload_seconds": 0}, {"token": "short"}):
        with pytest.raises(ValueError, match="expected|at least"):
            Settings(**wrong)
