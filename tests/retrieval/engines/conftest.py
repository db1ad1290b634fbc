"""Places where an index can be: in memory, in a folder, on a real object storage, in a real PostgreSQL."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from contextcir.retrieval.engines.base import VectorIndex
from contextcir.retrieval.engines.exact import ExactIndex
from contextcir.retrieval.engines.quantised import QuantisedIndex
from tests.retrieval.engines import services

LASTING = ["lancedb", pytest.param("lancedb-s3", marks=pytest.mark.slow), "postgres"]
ENGINES = ["exact", "int8", "binary", *LASTING]


@contextmanager
def or_skip(server) -> Iterator:
    try:
        with server() as running:
            yield running
    except services.MissingServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres():
    """A running PostgreSQL, see [`services.Postgres`]."""
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    with or_skip(services.postgres) as server:
        yield server


@pytest.fixture(scope="session")
def storage():
    """Storage options of a running object storage."""
    pytest.importorskip("lancedb")
    with or_skip(services.object_storage) as options:
        yield options


@dataclass
class Place:
    """Where an index is: `open` opens it, empty at first."""

    engine: str
    open: Callable[..., VectorIndex]


@pytest.fixture
def place(request, tmp_path) -> Place:
    """A new place, of the engine that a test is parametrised by."""
    name, table = request.param, f"t{uuid.uuid4().hex}"
    if name == "postgres":
        dsn = request.getfixturevalue("postgres").dsn()  # or skips, before what may not be there is imported
        from contextcir.retrieval.engines.postgres import PostgresIndex

        opened = []
        yield Place(name, lambda **options: opened.append(PostgresIndex(dsn, table, **options)) or opened[-1])
        for index in opened:
            index.close()
    elif name.startswith("lancedb"):
        pytest.importorskip("lancedb")
        from contextcir.retrieval.engines.lance import LanceIndex

        where = {"uri": tmp_path / "lance"}
        if name == "lancedb-s3":
            where = {"uri": f"s3://{services.BUCKET}/{table}", "storage_options": request.getfixturevalue("storage")}
        yield Place(name, lambda **options: LanceIndex(**where, **{"least_rows": 50} | options))
    elif name == "exact":
        yield Place(name, ExactIndex)
    else:
        yield Place(name, lambda **options: QuantisedIndex(name, **options))


@pytest.fixture
def index(place) -> VectorIndex:
    """An empty index of each engine."""
    return place.open()
