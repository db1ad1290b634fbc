"""The environment, as a bug report needs it, without secrets."""

import importlib.metadata
import sys

from contextcir.cli import env


def test_versions_devices_and_extras(capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert env.main([]) == 0
    text = capsys.readouterr().out
    assert f"torch: {importlib.metadata.version('torch')}\n" in text
    assert "devices: " in text and "free disk here: " in text
    assert "OPENAI_API_KEY: set\n" in text and "HF_TOKEN: not set\n" in text and "sk-secret" not in text


def test_a_report_is_markdown_with_the_same_in_it(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert env.main(["--report"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("### What I ran") and "hf_secret" not in text
    head, _, table = text.partition("|---|---|\n")
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()] == list(env.environment())


def test_a_torch_that_cannot_be_imported_is_reported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert env.main([]) == 0
    assert "devices: unknown: torch cannot be imported (" in capsys.readouterr().out


def test_an_extra_is_whole_only_with_everything_that_it_requires(monkeypatch):
    lines = ["torch>=2", 'spacy>=3; extra == "parse"', 'no-such-library; extra == "parse"', "numpy; extra == 'eval'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert env.extras() == {"parse": False, "eval": True}
