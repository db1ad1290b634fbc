"""Changing a stored gallery: update, add, remove, merge, verify; kills, and readers meanwhile."""

import shutil

import pytest
import torch

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.store.build import Build, Worker
from contextcir.retrieval.store.changes import faults, merge
from contextcir.retrieval.store.layout import Plan, StoreError
from contextcir.retrieval.store.operations import add_images, index_images, remove_images
from contextcir.retrieval.store.sources import FolderSource
from tests.retrieval.models import make_images
from tests.retrieval.store.photos import COUNT, CountingModel, Named, contents, retriever_of, write_photo, write_photos


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def folder(photos, tmp_path):
    index(photos, tmp_path / "gallery")
    return tmp_path / "gallery"


def index(photos, folder, model=None, **options):
    options = {"shard_size": 8, "worker": Worker(), "quiet": True} | options
    return index_images(FolderSource(photos), retriever_of(model), folder, **options)


def embeds_of(gallery):
    return {id_: gallery.rows[place : place + 1][0] for place, id_ in enumerate(gallery.ids)}


def check_against_a_new_build(photos, folder, tmp_path):
    """Ids and embeddings are those of a new build, in any order. The last bit depends on the batch."""
    index(photos, tmp_path / "new")
    expected, found = embeds_of(Gallery.open(tmp_path / "new")), embeds_of(Gallery.open(folder))
    assert found.keys() == expected.keys()
    for id_, embed in expected.items():
        assert torch.allclose(found[id_], embed, atol=1e-6), id_


def test_update_embeds_only_what_is_new_or_has_changed(photos, folder, tmp_path):
    before = contents(folder)
    (photos / "a" / "000.png").unlink()
    write_photo(photos / "b" / "013.png", 1013)
    write_photo(photos / "c" / "new.png", 2000)
    shutil.copy(photos / "b" / "001.png", photos / "c" / "copy.png")  # known by its content
    model = CountingModel()
    outcome = index(photos, folder, model)
    change = outcome.change
    assert (change.new, change.changed, change.removed) == (["c/copy.png", "c/new.png"], {"b/013.png"}, {"a/000.png"})
    assert model.embedded == outcome.embedded == 2
    check_against_a_new_build(photos, folder, tmp_path)
    after = contents(folder)
    kept = {name for name in after if after[name] == before.get(name) and name.startswith("shards")}
    assert kept == {f"shards/0000{number}.safetensors" for number in (1, 2, 4)}  # a/000 was in 0, b/013 in 3
    assert "shards/00000.safetensors" not in after and len(after) == 2 + 6


def test_nothing_to_do(photos, folder):
    before, model = contents(folder), CountingModel()
    outcome = index(photos, folder, model)
    assert not outcome.change and model.embedded == 0 and contents(folder) == before


def test_facts_change_without_embedding(photos, folder):
    (photos / "metadata.csv").write_text("file_name,price\na/000.png,12\nb/001.png,7.5\n")
    model = CountingModel()
    assert index(photos, folder, model).change.changed == {"a/000.png", "b/001.png"} and model.embedded == 0
    assert Gallery.open(folder).facts_of("b/001.png") == {"price": 7.5}
    assert Gallery.open(folder).facts_of("a/002.png") == {"price": None}
    assert not index(photos, folder, model).change


def test_an_unreadable_image_is_tried_again_after_it_was_mended(photos, folder):
    (photos / "a" / "002.png").write_bytes(b"x")
    assert index(photos, folder).manifest.bad.keys() == {"a/002.png"}
    assert not index(photos, folder).change
    write_photo(photos / "a" / "002.png", 2)
    outcome = index(photos, folder)
    assert outcome.manifest.bad == {} and outcome.embedded <= 1 and len(Gallery.open(folder)) == COUNT


