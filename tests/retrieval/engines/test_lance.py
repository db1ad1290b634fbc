"""LanceDB between processes: killed builds, readers beside a writer, object storage, and what its users see."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from contextcir.retrieval.engines.base import CANDIDATES
from contextcir.retrieval.engines.lance import LanceIndex
from contextcir.retrieval.filters import parse_filters
from tests.retrieval.engines.rows import DIM, FACTS, IDS, QUERY, VECTORS, ids_of, ladder, unit
from tests.retrieval.engines.services import BUCKET, free_ports

pytest.importorskip("lancedb")

ROOT = Path(__file__).parents[3]
MANY = 20_000  # rows whose index takes some tenths of a second to build

WRITER = """
import sys
from contextcir.retrieval.engines.lance import LanceIndex
from tests.retrieval.engines.rows import unit
where, task = __import__("json").loads(sys.argv[1]), sys.argv[2]
index = LanceIndex(**where, least_rows=50, partitions=200, bits=8)
print("ready", flush=True)
if task == "build":
    index.build()
for start in range(0, {many} if task == "add" else 0, 500):
    index.add([str(row) for row in range(start, start + 500)], unit(500, start))
    print(start, flush=True)
print("done", flush=True)
"""

READER = """
import sys
from contextcir.retrieval.engines.lance import LanceIndex
from contextcir.retrieval.filters import parse_filters
from tests.retrieval.engines.rows import IDS, QUERY, ids_of
index, counts, looks = LanceIndex(**__import__("json").loads(sys.argv[1])), [], 0
print("ready", flush=True)
while not counts or counts[-1] < 1220:
    found, own = index.search(QUERY, 30), index.search(QUERY, 5, parse_filters(["colour!=nothing"]))
    assert ids_of(found)[0][:20] == IDS[:20], found
    assert ids_of(own)[0][:5] == [IDS[row] for row in (0, 1, 3, 5, 6)], own
    for id_, score in found[0][20:]:
        assert id_.startswith("more ") and abs(score - 0.3 + int(id_[5:]) / 1e4) < 1e-5, (id_, score)
    counts.append(len(index))
    looks += 1
