"""Benchmarks by name: what each defines, how it is found, and choices that do not exist."""

import re

import pytest

from contextcir.benchmarks.files import find_root
from contextcir.benchmarks.registry import BENCHMARKS, benchmark_module, load_benchmark
from tests.benchmarks.layouts import refuses
from tests.tiny_triplets import write_benchmark


@pytest.fixture
def published(tmp_path):
    """A folder `custom` in the published form with the splits test and validation."""
    for split in ("test", "validation"):
        write_benchmark(tmp_path / "custom", split)
    return tmp_path / "custom"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_follows_the_contract(name):
    module = benchmark_module(name)
    assert module.SPLITS and module.SOURCE and module.PROTOCOLS and callable(module.load)


CHOICES = [
    (name, argument, attribute)
    for name in BENCHMARKS
    for argument, attribute in (("split", "SPLITS"), ("protocol", "PROTOCOLS"), ("text", "TEXTS"))
    if argument != "split" or name not in ("grocery", "custom")  # their splits depend on the data: test_published.py
]


@pytest.mark.parametrize("name, argument, attribute", CHOICES)
def test_unknown_choices_list_the_valid_ones(name, argument, attribute, tmp_path):
    """Choices are checked before any file is read."""
    valid = getattr(benchmark_module(name), attribute, ())
    message = f"{re.escape(', '.join(valid))}.*unknown" if valid else f"{name} .*text='unknown'"
    refuses(message, load_benchmark, name, str(tmp_path), **{argument: "unknown"})


def test_an_unknown_benchmark_lists_the_known_ones():
    refuses(f"'cirrr'.*{', '.join(BENCHMARKS)}", benchmark_module, "cirrr")


def test_the_folder_of_a_benchmark(published):
    assert find_root(published.parent, "custom") == published
    assert find_root(published, "custom") == published


def test_defaults_and_choices(published, monkeypatch):
    """The folder itself or the one above it; the first split and protocol, or others."""
    found = [load_benchmark("custom", str(root)) for root in (published, published.parent)]
    monkeypatch.chdir(published)
    found.append(load_benchmark("custom", "."))
    assert [len(parts) for parts in found] == [1, 1, 1]
    (protocol_id,) = {part.protocol_id for (part,) in found}
    assert re.fullmatch("custom-[0-9a-f]{8}/test/reference-excluded", protocol_id)
    (other,) = load_benchmark("custom", str(published), "validation", protocol="reference-kept")
    assert other.protocol_id.endswith("/validation/reference-kept")


def test_missing_roots_and_hub_names(tmp_path, monkeypatch):
    refuses(str(tmp_path / "none"), load_benchmark, "custom", str(tmp_path / "none"))
    asked = []
    monkeypatch.setattr(benchmark_module("custom"), "load", lambda path, split: asked.append((path, split)) or [])
    load_benchmark("custom", "hf://user/data", "test")
    load_benchmark("custom", "user/data", "test")
    assert asked == [("user/data", "test")] * 2
