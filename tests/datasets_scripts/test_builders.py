"""All builders: light imports, and help."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

from contextcir.cli import data
from contextcir.cli.running import run

MODULES = {name: f"datasets_scripts.{module}" for name, (module, _) in data.BUILDERS.items()}
HEAVY = ("torch", "datasets", "spacy", "peft", "matplotlib")


def test_builders_import_nothing_heavy(request):
    code = f"""
import importlib, sys
for module in {list(MODULES.values())}:
    importlib.import_module(module)
print([name for name in {HEAVY} if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_help_lists_all_options(name, capsys):
    with pytest.raises(SystemExit) as exit:
        data.main([name, "--help"])
    assert exit.value.code == 0
    text, arguments = capsys.readouterr().out, importlib.import_module(MODULES[name]).Arguments
    assert f"Example:\n  contextcir data {name} " in text
    assert f"\n{arguments._argument_group_name}:\n" in text
    for field in dataclasses.fields(arguments):
        assert field.name in text and field.metadata["help"].split()[0] in text, field.name


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_option_is_one_line(name, capsys):
    assert run(data.main, f"contextcir data {name}", [name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"contextcir data {name}: ") and error.count("\n") == 1 and "--" in error


@pytest.mark.parametrize("argv", [None, [], ["--help"]])
def test_the_list_of_builders(capsys, monkeypatch, argv):
    monkeypatch.setattr(sys, "argv", ["contextcir data"])
    assert data.main(argv) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in MODULES)


def test_an_unknown_builder_is_named():
    with pytest.raises(ValueError, match="'scene-pair'.*scene-pairs"):
        data.main(["scene-pair"])


def test_a_builder_runs_as_a_script(request):
    command = [sys.executable, "datasets_scripts/build_scenes.py", "--output", "unused", "--num_train", "0"]
    done = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("contextcir data scenes: num_train")
