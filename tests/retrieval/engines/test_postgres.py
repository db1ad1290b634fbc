"""PostgreSQL: a server that is away, that comes back, that lacks pgvector; what users see of passwords: nothing."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from contextcir.retrieval.filters import parse_filters
from tests.retrieval.engines.rows import FACTS, IDS, QUERY, SCORES, VECTORS, ids_of, unit
from tests.retrieval.engines.services import free_ports

psycopg = pytest.importorskip("psycopg")
PostgresIndex = pytest.importorskip("contextcir.retrieval.engines.postgres", exc_type=ImportError).PostgresIndex
ROOT = Path(__file__).parents[3]
SECRET = "open sesame"


def test_a_server_that_is_away_is_named_without_the_password():
    (port,) = free_ports(1)
    with pytest.raises(ConnectionError) as error:
        PostgresIndex(f"postgresql://ali:{SECRET.replace(' ', '%20')}@127.0.0.1:{port}/photos")
    text = "".join(map(str, [error.value, error.value.__cause__]))
    assert "127.0.0.1" in text and str(port) in text and "sesame" not in text


@pytest.mark.parametrize(
    "dsn", [f"host=x 'password={SECRET}", f"postgresql://ali:{SECRET}%zz@h/d", f"pasword={SECRET}", "port"]
)
def test_a_dsn_that_cannot_be_read_is_not_shown(dsn):
    with pytest.raises(ValueError) as error:
        PostgresIndex(dsn)
    assert "DSN" in str(error.value) and "sesame" not in str(error.value) and error.value.__suppress_context__


def test_settings_hold_no_password(postgres):
    index = PostgresIndex(postgres.dsn(password="opensesame"), "settings", ef_search=77, links=8)
    index.add(IDS, VECTORS)
    assert "sesame" not in str(index.settings) and index.settings["ef_search"] == 77
    again = PostgresIndex(**index.settings)
    assert again.settings == index.settings and len(again) == 70


def test_a_database_without_pgvector(postgres):
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("CREATE DATABASE bare")
    with pytest.raises(ValueError, match="CREATE EXTENSION vector"):
        PostgresIndex(postgres.dsn("bare", "guest"))
    assert len(PostgresIndex(postgres.dsn("bare"))) == 0  # who may, creates it
    reader = PostgresIndex(postgres.dsn("bare", "guest"))
    with pytest.raises(ValueError, match="permission denied"):
        reader.add(IDS, VECTORS)


@pytest.mark.slow
def test_a_server_that_is_started_again(postgres):
    index = PostgresIndex(postgres.dsn(), "again")
    index.add(IDS, VECTORS, FACTS)
    postgres.stop()
    with pytest.raises(ConnectionError, match="127.0.0.1"):
        index.search(QUERY, 1)
    postgres.restart()
    assert ids_of(index.search(QUERY, 2)) == [IDS[:2]]
    index.add(IDS[:1], -VECTORS[:1])
    assert ids_of(index.search(QUERY, 1)) == [IDS[1:2]]


def test_more_threads_than_connections(postgres):
    index = PostgresIndex(postgres.dsn(), "threads", connections=2)
    index.add(IDS, VECTORS)
    index.build()
    errors = []

    def look():
        for _ in range(20):
            if ids_of(index.search(QUERY, 3)) != [IDS[:3]]:
                errors.append("other results")

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with psycopg.connect(postgres.dsn()) as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%threads%' AND pid != pg_backend_pid()"
        assert connection.execute(asked).fetchone()[0] <= 2


def test_filters_find_what_the_index_gives_up_on(postgres):
    PostgresIndex(postgres.dsn(), "narrow").add(["first"], unit(1, 8))
    options = "-c hnsw.max_scan_tuples=1 -c enable_seqscan=off -c enable_bitmapscan=off"
    index = PostgresIndex(f"{postgres.dsn()}?options={options.replace(' ', '%20').replace('=', '%3D')}", "narrow")
    rows = unit(3000, seed=6)
    index.add([str(row) for row in range(3000)], rows, {"rare": [row % 700 == 0 for row in range(3000)]})
    index.build()
    best = [str(700 * int(row)) for row in (rows[::700] @ QUERY[0]).argsort(descending=True)]
    assert ids_of(index.search(QUERY, 4, parse_filters(["rare=true"]))) == [best[:4]]
    assert len(index.search(QUERY, 10, parse_filters(["rare=true"]))[0]) == 5
    assert len(index.search(QUERY, 2000)[0]) == 2000  # more than its candidates


def test_the_index_is_used(postgres):
    index = PostgresIndex(postgres.dsn(), "used", ef_search=40, links=16)  # more would cost more than all small rows
    index.add([str(row) for row in range(3000)], unit(3000))
    before = scans(postgres, "used_hnsw")
    index.build()
    for _ in range(3):
        index.search(QUERY, 3)
    index.close()
    end = time.monotonic() + 20  # the server counts a little later
    while scans(postgres, "used_hnsw") < 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert before is None and scans(postgres, "used_hnsw") == 3


def scans(postgres, name):
    with psycopg.connect(postgres.dsn()) as connection:
        found = connection.execute("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s", [name])
        row = found.fetchone()
        return row and row[0]


def test_scores_are_those_of_float16(postgres):
    index = PostgresIndex(postgres.dsn(), "scores")
    index.add(IDS, VECTORS)
    found = index.search(QUERY, 70)[0]
    assert [score for _, score in found] == pytest.approx(SCORES, abs=1e-3)
    halves = {id_: float(row.half().float() @ QUERY[0].half().float()) for id_, row in zip(IDS, VECTORS, strict=True)}
    assert dict(found) == pytest.approx(halves, abs=1e-5)


def test_numbers_beyond_float16_are_named(postgres):
    vectors = VECTORS[:3].clone()
    vectors[2, 5] = -70000
    with pytest.raises(ValueError, match=f"2.*{IDS[2]}.*65504"):
        PostgresIndex(postgres.dsn(), "high").add(IDS[:3], vectors)


@pytest.mark.parametrize("table", ["", "a\0b", "a%sb", "ä" * 25])
def test_names_that_are_none(table):
    with pytest.raises(ValueError, match="table"):
        PostgresIndex("postgresql://localhost", table)


def test_texts_that_postgresql_cannot_hold(postgres):
    index = PostgresIndex(postgres.dsn(), "texts")
    for ids, facts in [(["a\0b"], {}), (["x"], {"colour": ["a\0b"]})]:
        with pytest.raises(ValueError, match="texts|0x00|u0000|NUL"):
            index.add(ids, VECTORS[:1], facts)
    assert len(index) == 0


@pytest.mark.parametrize("wrong", [{"ef_search": 0}, {"ef_search": 1001}, {"connections": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PostgresIndex("postgresql://localhost", **wrong)


def test_build_memory_reaches_the_server(postgres):
    index = PostgresIndex(postgres.dsn(), "memory", build_memory="many")
    index.add(IDS, VECTORS)
    with pytest.raises(ValueError, match="maintenance_work_mem"):
        index.build()
    assert index.exact
    PostgresIndex(postgres.dsn(), "memory", build_memory="32MB").build()
    assert not index.exact


@pytest.mark.slow
def test_a_build_that_is_killed(postgres):
    index = PostgresIndex(postgres.dsn(), "killed")
    index.add([str(row) for row in range(8000)], unit(8000, dim=64))
    code = "import sys; from contextcir.retrieval.engines.postgres import PostgresIndex\n"
    code += "index = PostgresIndex(sys.argv[1], 'killed'); print('ready', flush=True); index.build(); print('done')"
    command = [sys.executable, "-c", code, postgres.dsn()]
    builder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert builder.stdout.readline() == "ready\n"
    time.sleep(0.3)
    builder.send_signal(signal.SIGKILL)
    assert "done" not in builder.communicate()[0]
    query = unit(8000, dim=64)[:1]
    assert index.search(query, 1)[0][0][0] == "0"
    index.build()
    assert not index.exact and len(index) == 8000
    assert index.search(query, 1)[0][0] == ("0", pytest.approx(1, abs=1e-3))
    assert torch.equal(query, unit(8000, dim=64)[:1])
