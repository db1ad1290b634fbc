"""Building a gallery: what is in its files, bad images, several workers, kills, a full disk."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.store.build import Worker
from contextcir.retrieval.store.layout import StoreError
from contextcir.retrieval.store.operations import index_images
from contextcir.retrieval.store.sources import FolderSource
from tests.retrieval.models import make_images
from tests.retrieval.store.photos import COUNT, CountingModel, Named, contents, retriever_of, write_photo, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def index(photos, output, model=None, *, retriever=None, **options):
    options = {"shard_size": 8, "worker": Worker(), "quiet": True} | options
    return index_images(FolderSource(photos), retriever or retriever_of(model), output, **options)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The gallery that one uninterrupted worker builds."""
    folder = tmp_path_factory.mktemp("whole") / "gallery"
    index(photos, folder)
    return folder


def test_files_of_a_gallery(photos, whole):
    assert list(contents(whole)) == ["manifest.json", "plan.json", *(f"shards/0000{n}.safetensors" for n in range(5))]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert (manifest["count"], manifest["dim"], manifest["dtype"], manifest["normalised"]) == (40, 16, "float32", True)
    assert manifest["sources"] == [{"kind": "folder", "path": str(photos)}] and manifest["bad"] == {}
    plan = json.loads((whole / "plan.json").read_text())
    ids = [id_ for shard in plan["shards"] for id_ in shard["ids"]]
    assert ids == FolderSource(photos).ids and len(ids) == COUNT
    for shard in manifest["shards"]:
        assert contents(whole)[f"shards/{shard['file']}"] == shard["sha256"]
    with safe_open(whole / "shards" / "00002.safetensors", "pt") as file:
        embeds = file.get_tensor("embeds")
        assert list(file.metadata()) == ["header"]  # several keys would be in random order
    expected = retriever_of().encode_gallery(Gallery.from_folder(photos))
    assert torch.equal(embeds, expected[16:24])