assert counts == sorted(counts)
print(looks, len(set(counts)))
"""


def process(code: str, where, *args: str) -> subprocess.Popen:
    """Run code in a process of its own, up to the line `ready`."""
    command = [sys.executable, "-c", code.replace("{many}", str(MANY)), json.dumps(where), *args]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = started.stdout.readline()
    assert line == "ready\n", started.communicate()[1]
    return started


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_the_table_as_it_was(tmp_path):
    where = {"uri": str(tmp_path / "lance")}
    index = LanceIndex(**where, least_rows=50, bits=8, partitions=20)
    index.add([str(row) for row in range(MANY)], 0.5 * unit(MANY, 3))
    index.add(IDS, VECTORS, FACTS)
    killed = 0
    for delay in (0.05, 0.3):
        builder = process(WRITER, where, "build")
        time.sleep(delay)
        builder.send_signal(signal.SIGKILL)
        killed += "done" not in builder.communicate()[0]
        assert len(index) == MANY + 70
        assert ids_of(index.search(QUERY, 3, parse_filters(["colour!=nothing"]))) == [[IDS[0], IDS[1], IDS[3]]]
    assert killed >= 1
    index.build()
    again = LanceIndex(**where)
    assert not again.exact and ids_of(again.search(QUERY, 3)) == [IDS[:3]] and len(again.digests()) == MANY + 70


@pytest.mark.slow
def test_adding_that_is_killed_leaves_whole_batches(tmp_path):
    where = {"uri": str(tmp_path / "lance")}
    for _ in range(2):
        writer = process(WRITER, where, "add")
        for _ in range(4):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        index = LanceIndex(**where)
        assert len(index) % 500 == 0 and last + 500 <= len(index) < MANY
        assert index.digests().keys() == {str(row) for row in range(len(index))}
    assert index.search(unit(500, 500)[:1], 1)[0][0] == ("500", pytest.approx(1))


def add_beside_readers(where) -> None:
    writer = LanceIndex(**where, least_rows=50)
    writer.add(IDS[:20], VECTORS[:20], {"colour": FACTS["colour"][:20]})
    readers = [process(READER, where) for _ in range(2)]
    rows = ladder(QUERY[0], [0.3 - row / 1e4 for row in range(1200)], seed=2)
    for start in range(0, 1200, 200):
        writer.add([f"more {row}" for row in range(start, start + 200)], rows[start : start + 200])
        if start % 400 == 0:
            writer.build()
    for reader in readers:
        out, errors = reader.communicate(timeout=120)
        assert reader.returncode == 0, errors
        looks, counts = map(int, out.split())
        assert looks >= counts > 1  # it saw the table grow


@pytest.mark.slow
def test_two_readers_beside_one_writer(tmp_path):
    add_beside_readers({"uri": str(tmp_path / "lance")})


@pytest.mark.slow
def test_two_readers_beside_one_writer_on_object_storage(storage):
    add_beside_readers({"uri": f"s3://{BUCKET}/readers", "storage_options": storage})


@pytest.mark.slow
def test_keys_may_come_from_the_environment(storage, monkeypatch):
    for name, value in storage.items():
        monkeypatch.setenv(name.upper(), value)
    index = LanceIndex(f"s3://{BUCKET}/environment")
    index.add(IDS, VECTORS)
    assert ids_of(index.search(QUERY, 1)) == [IDS[:1]]
    assert not any(
        secret in str(index.settings) for secret in storage.values() if "key" in secret or "secret" in secret
    )
    with pytest.raises(OSError, match="nowhere"):
        LanceIndex("s3://nowhere/x")


@pytest.mark.slow
def test_storage_that_is_away_is_named():
    keys = {"aws_access_key_id": "who", "aws_secret_access_key": "sesame", "aws_region": "us-east-1"}
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(OSError, match="s3://bucket/x") as error:
        LanceIndex("s3://bucket/x", storage_options=keys | {"aws_endpoint": endpoint, "client_max_retries": "0"})
    assert "sesame" not in str(error.value)


def test_few_rows_are_all_compared(tmp_path):
    index = LanceIndex(tmp_path / "lance", least_rows=71)
    index.add(IDS, VECTORS)
    index.build()
    assert index.exact
    index.add(["another"], unit(1, 9))
    index.build()
    assert not index.exact


@pytest.mark.parametrize("dim", [DIM + 1, DIM + 4])
def test_dimensions_that_are_no_multiple_of_eight(tmp_path, dim):
    index, query = LanceIndex(tmp_path / "lance", least_rows=50), unit(1, dim=dim)
    index.add(IDS, ladder(query[0], [0.9 - row / 100 for row in range(70)]))
    index.build()
    assert not index.exact and ids_of(index.search(query, 4)) == [IDS[:4]]


def test_partitions_that_hold_too_few_are_not_the_end(tmp_path):
    index, rows = LanceIndex(tmp_path / "lance", least_rows=50, nprobes=1, partitions=20), unit(2000, 6)
    index.add([str(row) for row in range(2000)], rows, {"rare": [row % 300 == 0 for row in range(2000)]})
    index.build()
    best = [str(300 * int(row)) for row in (rows[::300] @ QUERY[0]).argsort(descending=True)]
    assert ids_of(index.search(QUERY, 10, parse_filters(["rare=true"]))) == [best]
    assert [len(some) for some in index.search(torch.cat([QUERY, rows[:2]]), 1500)] == [1500] * 3
    assert set(ids_of(index.search(QUERY, 30))[0]) != set(
        ids_of(index.search(QUERY, 1500))[0][:30]
    )  # it looks into few


def test_scores_are_true_although_codes_are_rough(tmp_path):
    index, rows = LanceIndex(tmp_path / "lance", least_rows=50, bits=1, refine=1), unit(2000, 4, dim=64)
    index.add([str(row) for row in range(2000)], rows)
    index.build()
    found = index.search(rows[:3], 3)
    for query, some in zip(rows, found, strict=False):
        assert [score for _, score in some] == pytest.approx(
            [float(rows[int(id_)] @ query) for id_, _ in some], abs=1e-6
        )
    assert [some[0][0] for some in found] == ["0", "1", "2"] and CANDIDATES > 3


def test_searching_prints_nothing(tmp_path, capfd):
    index = LanceIndex(tmp_path / "lance", least_rows=50)
    index.add(IDS, VECTORS, FACTS)
    index.build()
    index.search(QUERY, 3, parse_filters(["colour=red"]))
    assert capfd.readouterr() == ("", "")


def test_settings_open_it_again(tmp_path):
    index = LanceIndex(tmp_path / "lance", "pictures", nprobes=3, refine=5, bits=2, partitions=4, least_rows=60)
    index.add(IDS, VECTORS)
    assert LanceIndex(**index.settings).settings == index.settings and len(LanceIndex(**index.settings)) == 70


@pytest.mark.parametrize("wrong", [{"nprobes": 0}, {"refine": 0}, {"bits": 9}, {"partitions": -1}, {"least_rows": 0}])
def test_settings_out_of_range(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LanceIndex(tmp_path, **wrong)


def test_a_name_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="DROP"):
        LanceIndex(tmp_path, "x'; DROP").add(IDS, VECTORS)
