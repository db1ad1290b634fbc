"""A stored gallery of 36 drawn pictures, embedded by a tiny model."""

import pytest
from starlette.testclient import TestClient

from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.serving import create_app
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.serving.world import draw_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The folder of the pictures, with `metadata.csv`."""
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def retriever(run):
    """A tiny model that embeds pictures and queries."""
    return DenseRetriever.from_model(
        ContextCIRModel.from_pretrained(run).eval(), ContextCIRProcessor.from_pretrained(run), batch_size=16
    )


@pytest.fixture(scope="session")
def stored(pictures, retriever, tmp_path_factory):
    """The folder of the gallery."""
    folder = tmp_path_factory.mktemp("stored") / "shapes"
    Gallery.build(pictures, retriever, folder, quiet=True)
    return folder


@pytest.fixture
def gallery(stored, retriever):
    """The gallery, open for search."""
    return Gallery.open(stored, retriever)


@pytest.fixture
def start():
    """Make a client of an application that is running: `start(gallery, settings=...)`."""
    clients = []

    def make(gallery, **options):
        client = TestClient(create_app(gallery, **options), base_url="http://127.0.0.1")
        clients.append(client)
        return client.__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(gallery, start):
    """A client of a server of the gallery with the default settings."""
    return start(gallery)
