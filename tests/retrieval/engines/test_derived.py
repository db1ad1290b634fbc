"""Indexes of a stored gallery: filled, measured, written down, opened, and refused when they are not the gallery's."""

import json
import shutil
from collections import Counter

import pytest
import torch

from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.engines import derived
from contextcir.retrieval.engines.base import RecallReport, VectorIndex
from contextcir.retrieval.engines.derived import build_index, composed_probes, index_names, new_index, open_index
from contextcir.retrieval.engines.exact import ExactIndex
from contextcir.retrieval.filters import parse_filters
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.store.layout import StoreError
from contextcir.retrieval.store.operations import add_images, remove_images
from contextcir.retrieval.store.sources import FolderSource
from tests.retrieval.engines.rows import ids_of
from tests.retrieval.models import Model
from tests.retrieval.store.photos import COUNT, retriever_of, write_photo, write_photos

RETRIEVER = retriever_of()


@pytest.fixture
def photos(tmp_path):
    folder = write_photos(tmp_path / "photos")
    rows = [{"file_name": f"{'ab'[n % 2]}/{n:03d}.png", "number": n, "side": "ab"[n % 2]} for n in range(COUNT)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def gallery(photos, tmp_path):
    return Gallery.build(photos, RETRIEVER, tmp_path / "gallery", shard_size=7, quiet=True)


@pytest.fixture
def settings(request):
    """Settings of each engine, with which it makes an index of so few rows."""

    def of(engine):
        if engine == "postgres":
            return {
                "dsn": request.getfixturevalue("postgres").dsn(password="opensesame"),
                "table": request.node.name[:40],
            }
        if engine == "lancedb":
            pytest.importorskip("lancedb")
        return {"lancedb": {"least_rows": 10}}.get(engine, {})

    return of


def record_of(gallery, name):
    return json.loads((gallery.folder / "indexes" / f"{name}.json").read_text())


class Counting:
    """An index that counts what is added and removed, and may fail after some rows."""

    def __init__(self, index, fail_after=None):
        self.index, self.fail_after, self.added, self.removed = index, fail_after, [], []

    def __getattr__(self, name):
        return getattr(self.index, name)

    def __len__(self):
        return len(self.index)

    def add(self, ids, vectors, facts=None):
        if self.fail_after is not None and len(self.added) >= self.fail_after:
            raise KeyboardInterrupt
        self.added += ids
        self.index.add(ids, vectors, facts)

    def remove(self, ids):
        self.removed += ids
        self.index.remove(ids)


@pytest.mark.parametrize("engine", ["exact", "int8", "binary", "lancedb", "postgres"])
def test_an_index_finds_what_exact_search_finds(gallery, settings, engine):
    index = new_index(gallery, engine, **settings(engine))
    report = build_index(gallery, index)
    assert report == RecallReport(pytest.approx(1, abs=0.02), COUNT)
    record = record_of(gallery, engine)
    assert (
        record["recall"] == pytest.approx(report.recall, abs=1e-4) and record["num_probes"] == COUNT == record["count"]
    )
    assert record["engine"] == engine and record["bytes"] == index.size_in_bytes() and record["seconds"] >= 0
    assert index_names(gallery) == [engine] and "sesame" not in json.dumps(record)
    opened = open_index(Gallery.open(gallery.folder), engine)
    assert isinstance(opened, VectorIndex) and opened.engine == engine and opened.exact == (engine == "exact")
    queries, where = composed_probes(gallery, RETRIEVER)[::10], parse_filters(["side=a", "number>3"])
    for conditions in ((), where):
        wanted = gallery.index.search(queries, 5, conditions)
        found = opened.search(queries, 5, conditions)
        assert sum((Counter(a) & Counter(b)).total() for a, b in zip(ids_of(found), ids_of(wanted), strict=True)) >= 18
    exact = [hit.id for hit in gallery.search("a/004.png", "in red", 4, where={"side": "b"})]
    gallery.index = opened
    assert set(exact[:3]) <= {hit.id for hit in gallery.search("a/004.png", "in red", 5, where={"side": "b"})}
    opened.close()


@pytest.mark.parametrize("engine", ["lancedb", "postgres"])
def test_filling_goes_on_where_it_was_killed(gallery, settings, engine):
    broken = Counting(new_index(gallery, engine, **settings(engine)), fail_after=20)
    with pytest.raises(KeyboardInterrupt):
        build_index(gallery, broken, batch=10)
    assert len(broken.added) == 20
    with pytest.raises(StoreError, match=f"'{engine}'"):
        open_index(gallery, engine)
    again = Counting(new_index(gallery, engine, **settings(engine)))
    build_index(gallery, again, batch=7)
    assert again.added == gallery.ids[20:] and again.removed == []
    assert again.digests() == ExactIndex(gallery.ids, gallery.rows, gallery.facts).digests()
    more = Counting(new_index(gallery, engine, **settings(engine)))
    build_index(gallery, more)
    assert more.added == more.removed == []


@pytest.mark.parametrize("engine", ["int8", "lancedb", "postgres"])
def test_an_index_of_an_earlier_generation_is_refused(gallery, photos, settings, engine):
    build_index(gallery, new_index(gallery, engine, **settings(engine)))
    (photos / "a" / "000.png").unlink()
    write_photo(photos / "a" / "900.png", 900)
    write_photo(photos / "b" / "001.png", 901)  # another picture of that name
    Gallery.build(photos, RETRIEVER, gallery.folder, quiet=True)
    changed = Gallery.open(gallery.folder, RETRIEVER)
    with pytest.raises(StoreError, match=f"'{engine}'.* 0 .* 1 "):
        open_index(changed, engine)
    index = Counting(new_index(changed, engine, **settings(engine)))
    build_index(changed, index if engine != "int8" else index.index)
    if engine != "int8":  # which is made anew
        assert sorted(index.added) == ["a/900.png", "b/001.png"] and index.removed == ["a/000.png"]
    opened = open_index(changed, engine)
    assert len(opened) == COUNT and ids_of(opened.search(changed.rows[COUNT - 1 : COUNT].float(), 1)) == [
        ["a/900.png"]
    ]


def test_a_gallery_that_was_made_anew_has_no_index_either(gallery, photos, tmp_path):
    build_index(gallery, new_index(gallery, "int8"))
    other = Gallery.build(photos, RETRIEVER, tmp_path / "other", shard_size=9, quiet=True)
    shutil.copytree(gallery.folder / "indexes", other.folder / "indexes")
    with pytest.raises(StoreError, match="'int8'"):  # of the same generation, but other shards
        open_index(other, "int8")


class Forgetful(ExactIndex):
    """Finds the worst."""

    engine = "forgetful"
    exact = False

    def search(self, queries, k, where=()):
        return super().search(-queries, k, where)


def test_an_index_that_finds_too_little_is_refused(gallery):
    index = Forgetful(gallery.ids, gallery.rows, gallery.facts)
    build_index(gallery, new_index(gallery, "int8"), name="mine")
    with pytest.raises(ValueError, match=r"recall@10 0\.\d+ .*0\.95"):
        build_index(gallery, index, name="mine")
    with pytest.raises(StoreError, match="'mine'"):
        open_index(gallery, "mine")
    assert index_names(gallery) == []
    assert build_index(gallery, index, name="mine", lowest_recall=0).recall < 0.5
    with pytest.raises(StoreError, match="forgetful"):
        open_index(gallery, "mine")


def test_recall_needs_the_retriever_of_the_gallery(gallery):
    without = Gallery.open(gallery.folder)
    with pytest.raises(ValueError, match="retriever"):
        build_index(without, new_index(without, "int8"))
    with pytest.raises(StoreError, match="tiny"):
        build_index(without, new_index(without, "int8"), retriever=retriever_of(Model(seed=1)))
    assert build_index(without, new_index(without, "int8"), retriever=RETRIEVER).num_probes == COUNT


def test_probes_are_images_of_the_gallery_with_texts(gallery, photos, monkeypatch):
    asked = []

    def encode_queries(images, texts):
        asked.extend(texts)
        return RETRIEVER.encode_queries(images, texts)

    spy = DenseRetriever(RETRIEVER.encode_images, encode_queries, identity=RETRIEVER.identity, batch_size=3)
    texts = (derived.Path(derived.__file__).with_name("probes.txt")).read_text().splitlines()
    assert 35 <= len(texts) == len(set(texts)) and all(text == text.strip() != "" for text in texts)
    probes = composed_probes(gallery, spy, most=8)
    images = [gallery.image(id_) for id_ in gallery.ids[::5]]
    assert len(gallery.ids[::5]) == 8 and asked == texts[:8]
    assert torch.allclose(probes, RETRIEVER.embed_queries(images, texts[:8]), atol=1e-6)
    (photos / gallery.ids[5]).unlink()
    asked.clear()
    assert len(composed_probes(gallery, spy, most=8)) == 7 == len(set(asked))
    assert len(composed_probes(gallery, spy)) == COUNT - 1
    shutil.rmtree(photos)
    with pytest.raises(StoreError, match="none can be read"):
        composed_probes(gallery, spy)


def test_queries_in_parts_are_for_engines_that_take_them(gallery, settings):
    def encode_queries(images, texts):
        return torch.stack([RETRIEVER.encode_queries(images, texts)] * 2, dim=1)

    parts = DenseRetriever(RETRIEVER.encode_images, encode_queries, identity=RETRIEVER.identity)
    index = Counting(new_index(gallery, "lancedb", **settings("lancedb")))
    with pytest.raises(ValueError, match="2 parts"):
        build_index(gallery, index, retriever=parts)
    assert index.added == []  # it shows before the work
    assert build_index(gallery, new_index(gallery, "int8"), retriever=parts).recall > 0.95


def test_an_index_in_the_folder_moves_with_it(gallery, tmp_path, settings):
    build_index(gallery, new_index(gallery, "lancedb", **settings("lancedb")))
    assert record_of(gallery, "lancedb")["settings"]["uri"] == "indexes/lancedb"
    shutil.move(gallery.folder, tmp_path / "elsewhere")
    moved = Gallery.open(tmp_path / "elsewhere")
    assert len(open_index(moved, "lancedb", nprobes=5)) == COUNT
    assert open_index(moved, "lancedb", nprobes=5).nprobes == 5
    outside = new_index(moved, "lancedb", uri=str(tmp_path / "outside"), least_rows=10)
    build_index(moved, outside, name="second", retriever=RETRIEVER)
    assert record_of(moved, "second")["settings"]["uri"] == str(tmp_path / "outside")
    assert index_names(moved) == ["lancedb", "second"] and len(open_index(moved, "second")) == COUNT


def test_keys_are_not_written_down(gallery, tmp_path, settings):
    settings("lancedb")
    keys = {"aws_secret_access_key": "opensesame"}
    build_index(gallery, new_index(gallery, "lancedb", uri=tmp_path / "lance", storage_options=keys))
    assert "sesame" not in (gallery.folder / "indexes" / "lancedb.json").read_text()
    assert len(open_index(gallery, "lancedb", storage_options=keys)) == COUNT


def test_an_index_with_other_rows_is_refused(gallery, settings):
    index = new_index(gallery, "lancedb", **settings("lancedb"))
    build_index(gallery, index)
    index.remove(gallery.ids[:1])
    with pytest.raises(StoreError, match=f"{COUNT - 1} rows.*{COUNT}"):
        open_index(gallery, "lancedb")
    index.add(gallery.ids[:1], gallery.rows[:1].float())  # without its facts
    with pytest.raises(StoreError, match="other rows"):
        open_index(gallery, "lancedb")
    build_index(gallery, index)
    assert len(open_index(gallery, "lancedb")) == COUNT


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"version": 1}', b'{"version": 2}', b"{", b'{"version": 1, "x": 2}']
)
def test_a_damaged_record_is_named(gallery, content):
    build_index(gallery, new_index(gallery, "int8"))
    path = gallery.folder / "indexes" / "int8.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="int8.json"):
        open_index(gallery, "int8")
    build_index(gallery, new_index(gallery, "int8"))
    (gallery.folder / "indexes" / "int8.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="int8.safetensors"):
        open_index(gallery, "int8")


def test_what_is_not_there_is_named(gallery):
    with pytest.raises(StoreError, match="'int8'.*exact"):
        open_index(gallery, "int8")
    for name in ("../int8", "", "a/b", "-x", "a" * 65):
        with pytest.raises(ValueError, match="name"):
            open_index(gallery, name)
    with pytest.raises(ValueError, match="'qdrant'.*lancedb"):
        new_index(gallery, "qdrant")
    with pytest.raises(ValueError, match="speed"):
        new_index(gallery, "int8", speed=3)
    with pytest.raises(ValueError, match="batch"):
        build_index(gallery, new_index(gallery, "int8"), batch=0)
    assert open_index(gallery, "exact").exact


def test_exact_search_of_a_changed_gallery(gallery, photos, tmp_path):
    """What `add` and `remove` of the store do shows in the next index, too."""
    remove_images(gallery.folder, gallery.ids[:3])
    write_photo(tmp_path / "more" / "new.png", 77)
    add_images(gallery.folder, FolderSource(tmp_path / "more"), RETRIEVER, quiet=True)
    changed = Gallery.open(gallery.folder, RETRIEVER)
    build_index(changed, new_index(changed, "binary"))
    found = open_index(changed, "binary").search(changed.rows[0 : len(changed)].float(), 1)
    assert [some[0][0] for some in found] == changed.ids and "new.png" in changed.ids and len(changed) == COUNT - 2


def test_another_identity_is_another_gallery(gallery):
    stranger = DenseRetriever(RETRIEVER.encode_images, RETRIEVER.encode_queries, identity=Identity("stranger"))
    with pytest.raises(StoreError, match="stranger"):
        build_index(gallery, new_index(gallery, "int8"), retriever=stranger)
