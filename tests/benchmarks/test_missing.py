"""Benchmarks some of whose images cannot be had any more: an error, or another protocol with its own id."""

import json
import re

import pytest

from contextcir.benchmarks import cirr, fashioniq, lasco
from contextcir.benchmarks.registry import load_benchmark
from contextcir.cli import benchmark as command
from contextcir.cli import doctor
from contextcir.evaluation.compare import compare
from datasets_scripts import build_cirr_r, build_published
from tests.benchmarks.layouts import in_gallery_order, refuses
from tests.benchmarks.test_circo import IDS
from tests.benchmarks.test_circo import mini as circo_folder  # noqa: F401 - fixtures
from tests.benchmarks.test_cirr import NAMES
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401
from tests.benchmarks.test_fashioniq import mini as fashioniq_folder  # noqa: F401
from tests.benchmarks.test_genecis import mini as genecis_folder  # noqa: F401
from tests.benchmarks.test_lasco import mini as lasco_folder  # noqa: F401
from tests.benchmarks.test_visdial import mini as visdial_folder  # noqa: F401

OTHER_ID = pytest.mark.fault("D11", "--missing skip leaves images and queries out, under another protocol id")
SUFFIX = "/without-{}-images-{}-queries-[0-9a-f]{{8}}"


def lose(root, *names):
    """Remove all image files of these names."""
    for name in names:
        paths = list(root.rglob(name))
        assert paths
        for path in paths:
            path.unlink()


def skipped(name, root, **choices):
    return load_benchmark(name, str(root), missing="skip", **choices)


def protocol_id(parts, before, images, queries):
    (found,) = {part.protocol_id for part in parts}
    assert re.fullmatch(re.escape(before) + SUFFIX.format(images, queries), found), found
    return found


@pytest.mark.fault("D12", "missing images are an error by default, which names them and what to do")
def test_by_default_it_is_an_error(cirr_folder):  # noqa: F811
    lose(cirr_folder, f"{NAMES[0]}.png")
    refuses(f"1 of 60 .*{NAMES[0]}.png.*doctor.*--missing skip", load_benchmark, "cirr", str(cirr_folder))
    refuses("error, skip, got 'ignore'", load_benchmark, "cirr", str(cirr_folder), missing="ignore")


@OTHER_ID
def test_cirr(cirr_folder, caplog):  # noqa: F811
    (whole,) = skipped("cirr", cirr_folder)
    assert whole.protocol_id == "cirr/rc2/val/reference-excluded" and not caplog.text  # nothing is missing
    lose(cirr_folder, f"{NAMES[0]}.png", f"{NAMES[40]}.png")  # the reference of the first query; nobody's
    (part,) = skipped("cirr", cirr_folder)
    first = protocol_id([part], whole.protocol_id, 2, 1)
    assert [query.id for query in part.queries] == ["101", "102", "103"] and part.relevance.keys() == {
        "101",
        "102",
        "103",
    }
    assert part.gallery.ids == [name for name in NAMES if name not in (NAMES[0], NAMES[40])]
    assert part.gallery.image(NAMES[41]).tobytes() == whole.gallery.image(NAMES[41]).tobytes()
    assert part.evaluate(in_gallery_order(part))["recall@50"] == 100
    assert "2 images are missing" in caplog.text and "1 queries" in caplog.text
    assert skipped("cirr", cirr_folder)[0].protocol_id == first
    lose(cirr_folder, f"{NAMES[8]}.png")  # a member of the last query's image set
    (part,) = skipped("cirr", cirr_folder)
    assert protocol_id([part], whole.protocol_id, 3, 2) != first
    assert [query.id for query in part.queries] == ["101", "102"]


@OTHER_ID
def test_as_many_other_images_give_another_id(cirr_folder):  # noqa: F811
    ids = set()
    for name in NAMES[40:42]:
        (path,) = (cirr_folder / "dev").glob(f"{name}.png")
        content = path.read_bytes()
        lose(cirr_folder, path.name)
        ids.add(skipped("cirr", cirr_folder)[0].protocol_id)
        path.write_bytes(content)
    assert len(ids) == 2 and all("/without-1-images-0-queries-" in id_ for id_ in ids)


