"""The command `contextcir`: its sub-commands, their help, exit codes, and errors in one line."""

import importlib
import re
import subprocess
import sys

import pytest

import contextcir
from contextcir.chat.exchange import ChatStop
from contextcir.cli import main as command_line
from contextcir.cli.main import COMMANDS, main
from contextcir.cli.options import UsageError
from contextcir.cli.running import run


def test_without_arguments_the_commands_are_listed(capsys):
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"contextcir {contextcir.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    try:
        assert main([name, "--help"]) == 0
    except SystemExit as end:
        assert end.code == 0
    text = capsys.readouterr().out
    assert f"contextcir {name}" in text and ("Example:" in text or name in ("data", "publish"))


def test_all_options_of_training_are_listed_on_request(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help_all"])
    text = capsys.readouterr().out
    assert "--adam_beta2" in text and "--cc_weight" in text and "--data" in text


@pytest.mark.parametrize("name, near", [("trian", "train"), ("bench", "benchmark"), ("qqq", "phrases")])
def test_an_unknown_command_names_the_nearest_or_all(name, near, capsys):
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert repr(name) in error and near in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "error, code",
    [
        (ValueError("bad"), 1),
        (FileNotFoundError(2, "No such file", "a.json"), 1),
        (ImportError("bad"), 1),
        (FloatingPointError("bad"), 1),
        (UsageError("bad"), 2),
        (ChatStop("budget", "bad"), 3),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error, code, capsys):
    def fail(argv):
        raise error

    assert run(fail, "contextcir try", []) == code
    text = capsys.readouterr().err
    assert text.startswith("contextcir try: ") and len(text.splitlines()) == 1
    assert str(error) in text


def test_faults_of_the_program_and_debug_keep_the_traceback():
    def fail(argv):
        raise kind("inside")

    kind = KeyError
    with pytest.raises(KeyError):
        run(fail, "contextcir try", [])
    kind = ValueError
    with pytest.raises(ValueError):
        run(fail, "contextcir try", ["--debug"])


def test_debug_is_no_option_of_the_command_unless_it_has_a_value():
    seen = []
    run(seen.append, "contextcir try", ["--a", "1", "--debug", "--b"])
    run(seen.append, "contextcir try", ["--debug", "underflow_overflow"])  # an option of transformers
    assert seen == [["--a", "1", "--b"], ["--debug", "underflow_overflow"]]


def test_what_a_command_returns_is_its_exit_code_if_it_is_a_number():
    assert [run(lambda argv, value=value: value, "x", []) for value in (None, {"a": 1}, 0, 3)] == [0, 0, 0, 3]


@pytest.mark.parametrize(
    "argv, named",
    [
        (["train", "--lerning_rate", "1"], "--learning_rate"),
        (["train", "--clip_name_or_path", "x"], "data"),
        (["benchmark", "--benchmark", "cirrr", "--data_root", "x", "--retriever", "x"], "'cirrr'.*cirr"),
        (["compare", "no-such.json", "other.json"], "no-such.json"),
        (["generate", "--output", "x", "--model", "m"], "--pairs"),
        (["phrases", "no/such/folder"], "no/such/folder"),
        (["visualize", "--data_root", "x"], "--run"),
        (["data", "scens"], "scenes"),
        (["oracle", "--truth", "no-such-folder"], "no-such-folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors_are_one_line_that_begins_with_the_command(argv, named, capsys):
    assert main(argv) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"contextcir {argv[0]}")
    assert re.search(named, line), line


@pytest.mark.slow
def test_a_script_is_its_command(request):
    for script, name in (("train", "train"), ("benchmark", "benchmark"), ("generate_captions", "generate")):
        done = subprocess.run(
            [sys.executable, f"{script}.py", "--no_such_option"],
            cwd=request.config.rootpath,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"contextcir {name}: ")


def test_the_modules_of_all_commands_exist():
    assert all(hasattr(importlib.import_module(module), "main") for module, _ in command_line.COMMANDS.values())
