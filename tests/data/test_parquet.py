"""Parquet files appear in full or not at all, in place of the older ones."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, Value

from contextcir.data import parquet
from contextcir.data.parquet import write_parquet
from tests.tiny_triplets import png

FEATURES = Features({"id": Value("string"), "image": Image()})


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 2)


@pytest.fixture
def old_files(tmp_path):
    """An older split of more shards, another split, and files of other kinds."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train-00000.parquet", "train-00007.parquet", "validation-00000.parquet", "README.md"):
        (folder / name).write_text(f"old {name}")
    return folder


def rows(count, error=None):
    for number in range(count):
        yield {"id": f"r{number}", "image": {"bytes": png(number, (8, 8)), "path": None}}
    if error:
        raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def ids(*paths):
    return [id_ for path in paths for id_ in pq.read_table(path)["id"].to_pylist()]


def test_rows_are_read_as_they_were_written(tmp_path):
    written = write_parquet(rows(5), FEATURES, tmp_path / "new" / "folder", "train")
    assert names(tmp_path / "new" / "folder") == ["train-00000.parquet"]
    read = datasets.load_dataset(str(tmp_path / "new" / "folder"), split="train")
    assert read.features == FEATURES and read["id"] == [f"r{number}" for number in range(5)]
    assert list(read.cast_column("image", Image(decode=False))) == list(rows(5))
    size = (tmp_path / "new" / "folder" / "train-00000.parquet").stat().st_size
    assert (written.rows, written.info.features, written.info.dataset_size) == (5, FEATURES, size)
    assert (written.info.splits["train"].num_examples, written.info.splits["train"].num_bytes) == (5, size)


def test_shards_replace_the_older_ones_of_their_split(old_files, monkeypatch):
    monkeypatch.setattr(parquet, "SHARD_BYTES", 1)
    assert write_parquet(rows(5), FEATURES, old_files, "train").rows == 5
    shards = [f"train-0000{shard}.parquet" for shard in range(3)]
    assert names(old_files) == ["README.md", *shards, "validation-00000.parquet"]
    assert [ids(old_files / name) for name in shards] == [["r0", "r1"], ["r2", "r3"], ["r4"]]
    assert (old_files / "validation-00000.parquet").read_text() == "old validation-00000.parquet"


def test_a_single_file_replaces_the_named_ones(old_files, monkeypatch):
    monkeypatch.setattr(parquet, "SHARD_BYTES", 1)
    replaced = [old_files / "train-00007.parquet", old_files / "validation-00000.parquet"]
    write_parquet(rows(5), FEATURES, old_files, "train", file="all.parquet", replaces=replaced)
    assert names(old_files) == ["README.md", "all.parquet", "train-00000.parquet"]
    assert ids(old_files / "all.parquet") == [f"r{number}" for number in range(5)]


@pytest.mark.parametrize("path", ["data", "link"])
def test_a_file_may_replace_itself(old_files, monkeypatch, path):
    monkeypatch.chdir(old_files.parent)
    Path("link").symlink_to("data")
    old = Path(path, "train-00007.parquet")  # another path to the same file
    write_parquet(rows(3), FEATURES, old_files, "train", file=old.name, replaces=[old])
    assert ids(old_files / old.name) == ["r0", "r1", "r2"]


def test_without_rows_there_is_no_file(old_files):
    written = write_parquet([], FEATURES, old_files, "train")
    assert written.rows == written.info.dataset_size == 0
    assert names(old_files) == ["README.md", "validation-00000.parquet"]


@pytest.mark.parametrize("error", [ValueError("row 5"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("file", [None, "train-00000.parquet"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_interrupted_write_changes_nothing(old_files, monkeypatch, error, file, count):
    monkeypatch.setattr(parquet, "SHARD_BYTES", 1)
    before = {path: path.read_text() for path in old_files.iterdir()}
    with pytest.raises(type(error)):
        write_parquet(rows(count, error), FEATURES, old_files, "train", file=file)
    assert {path: path.read_text() for path in old_files.iterdir()} == before


def test_a_row_of_another_type_changes_nothing(old_files):
    before = names(old_files)
    with pytest.raises(pa.ArrowException, match="int"):
        write_parquet([*rows(3), {"id": 5, "image": None}], FEATURES, old_files, "train")
    assert names(old_files) == before


def test_files_are_hidden_until_all_rows_are_written(old_files):
    def looking():
        yield from rows(3)
        assert [path.name for path in old_files.iterdir() if path.name not in before] == [".train.unfinished"]

    before = names(old_files)
    assert write_parquet(looking(), FEATURES, old_files, "train").rows == 3


def test_leftovers_of_a_killed_program_are_removed(old_files):
    (old_files / ".train.unfinished").mkdir()
    (old_files / ".train.unfinished" / "train-00001.parquet").write_text("half a file")
    write_parquet(rows(3), FEATURES, old_files, "train")
    assert names(old_files) == ["README.md", "train-00000.parquet", "validation-00000.parquet"]


def test_repeated_images_take_almost_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 100)
    content = png(0, (200, 200))
    same = ({"id": str(number), "image": {"bytes": content, "path": None}} for number in range(20))
    assert write_parquet(same, FEATURES, tmp_path, "train").info.dataset_size < 2 * len(content)
