"""The commands `index`, `search` and `gallery`, from photographs to results."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from contextcir.cli.main import main

NAMES = ("red", "green", "blue", "white", "black", "orange")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        Image.new("RGB", (40, 30), name).save(folder / f"{name}.jpg")
    (folder / "metadata.csv").write_text("file_name,price\n" + "".join(f"{n}.jpg,{len(n)}\n" for n in NAMES))
    return folder


@pytest.fixture(scope="module")
def gallery(photos, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("galleries") / "colours"
    assert main(["index", str(photos), "--model", str(run), "--output", str(folder)]) == 0
    return folder


def test_index_says_what_it_did_and_is_repeatable(gallery, photos, run, capsys):
    assert main(["index", str(photos), "--model", str(run), "--output", str(gallery)]) == 0
    out = capsys.readouterr().out
    assert "New: 0, changed: 0, removed: 0." in out and "6 images" in out and "0 embedded" in out


def test_bad_images_and_other_formats_are_counted(photos, run, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("red", "green"):
        os.link(photos / f"{name}.jpg", mine / f"{name}.jpg")
    (mine / "bad.jpg").write_bytes(b"x")
    (mine / "IMG.HEIC").touch()
    argv = ["index", str(mine), "--model", str(run), "--output", str(tmp_path / "g")]
    assert main(argv) == 4
    out, err = capsys.readouterr()
    assert "2 images" in out and "bad.jpg" in err and "1 .heic files" in err and "1 bad images" in err
    assert main([*argv, "--strict"]) == 4  # there is nothing to embed any more
    assert main([*argv[:-1], str(tmp_path / "h"), "--strict"]) == 1
    assert "bad.jpg" in capsys.readouterr().err


def test_search(gallery, capsys, photos):
    assert main(["search", str(gallery), "--image", str(photos / "red.jpg"), "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].split()[:2] == ["1", "1.000"] and "red.jpg" in lines[0]
    assert main(["search", str(gallery), "--image", "red.jpg", "--text", "make it blue", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == "make it blue" and found["milliseconds"] > 0
    assert "red.jpg" not in [hit["id"] for hit in found["results"]] and len(found["results"]) == 5
    assert found["results"][0]["path"] == str(photos / found["results"][0]["id"])


def test_a_gallery_keeps_the_width_that_it_was_made_with(photos, run, tmp_path, capsys):
    folder, argv = (
        str(tmp_path / "cut"),
        ["index", str(photos), "--model", str(run), "--output", str(tmp_path / "cut")],
    )
    assert main([*argv, "--truncate_dim", "8"]) == 0
    assert "8 dimensions" in capsys.readouterr().out
    assert json.loads((tmp_path / "cut" / "manifest.json").read_text())["encoder"]["truncate_dim"] == 8
    assert main(["search", folder, "--image", str(photos / "red.jpg"), "-k", "3"]) == 0
    assert "red.jpg" in capsys.readouterr().out.splitlines()[0]
    for other in (["search", folder, "--text", "red", "--truncate_dim", "4"], argv):
        assert main(other) == 1
        assert "truncate_dim 8, got" in capsys.readouterr().err


def test_filters_and_the_page(gallery, tmp_path, capsys):
    argv = ["search", str(gallery), "--text", "<script>alert(1)</script>", "--filter", "price<5", "--json"]
    assert main([*argv, "--html", str(tmp_path / "page.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {hit["id"] for hit in found["results"]} == {"red.jpg", "blue.jpg"}
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg") == 2 and "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "options, code, named",
    [
        ([], 1, "--image"),
        (["--text", "x", "--filter", "colour=red"], 1, "colour"),
        (["--text", "x", "--filter", "what"], 1, "what"),
        (["--image", "absent.jpg"], 1, "absent.jpg"),
        (["--text", "x", "--image_wight", "3"], 2, "--image_weight"),
        (["--text", "x", "--image_weight", "3"], 1, "image_weight=3"),
    ],
)
def test_search_errors(gallery, options, code, named, capsys):
    assert main(["search", str(gallery), *options]) == code
    assert named in capsys.readouterr().err


def test_add_remove_verify_merge_info(gallery, photos, run, tmp_path, capsys):
    more, mine = tmp_path / "more", tmp_path / "g"
    more.mkdir()
    Image.new("RGB", (40, 30), "pink").save(more / "pink.jpg")
    assert main(["index", str(photos), "--model", str(run), "--output", str(mine)]) == 0
    assert main(["gallery", "add", str(mine), str(more)]) == 0
    assert main(["gallery", "remove", str(mine), "--ids", "red.jpg", "blue.jpg"]) == 0
    assert main(["gallery", "verify", str(mine)]) == 0
    capsys.readouterr()
    assert main(["gallery", "info", str(mine)]) == 0
    out = capsys.readouterr().out
    assert "5, and 0 bad" in out and "generation 2" in out and str(run) in out
    assert main(["search", str(mine), "--image", "pink.jpg", "--text", "red", "-k", "9", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 4
    (more / "pink.jpg").unlink()
    assert main(["gallery", "verify", str(mine)]) == 1
    assert "pink.jpg: the picture is gone" in capsys.readouterr().out
    assert main(["index", str(more.parent / "more2"), "--model", str(run), "--output", str(tmp_path / "x")]) == 1
    capsys.readouterr()
    assert main(["gallery", "remove", str(mine), "--ids", "red.jpg"]) == 1
    assert "red.jpg" in capsys.readouterr().err
    assert main(["gallery", "merge", str(tmp_path / "m"), "--galleries", str(mine), str(gallery)]) == 1
    assert not (tmp_path / "m").exists()
    assert "'black.jpg' is in" in capsys.readouterr().err
    assert main(["gallery", "add", str(mine)]) == 1
    assert "--images" in capsys.readouterr().err


def test_a_model_is_needed_to_index(photos, tmp_path, capsys):
    assert main(["index", str(photos), "--output", str(tmp_path / "g")]) == 2
    assert "--model" in capsys.readouterr().err


def test_a_search_reads_as_the_gallery_was_made(photos, run, tmp_path, capsys):
    options = ["--model", str(run), "--output", str(tmp_path / "g"), "--draft", "--autocast", "bf16"]
    assert main(["index", str(photos), *options]) == 0
    assert main(["search", str(tmp_path / "g"), "--image", str(photos / "red.jpg"), "-k", "1"]) == 0
    assert "red.jpg" in capsys.readouterr().out.splitlines()[-2]
    assert main(["search", str(tmp_path / "g"), "--text", "red", "--autocast", "no"]) == 1
    assert "autocast bfloat16, got None" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_of_torchrun(photos, run, gallery, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29531"]
    command += ["-m", "contextcir.cli.index", str(photos), "--model", str(run), "--output", str(tmp_path / "g")]
    subprocess.run([*command, "--shard_size", "2"], check=True, capture_output=True, text=True)
    subprocess.run(
        [sys.executable, "-m", "contextcir.cli.index", str(photos), "--model", str(run), "--output"]
        + [str(tmp_path / "one"), "--shard_size", "2"],
        check=True,
        capture_output=True,
    )
    for path in (tmp_path / "one").rglob("*.*"):
        if path.is_file() and not path.name.startswith("."):
            assert path.read_bytes() == (tmp_path / "g" / path.relative_to(tmp_path / "one")).read_bytes()