def test_a_bad_image_is_a_hole(photos, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    content = (photos / "a" / "000.png").read_bytes()
    (mine / "a" / "010.png").write_bytes(content[: len(content) // 2])
    (mine / "b" / "011.png").write_bytes(b"no image")
    (mine / "zz.png").write_bytes(b"")
    outcome = index(mine, tmp_path / "g")
    assert set(outcome.manifest.bad) == {"a/010.png", "b/011.png", "zz.png"}
    assert "cannot be decoded" in outcome.manifest.bad["a/010.png"] and outcome.manifest.count == COUNT + 1
    gallery = Gallery.open(tmp_path / "g")
    assert len(gallery) == COUNT - 2 and "zz.png" not in gallery.positions
    expected = retriever_of().encode_gallery(Gallery.from_folder(photos))
    clean = Gallery.from_folder(photos)
    for id_ in gallery.ids:  # no row is shifted
        row = gallery.rows[gallery.positions[id_] : gallery.positions[id_] + 1][0]
        assert torch.allclose(row, expected[clean.positions[id_]], atol=1e-6), id_


def test_a_shard_of_bad_images_only(tmp_path):
    for number in range(3):
        (tmp_path / "bad" / f"{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{number}.png").write_bytes(b"x")
    write_photo(tmp_path / "bad" / "9.png", 9)
    outcome = index(tmp_path / "bad", tmp_path / "g", shard_size=3)
    assert outcome.manifest.dim == 16 and len(outcome.manifest.bad) == 3
    assert Gallery.open(tmp_path / "g", retriever_of()).search("9.png")[0].id == "9.png"
    (tmp_path / "bad" / "9.png").unlink()
    gallery = Gallery.build(tmp_path / "bad", retriever_of(), tmp_path / "empty", quiet=True)
    assert len(gallery) == 0 and gallery.search(make_images(1)[0]) == []


def test_strict_stops_at_a_bad_image_and_keeps_the_shards_before(photos, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    (mine / "b" / "039.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="039.png"):
        index(mine, tmp_path / "g", strict=True)
    assert len(list((tmp_path / "g" / "shards").glob("*.safetensors"))) == 4
    assert not (tmp_path / "g" / "manifest.json").exists()
    write_photo(mine / "b" / "039.png", 39)
    model = CountingModel()
    index(mine, tmp_path / "g", model, strict=True)
    assert model.embedded == 8  # the last shard


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_workers_give_the_same_bytes(photos, whole, tmp_path, workers, num_workers):
    for rank in range(workers):
        index(photos, tmp_path / "g", worker=Worker(rank, workers), retriever=retriever_of(num_workers=num_workers))
    assert contents(tmp_path / "g") == contents(whole)


def test_a_survivor_does_all_the_work(photos, whole, tmp_path):
    model = CountingModel()
    index(photos, tmp_path / "g", model, worker=Worker(2, 4))
    assert contents(tmp_path / "g") == contents(whole) and model.embedded == COUNT


def test_steps_on_several_hosts(photos, whole, tmp_path):
    folder = tmp_path / "g"
    assert index(photos, folder, step="plan").manifest is None
    assert list(contents(folder)) == ["plan.json"]
    with pytest.raises(StoreError, match="encode"):
        index(photos, folder, step="finish")
    for rank in (1, 0):
        assert index(photos, folder, step="encode", worker=Worker(rank, 2)).manifest is None
    assert "manifest.json" not in contents(folder)
    assert index(photos, folder, step="finish").manifest.count == COUNT
    assert contents(folder) == contents(whole)


def start(photos, folder, rank, workers):
    command = [sys.executable, "-m", "tests.retrieval.store.photos", str(photos), str(folder), str(rank), str(workers)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_gives_the_same_bytes(photos, whole, tmp_path):
    folder, chance = tmp_path / "g", random.Random(0)
    shards = folder / "shards"
    for kill in range(4):
        processes = [start(photos, folder, rank, 2) for rank in range(2)]
        before, deadline = len(list(shards.glob("*.safetensors"))), time.time() + 60
        while len(list(shards.glob("*.safetensors"))) <= before and time.time() < deadline and before < 5:
            time.sleep(0.01)
        time.sleep(chance.random() / 20)
        for process in processes[: 1 + kill % 2]:  # one, or both
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait(timeout=60)
        if (folder / "manifest.json").exists():
            break
    index(photos, folder)
    assert contents(folder) == contents(whole)
    assert not list(shards.glob(".*.part")) and not list(shards.glob(".*.claim"))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"retriever": retriever_of(Named(seed=1))}, "weights"),
        ({"retriever": retriever_of(batch_size=8)}, "batch_size 4, got 8"),
        ({"dtype": "float16"}, "dtype float32, got float16"),
    ],
)
def test_a_build_goes_on_with_its_own_settings_only(photos, tmp_path, change, named):
    index(photos, tmp_path / "g", step="plan")
    with pytest.raises(StoreError, match=named):
        index(photos, tmp_path / "g", **change)


def test_embeddings_that_are_not_finite_are_not_stored(photos, tmp_path):
    class Broken(Named):
        def get_image_features(self, pixel_values):
            found = super().get_image_features(pixel_values)
            found[1, 3] = float("nan")
            return found

    with pytest.raises(StoreError, match="a/002.png.*NaN"):
        index(photos, tmp_path / "g", Broken())
    assert not list((tmp_path / "g" / "shards").glob("*.safetensors"))


def test_float16_takes_half_the_space(photos, tmp_path):
    index(photos, tmp_path / "g", dtype="float16")
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.rows[0:1].dtype == torch.float16 and gallery.manifest.dtype == "float16"
    expected = retriever_of().encode_gallery(Gallery.from_folder(photos))
    assert torch.allclose(gallery.rows[0:COUNT].float(), expected, atol=1e-3)


def test_a_full_disk(photos, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("cannot mount a small disk here (needs root)")
    try:
        with pytest.raises(OSError, match=r"the disk is full\. [\d,]+ bytes are needed"):
            index(photos, disk / "g")
        there = list((disk / "g" / "shards").glob("*.safetensors"))
        assert 1 <= len(there) < 5 and not list((disk / "g" / "shards").glob(".*.part"))
        for path in there:
            with safe_open(path, "pt") as file:
                assert len(file.get_tensor("embeds")) == 8
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        model = CountingModel()
        index(photos, disk / "g", model)
        assert model.embedded == COUNT - 8 * len(there)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_settings_that_do_not_exist_are_refused(photos, tmp_path):
    for options in ({"dtype": "int4"}, {"step": "start"}, {"shard_size": 0}):
        with pytest.raises(ValueError, match=str(next(iter(options.values())))):
            index(photos, tmp_path / "g", **options)
    with pytest.raises(ValueError, match="worker 2 of 2"):
        Worker(2, 2)


def test_workers_of_launchers(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert Worker.from_environment() == Worker(0, 1)
    for settings, expected in (
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, Worker(2, 3)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "4"}, Worker(3, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Worker(1, 2)),
    ):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert Worker.from_environment() == expected
