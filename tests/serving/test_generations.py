"""A gallery that changes while it is served."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.store.operations import index_images, remove_images
from contextcir.retrieval.store.sources import FolderSource
from contextcir.serving import served
from tests.serving.world import COUNT, draw, draw_pictures


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Look for a new generation often."""
    monkeypatch.setattr(served, "INTERVAL", 0.05)


@pytest.fixture
def folders(tmp_path, retriever):
    """Pictures and a gallery of their own."""
    pictures = draw_pictures(tmp_path / "pictures")
    Gallery.build(pictures, retriever, tmp_path / "stored", quiet=True)
    return pictures, tmp_path / "stored"


def wait_until(what, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def generation(client) -> int:
    return client.get("/info").json()["generation"]


def test_a_new_generation_is_served(folders, retriever, start):
    pictures, stored = folders
    client = start(Gallery.open(stored, retriever))
    draw("red", "square", 0.9).save(pictures / "square" / "new.png")
    assert client.get("/images/square%2Fnew.png").status_code == 404
    index_images(FolderSource(pictures), retriever, stored, quiet=True)
    wait_until(lambda: generation(client) == 1)
    assert client.get("/info").json()["count"] == COUNT + 1
    assert client.get("/images/square%2Fnew.png").status_code == 200
    answer = client.post("/search", data={"reference": "square/new.png", "k": 100}).json()
    assert answer["generation"] == 1 and len(answer["results"]) == COUNT


def test_searches_go_on_during_the_change(folders, retriever, start, monkeypatch):
    """While the new generation is opened, which may take long, the old one answers."""
    _, stored = folders
    opening, go_on = threading.Event(), threading.Event()

    def reopen():
        opening.set()
        assert go_on.wait(10)
        return Gallery.open(stored, retriever)

    client = start(Gallery.open(stored, retriever), reopen=reopen)
    remove_images(stored, ["circle/red 40.png"])
    assert opening.wait(10)
    for _ in range(3):
        answer = client.post("/search", data={"text": "x", "k": 100}).json()
        assert answer["generation"] == 0 and len(answer["results"]) == COUNT
        assert client.get("/images/circle%2Fred%2060.png").status_code == 200
    go_on.set()
    wait_until(lambda: generation(client) == 1)
    answer = client.post("/search", data={"text": "x", "k": 100}).json()
    assert "circle/red 40.png" not in [one["id"] for one in answer["results"]] and len(answer["results"]) == COUNT - 1


def test_a_picture_that_has_changed(folders, retriever, start):
    """Its thumbnail of the old generation is not shown for the new one."""
    pictures, stored = folders
    client = start(Gallery.open(stored, retriever))
    before = client.get("/images/circle%2Fred%2040.png").content
    draw("blue", "square", 0.7).save(pictures / "circle" / "red 40.png")
    index_images(FolderSource(pictures), retriever, stored, quiet=True)
    wait_until(lambda: generation(client) == 1)
    assert client.get("/images/circle%2Fred%2040.png").content != before


def test_a_new_generation_that_cannot_be_opened(folders, retriever, start, caplog):
    _, stored = folders
    client = start(Gallery.open(stored, retriever))
    manifest = json.loads((stored / "manifest.json").read_text())
    kept = (stored / "manifest.json").read_bytes()
    (stored / "manifest.json").write_text("{")
    wait_until(lambda: client.get("/health").json()["status"] == "stale")
    assert client.post("/search", data={"text": "x"}).json()["generation"] == 0
    manifest["encoder"]["weights"], manifest["generation"] = "those of another model", 1
    (stored / "manifest.json").write_text(json.dumps(manifest))
    time.sleep(0.3)
    assert client.get("/health").json()["status"] == "stale" and generation(client) == 0
    assert client.post("/search", data={"text": "x"}).status_code == 200
    (stored / "manifest.json").write_bytes(kept)
    wait_until(lambda: client.get("/health").json()["status"] == "ok")
    assert len([line for line in caplog.messages if "cannot be opened" in line]) == 1  # once, not every second


def test_a_gallery_that_disappears(folders, retriever, start):
    _, stored = folders
    client = start(Gallery.open(stored, retriever))
    shutil.rmtree(stored)
    time.sleep(0.3)
    assert client.post("/search", data={"text": "x"}).status_code == 200  # it is mapped into memory
    assert client.get("/health").status_code == 200


def test_an_empty_gallery_and_pictures_that_come(folders, retriever, start):
    pictures, stored = folders
    remove_images(stored, list(Gallery.open(stored).ids))
    client = start(Gallery.open(stored, retriever))
    info = client.get("/info").json()
    assert (info["count"], info["columns"], info["examples"]) == (0, [], [])
    assert client.post("/search", data={"text": "x"}).json()["results"] == []
    filters = '[{"column": "colour", "value": "red"}]'
    assert client.post("/search", data={"text": "x", "filters": filters}).json()["results"] == []
    index_images(FolderSource(pictures), retriever, stored, quiet=True)
    wait_until(lambda: client.get("/info").json()["count"] == COUNT)
    assert len(client.post("/search", data={"text": "x", "k": 100}).json()["results"]) == COUNT


def test_a_gallery_of_an_object_in_memory_keeps_its_pictures(tmp_path, start):
    """Such a gallery cannot find its pictures by itself when it is opened again."""
    import torch

    def embed(images):
        return torch.nn.functional.normalize(
            torch.tensor([[*image.resize((1, 1)).getpixel((0, 0)), 1.0] for image in images]), dim=1
        )

    retriever = DenseRetriever(embed, lambda images, texts: embed(images), identity=Identity("colours", "1"))
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    gallery = Gallery.build(Gallery(["a", "b", "c"], images), retriever, tmp_path / "stored", quiet=True)
    client = start(gallery)
    remove = json.loads(Path(tmp_path / "stored" / "manifest.json").read_text())
    remove["generation"] = 1
    (tmp_path / "stored" / "manifest.json").write_text(json.dumps(remove))
    wait_until(lambda: generation(client) == 1)
    assert client.get("/images/a").status_code == 200


def test_the_store_is_only_read(folders, retriever, start):
    """So it may be on a file system that cannot be written to, or be somebody else's."""
    _, stored = folders

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (stored, *stored.rglob("*"))}

    before = state()
    for path in (stored, stored / "shards"):
        path.chmod(0o555)
    try:
        client = start(Gallery.open(stored, retriever))
        assert client.post("/search", data={"text": "x"}).status_code == 200
        assert client.get("/images/circle%2Fred%2040.png").status_code == 200
    finally:
        for path in (stored, stored / "shards"):
            path.chmod(0o755)
    assert state() == before