@OTHER_ID
def test_circo_with_one_of_several_targets(circo_folder):  # noqa: F811
    lose(circo_folder, f"{IDS[3]:012d}.jpg")  # a target of the first and of the second query
    (part,) = skipped("circo", circo_folder, text="concept-caption")
    protocol_id([part], "circo/val/concept-caption/reference-kept", 1, 2)
    assert [query.id for query in part.queries] == ["2"] and part.main_targets == {"2": str(IDS[40])}


@OTHER_ID
def test_fashioniq_has_one_id_for_all_parts(fashioniq_folder):  # noqa: F811
    lose(fashioniq_folder, "D14.jpg", "S05.png")  # a reference; an image of the gallery
    parts = skipped("fashioniq", fashioniq_folder)
    protocol_id(parts, "fashioniq/val/clip4cir/full", 2, 1)
    assert [(len(part.queries), len(part.gallery)) for part in parts] == [(2, 14), (3, 14), (3, 15)]
    union = skipped("fashioniq", fashioniq_folder, protocol="union")
    protocol_id(union, "fashioniq/val/clip4cir/union", 1, 1)


@OTHER_ID
def test_dialogues_are_left_out_as_a_whole(visdial_folder):  # noqa: F811
    lose(visdial_folder, "000000000003.jpg")
    (part,) = skipped("visdial", visdial_folder)
    protocol_id([part], "visdial/v1.0/val/chatir", 1, 11)
    assert part.unit_ids == ["1"] and part.chance()["bri"] > 0


@OTHER_ID
def test_crops_and_shared_galleries(genecis_folder):  # noqa: F811
    lose(genecis_folder, "000000000003.jpg")  # a distractor of the first query of both object tasks
    parts = skipped("genecis", genecis_folder)
    protocol_id(parts, "genecis/v0/all/ties-against-target", 1, 2)
    assert parts[2].gallery is parts[3].gallery and [len(part.queries) for part in parts] == [2, 2, 1, 1]
    (genecis_folder / "VG_100K/11.jpg").unlink()  # each query of the attribute tasks needs it
    refuses("focus_attribute: every query", skipped, "genecis", genecis_folder)


@OTHER_ID
def test_results_are_never_those_of_the_benchmark(cirr_folder, run, tmp_path, capsys):  # noqa: F811
    arguments = ["--retriever", str(run), "--benchmark", "cirr", "--data_root", str(cirr_folder)]
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    official = command.main([*arguments, "--output", str(one)])
    lose(cirr_folder, f"{NAMES[0]}.png")
    refuses("--missing skip", command.main, arguments)
    record = command.main([*arguments, "--missing", "skip", "--output", str(other)])
    assert record["protocol_id"].startswith(official["protocol_id"] + "/without-1-images-1-queries-")
    assert record["num_queries"] == 3 and record["gallery_size"] == 59
    assert record["protocol_id"] in capsys.readouterr().out  # above the table
    assert record["protocol_id"] in other.read_text()
    refuses("protocol .*/without-1-images", compare, one, other)
    more = ["--missing", "skip", "--split", "test1", "--submission", str(tmp_path / "files")]
    refuses("submission .*--missing", command.main, [*arguments, *more])
    (part,) = skipped("cirr", cirr_folder, split="test1")
    refuses("/without-1-.*submission", cirr.submission, [part], [in_gallery_order(part)])