def test_add_and_remove(photos, folder, tmp_path):
    more = tmp_path / "more"
    for number in range(3):
        write_photo(more / f"more{number}.png", 500 + number)
    model = CountingModel()
    outcome = add_images(folder, FolderSource(more), retriever_of(model), quiet=True)
    assert outcome.embedded == model.embedded == 3 and outcome.manifest.count == COUNT + 3
    gallery = Gallery.open(folder, retriever_of())
    assert gallery.ids[-3:] == ["more0.png", "more1.png", "more2.png"]
    assert gallery.image("more1.png").size == gallery.image("a/000.png").size == (8, 8)
    (photos / "b" / "005.png").unlink()  # its row is copied: nothing is read
    remove_images(folder, ["more0.png", "a/004.png"])
    assert Gallery.open(folder).ids == [id_ for id_ in gallery.ids if id_ not in ("more0.png", "a/004.png")]
    with pytest.raises(StoreError, match="a/004.png"):
        remove_images(folder, ["a/004.png"])
    assert add_images(folder, FolderSource(more), retriever_of(model), quiet=True).change.new == ["more0.png"]


def test_remove_all(photos, folder):
    remove_images(folder, Gallery.open(folder).ids)
    gallery = Gallery.open(folder, retriever_of())
    assert len(gallery) == 0 and gallery.search(make_images(1)[0], "red") == []
    assert index(photos, folder).manifest.count == COUNT


@pytest.mark.parametrize("moment", ["after the plan", "in mid-shard", "before the manifest"])
def test_an_interrupted_update_goes_on_and_readers_keep_the_old_gallery(photos, folder, tmp_path, moment, monkeypatch):
    write_photo(photos / "a" / "000.png", 1000)
    (photos / "b" / "001.png").unlink()
    for number in range(10):
        write_photo(photos / "c" / f"{number}.png", 3000 + number)
    shutil.copytree(folder, tmp_path / "uninterrupted")
    index(photos, tmp_path / "uninterrupted")
    reader = Gallery.open(folder)
    old = {id_: embed.clone() for id_, embed in embeds_of(reader).items()}

    def stop(*args):
        raise KeyboardInterrupt

    shards = []

    def stop_at_the_second(self, plan, shard, *rest):
        shards.append(shard)
        return stop() if len(shards) == 2 else encode_shard(self, plan, shard, *rest)

    encode_shard = Build._encode_shard
    target = {"after the plan": ("encode", stop), "in mid-shard": ("_encode_shard", stop_at_the_second)}
    monkeypatch.setattr(Build, *target.get(moment, ("finish", stop)))
    with pytest.raises(KeyboardInterrupt):
        index(photos, folder)
    monkeypatch.undo()
    assert Plan.read(folder).generation == 1
    assert Gallery.open(folder).manifest.generation == 0 and len(Gallery.open(folder)) == COUNT
    index(photos, folder)
    assert contents(folder) == contents(tmp_path / "uninterrupted")
    assert not reader.is_current()
    for id_, embed in embeds_of(reader).items():  # the old files are gone, but not for who has them open
        assert torch.equal(embed, old[id_])


def test_a_reader_that_comes_while_a_generation_is_replaced(photos, folder, monkeypatch):
    from contextcir.retrieval.store import gallery as module

    write_photo(photos / "a" / "000.png", 1000)
    read, calls = module.read_shards, []

    def read_after_a_change(path, manifest):
        if not calls:
            index(photos, folder)
        calls.append(manifest.generation)
        return read(path, manifest)

    monkeypatch.setattr(module, "read_shards", read_after_a_change)
    assert Gallery.open(folder).manifest.generation == 1 and calls == [0, 1]


def test_another_model_cannot_change_a_gallery(photos, folder, tmp_path):
    other = retriever_of(Named(seed=1))
    for change in (
        lambda: index_images(FolderSource(photos), other, folder),
        lambda: add_images(folder, FolderSource(photos), other),
        lambda: Gallery.open(folder, other),
    ):
        with pytest.raises(StoreError, match=r"tiny at abc123.*weights \w+ \(tiny\), got \w+ \(tiny\)"):
            change()


