"""Which benchmarks are on disk, what is missing, and where to get it."""

from types import SimpleNamespace

from contextcir.benchmarks.doctor import examine, format_findings
from contextcir.benchmarks.registry import BENCHMARKS
from contextcir.cli import doctor as command
from tests.benchmarks.test_base import tiny_benchmark


def module(problem=None, images=True):
    def load(path, split, *, check_images=True):
        if problem:
            raise ValueError(problem)
        if check_images and not images:
            raise ValueError("a.jpg is missing")
        return [tiny_benchmark(), tiny_benchmark()]

    return SimpleNamespace(SPLITS=("val", "test"), SOURCE="github.com/somebody/tiny", load=load)


def test_every_split_of_every_benchmark_is_examined(tmp_path):
    modules = {
        "whole": module(),
        "blind": module(images=False),
        "broken": module("val.json: line 3"),
        "none": module(),
    }
    for name in ("whole", "blind", "broken"):
        (tmp_path / name).mkdir()
    findings = examine(modules, tmp_path)
    assert [(found.benchmark, found.split) for found in findings] == [
        (name, split) for name in modules for split in ("val", "test")
    ]
    found = {found.benchmark: (found.state, found.detail) for found in findings}
    assert found["whole"] == ("ready", "4 queries, 16 images")
    assert found["blind"][0] == "no images" and "4 queries, 16 images" in found["blind"][1]
    assert found["blind"][1].endswith("a.jpg is missing")
    assert found["broken"] == ("incomplete", "val.json: line 3")
    assert found["none"][0] == "absent" and str(tmp_path / "none") in found["none"][1]
    text = format_findings(findings, modules)
    assert text.count("github.com/somebody/tiny") == 3  # not for those that are ready
    assert len(text.splitlines()) == 8 + 2 + 3


def test_from_the_command_line(tmp_path, capsys):
    findings = command.main([str(tmp_path)])
    assert {found.state for found in findings} == {"absent"}
    assert {found.benchmark for found in findings} == set(BENCHMARKS) - {"custom"}
    text = capsys.readouterr().out
    assert all(f"  {name}: " in text for name in set(BENCHMARKS) - {"custom"})