@pytest.mark.fault("D13", "training triplets whose images are missing are left out only when asked to, and counted")
def test_training_triplets(cirr_folder, fashioniq_folder, lasco_folder, monkeypatch, caplog, tmp_path):  # noqa: F811
    monkeypatch.setattr(cirr, "TRAINING", {"queries": 4, "images": 60})
    monkeypatch.setattr(fashioniq, "TRAINING", {part: {"annotations": 3} for part in fashioniq.PARTS})
    for kind in ("captions/cap.rc2", "image_splits/split.rc2", "captions/cap.dress", "captions/cap.shirt", "lasco"):
        for old in cirr_folder.glob(f"{kind}[._]val.json"):
            old.with_name(old.name.replace("val", "train")).write_text(old.read_text())
    old = cirr_folder / "captions/cap.toptee.val.json"
    old.with_name("cap.toptee.train.json").write_text(old.read_text())
    lose(cirr_folder, f"{NAMES[2]}.png", "D12.jpg", "COCO_val2014_000000000073.jpg")
    for module, left, of in ((cirr, 2, 4), (fashioniq, 7, 9), (lasco, 2, 3)):
        refuses("images are missing .*--missing skip", list, module.training_triplets(str(cirr_folder)))
        caplog.clear()
        rows = list(module.training_triplets(str(cirr_folder), missing="skip"))
        assert len(rows) == left
        assert all(row[f"{side}_image"].is_file() for row in rows for side in ("reference", "target"))
        assert f"{of - left} of {of} triplets" in caplog.text
    assert len(build_cirr_r.training_pairs(str(cirr_folder), "skip")) == 2
    lose(cirr_folder, *(path.name for path in (cirr_folder / "dev").iterdir()))
    refuses("59 of 60|60 of 60", list, cirr.training_triplets(str(cirr_folder), missing="skip"))


@pytest.mark.fault("D13", "training triplets whose images are missing are left out only when asked to, and counted")
def test_a_data_set_without_missing_images_says_so(cirr_folder, tmp_path):  # noqa: F811
    lose(cirr_folder, f"{NAMES[0]}.png")
    arguments = [
        "--benchmark",
        "cirr",
        "--data_root",
        str(cirr_folder),
        "--splits",
        "val",
        "--output",
        str(tmp_path / "o"),
    ]
    refuses("1 of 60 ", build_published.main, arguments)
    counts = build_published.main([*arguments, "--missing", "skip"])
    assert counts["queries val"] == 3 and counts["gallery val"] == 59
    assert "--missing skip" in (tmp_path / "o/README.md").read_text()


@pytest.mark.fault("D14", "the doctor lists every missing or empty image in a file")
def test_the_doctor_lists_them(cirr_folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    root = tmp_path / "all"
    root.mkdir()
    for name in ("cirr", "fashioniq"):
        (root / name).symlink_to(cirr_folder)
    lose(cirr_folder, f"{NAMES[5]}.png")
    (cirr_folder / "dev" / f"{NAMES[6]}.png").write_bytes(b"")
    (cirr_folder / "test1" / f"{NAMES[6]}.png").unlink()
    (cirr_folder / "captions/cap.rc2.test1.json").write_text(json.dumps([{"pairid": 1, "img_set": None}]))
    findings = {(found.benchmark, found.split): found for found in doctor.main([str(root)])}
    assert "--output" in capsys.readouterr().out
    assert findings["cirr", "val"].state == "some images" and "2 of 60" in findings["cirr", "val"].detail
    assert findings["cirr", "test1"].state == "incomplete" and "row 0, key" in findings["cirr", "test1"].detail
    assert findings["fashioniq", "val"].state == "incomplete" and findings["lasco", "val"].state == "absent"
    doctor.main([str(root), "--output", str(tmp_path / "missing.tsv")])
    lines = [line.split("\t") for line in (tmp_path / "missing.tsv").read_text().splitlines()]
    assert [line[:4] for line in lines] == [["cirr", "val", "", NAMES[5]], ["cirr", "val", "", NAMES[6]]]
    assert lines[0][4].endswith(f"{NAMES[5]}.png (missing)") and lines[1][4].endswith(f"{NAMES[6]}.png (empty)")
    assert "missing.tsv, 2 " in capsys.readouterr().out