def test_merge(tmp_path):
    folders = []
    for part in range(2):
        photos = tmp_path / f"photos{part}"
        for number in range(10):
            write_photo(photos / f"{part}-{number}.png", 100 * part + number)
        folders.append(tmp_path / f"gallery{part}")
        index(photos, folders[-1])
    manifest = merge(folders, tmp_path / "both")
    both = Gallery.open(tmp_path / "both", retriever_of())
    assert manifest.count == len(both) == 20 and both.image("1-3.png").size == (8, 8)
    found, parts = embeds_of(both), [embeds_of(Gallery.open(folder)) for folder in folders]
    assert all(torch.equal(found[id_], embed) for part in parts for id_, embed in part.items())
    assert list(faults(tmp_path / "both", both.sources)) == []
    remove_images(tmp_path / "both", ["0-3.png"])
    with pytest.raises(StoreError, match="0-0.png"):
        merge([folders[0], tmp_path / "both"], tmp_path / "twice")
    with pytest.raises(StoreError, match="both"):
        merge(folders, tmp_path / "both")
    index(tmp_path / "photos0", tmp_path / "other", Named(seed=1))
    with pytest.raises(StoreError, match="weights"):
        merge([folders[1], tmp_path / "other"], tmp_path / "mixed")


def test_verify_finds_each_fault(photos, folder):
    sources = Gallery.open(folder).sources
    assert list(faults(folder, sources)) == []
    write_photo(photos / "a" / "002.png", 9)
    (photos / "b" / "005.png").unlink()
    path = folder / "shards" / "00003.safetensors"
    flipped = bytearray(path.read_bytes())
    flipped[-100] ^= 1
    path.write_bytes(flipped)
    (folder / "shards" / "00004.safetensors").unlink()
    found = list(faults(folder, sources))
    assert [fault.split(":")[0] for fault in found] == [
        "a/002.png",
        "b/005.png",
        "00003.safetensors",
        "00004.safetensors",
    ]
    assert "changed" in found[0] and "gone" in found[1] and "SHA-256" in found[2] and "missing" in found[3]
    assert len(list(faults(folder, None))) == 2
    with pytest.raises(StoreError, match="00004"):
        Gallery.open(folder)


def test_what_is_not_a_gallery(tmp_path, photos):
    with pytest.raises(StoreError, match="contextcir index"):
        Gallery.open(tmp_path / "absent")
    index(photos, tmp_path / "planned", step="plan")
    with pytest.raises(StoreError, match="not finished"):
        Gallery.open(tmp_path / "planned")
    index(photos, tmp_path / "g")
    for damaged in ("{", "[]", '{"version": 1}', '{"version": 1, "encoder": {"x": 1}, "sources": []}'):
        (tmp_path / "g" / "manifest.json").write_text(damaged)
        with pytest.raises(StoreError, match="manifest.json is damaged"):
            Gallery.open(tmp_path / "g")
    (tmp_path / "g" / "manifest.json").write_text('{"version": 99}')
    with pytest.raises(StoreError, match="version 99"):
        Gallery.open(tmp_path / "g")


def test_two_workers_that_both_finish(photos, folder, monkeypatch):
    """A worker that comes late finds that the work is done."""
    write_photo(photos / "a" / "000.png", 1000)
    encode = Build.encode

    def encode_and_let_another_finish(self, plan, reuse=None):
        encode(self, plan, reuse)
        monkeypatch.undo()
        index(photos, folder)

    monkeypatch.setattr(Build, "encode", encode_and_let_another_finish)
    assert index(photos, folder).manifest.generation == 1
    assert list(faults(folder, Gallery.open(folder).sources)) == []


def test_images_that_are_gone_are_said_to_be(photos, folder):
    gallery = Gallery.open(folder, retriever_of())
    (photos / "a" / "000.png").unlink()
    with pytest.raises(ImageError, match="a/000.png"):
        gallery.image("a/000.png")
    assert gallery.path_of("a/000.png") is None and gallery.path_of("a/002.png").endswith("a/002.png")
