"""What is on disk, what is missing, and where to get it."""

from types import SimpleNamespace

import pytest

from contextcir.benchmarks.doctor import examine, format_findings
from contextcir.benchmarks.files import find_root
from contextcir.benchmarks.registry import BENCHMARKS
from contextcir.cli import doctor as command
from tests.benchmarks.test_base import tiny_benchmark


def module(problem=None, images=True):
    def load(path, split, *, check_images=True):
        if problem:
            raise ValueError(problem)
        if check_images and not images:
            raise ValueError("tiny val: 3 of 8 images are missing, such as a.jpg, b.jpg, c.jpg.")
        return [tiny_benchmark(), tiny_benchmark()]

    return SimpleNamespace(SPLITS=("val", "test"), SOURCE="github.com/somebody/tiny", load=load)


@pytest.fixture
def root(tmp_path):
    for name in ("whole", "blind", "broken"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_every_split_of_every_benchmark_is_examined(root):
    modules = {
        "whole": module(),
        "blind": module(images=False),
        "broken": module("val.json is not JSON: line 3"),
        "none": module(),
    }
    findings = examine(modules, root)
    assert [(found.benchmark, found.split) for found in findings] == [
        (name, split) for name in modules for split in ("val", "test")
    ]
    states = {found.benchmark: found for found in findings}
    assert states["whole"].state == "ready" and states["whole"].detail == "4 queries, 16 images"
    assert (
        states["blind"].state == "no images" and "3 of 8 images are missing, such as a.jpg" in states["blind"].detail
    )
    assert states["broken"].state == "incomplete" and "line 3" in states["broken"].detail
    assert states["none"].state == "absent"
    text = format_findings(findings, modules)
    assert text.count("github.com/somebody/tiny") == 3  # not for what is ready
    assert len(text.splitlines()) == 8 + 2 + 3


def test_the_folder_of_a_benchmark(root):
    assert find_root(root, "whole") == root / "whole"
    assert find_root(root / "whole", "whole") == root / "whole"


def test_every_benchmark_of_the_door_says_what_the_doctor_needs(tmp_path, capsys):
    findings = command.main([str(tmp_path)])
    assert {found.state for found in findings} == {"absent"}
    assert {found.benchmark for found in findings} == set(BENCHMARKS) - {"custom"}
    text = capsys.readouterr().out
    assert "Where to get them:" in text and "CIRR" in text
