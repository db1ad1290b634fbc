"""Which benchmarks are on disk, what is missing, and where to get it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from contextcir.benchmarks.doctor import examine, format_findings, write_missing
from contextcir.benchmarks.registry import BENCHMARKS
from contextcir.cli import doctor as command
from tests.benchmarks.test_base import IDS, tiny_benchmark


def module(problem=None, lost=()):
    """A benchmark of two parts whose files have a problem, or that lacks images."""

    def load(path, split, *, check_images=True):
        if problem:
            raise problem
        assert not check_images
        missing = {id_: f"{id_}.jpg (missing)" for id_ in lost}
        return [replace(tiny_benchmark(), part=part, missing=missing) for part in ("one", "two")]

    return SimpleNamespace(SPLITS=("val", "test"), SOURCE="github.com/somebody/tiny", load=load)


@pytest.mark.fault("D02", "the doctor reports every benchmark, whatever is wrong with another")
def test_every_split_of_every_benchmark_is_examined(tmp_path):
    modules = {
        "whole": module(),
        "broken": module(ValueError("val.json: line 3")),
        "crashing": module(KeyError("img_set")),
        "some": module(lost="ac"),
        "blind": module(lost=IDS),
        "none": module(),
    }
    for name in list(modules)[:-1]:
        (tmp_path / name).mkdir()
    findings = examine(modules, tmp_path)
    assert [(found.benchmark, found.split) for found in findings] == [
        (name, split) for name in modules for split in ("val", "test")
    ]
    found = {found.benchmark: (found.state, found.detail) for found in findings}
    assert found["whole"] == ("ready", "4 queries, 16 images")
    assert found["blind"][0] == "no images" and "4 queries, 16 images" in found["blind"][1]
    assert found["some"][0] == "some images" and "4 of 16 " in found["some"][1] and "a.jpg (miss" in found["some"][1]
    assert found["broken"] == ("incomplete", "val.json: line 3")
    assert found["crashing"] == ("incomplete", "KeyError: 'img_set'")
    assert found["none"][0] == "absent" and str(tmp_path / "none") in found["none"][1]
    text = format_findings(findings, modules)
    assert text.count("github.com/somebody/tiny") == 5  # not for those that are ready
    assert len(text.splitlines()) == 12 + 2 + 5
    assert write_missing(findings, tmp_path / "out/missing.tsv") == 2 * (4 + 16)
    assert (tmp_path / "out/missing.tsv").read_text().splitlines()[1] == "some\tval\tone\tc\tc.jpg (missing)"


def test_from_the_command_line(tmp_path, capsys):
    findings = command.main([str(tmp_path)])
    assert {found.state for found in findings} == {"absent"}
    assert {found.benchmark for found in findings} == set(BENCHMARKS) - {"custom"}
    text = capsys.readouterr().out
    assert all(f"  {name}: " in text for name in set(BENCHMARKS) - {"custom"})
