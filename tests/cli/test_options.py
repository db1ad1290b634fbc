"""Options of commands: flags and YAML files in any order, help in groups, errors that name the nearest option."""

from dataclasses import dataclass
from typing import Literal

import pytest
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser, UsageError, as_flags, read_yaml

DOC = """Paint a fence. And more.

    contextcir paint --rate 0.5
    contextcir paint other.yaml
"""


@dataclass
class Options:
    """What is painted."""

    _argument_group_name = "Paint"

    rate: float = HfArg(default=1.0, help="Speed, 50 % by default.")
    name: str = HfArg(default="", help="Name.")
    many: list[str] | None = HfArg(default=None, help="Several.")
    kind: Literal["oil", "water"] = HfArg(default="oil", help="Kind.")
    drying: bool = HfArg(default=True, help="Let it dry.")
    wet: bool = HfArg(default=False, help="Begin wet.")
    extra: dict | str | None = HfArg(default=None, help="JSON.")
    left_out: int = HfArg(default=7, help="Number.")


def parse(*argv, positional=()):
    (options,) = CommandParser([Options], "contextcir paint", DOC, positional).parse([str(word) for word in argv])
    return options


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("rate: -1.0e-3\nname: --odd\nmany: [a b, c]\nwet: true\nextra: {floor: 0.5}\nleft_out: null\n")
    return path


def test_options_of_a_file_are_read_as_they_were_written(file):
    assert parse(file) == Options(-1e-3, "--odd", ["a b", "c"], "oil", True, True, '{"floor": 0.5}')


def test_flags_override_files_in_any_order(file, tmp_path):
    later = tmp_path / "later.yml"
    later.write_text("rate: 3\nleft_out: 3\n")
    for argv in (["--rate", "2", file, later], [file, "--rate=2", later], [file, later, "--rate", "2"]):
        options = parse(*argv)
        assert (options.rate, options.left_out, options.name) == (2.0, 3, "--odd")


def test_a_file_after_a_switch_or_a_list_is_no_value_of_it(file):
    assert parse("--wet", file).rate == -1e-3
    assert parse("--many", "x", "y", file).many == ["x", "y"]
    assert parse("--name", "name.yaml").name == "name.yaml"  # here it is


def test_the_first_words_may_be_options(file):
    options = parse("fence", "oil", "--rate", "2", positional=("name", "kind"))
    assert (options.name, options.kind, options.rate) == ("fence", "oil", 2)
    assert parse("fence", positional=("name", "kind")).name == "fence"
    assert parse("fence", file, positional=("name", "kind")).name == "fence"
    with pytest.raises(UsageError, match="'more'"):
        parse("fence", "oil", "more", positional=("name", "kind"))


def test_both_spellings_and_negations():
    assert parse("--left-out", 3, "--no_drying").left_out == 3
    assert not parse("--no-drying").drying and not parse("--drying", "false").drying


@pytest.mark.parametrize(
    "argv, names",
    [
        (["--rat", "2"], r"'--rat'.*--rate"),  # abbreviations are not guessed
        (["--nmae=x"], r"'--nmae=x'.*--name"),
        (["--rate", "fast"], "--rate.*fast"),
        (["--kind", "sand"], "--kind.*sand.*oil.*water"),
        (["--rate"], "--rate"),
        (["stray"], "'stray'"),
    ],
)
def test_wrong_options_name_what_was_given_and_what_there_is(argv, names):
    with pytest.raises(UsageError, match=f"(?s){names}.*contextcir paint --help") as caught:
        parse(*argv)
    assert caught.value.exit_code == 2


def test_wrong_options_of_a_file_name_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("rte: 1\n")
    with pytest.raises(UsageError, match=r"a.yaml.*'rte'.*--rate"):
        parse(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "content, named", [("a: 1\na: 2", "'a'"), ("- a", "list"), ("a: [", "YAML"), ("", "NoneType")]
)
def test_files_that_are_no_mapping_are_refused(tmp_path, content, named):
    path = tmp_path / "options.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"(?s)options.yaml.*{named}"):
        read_yaml(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.yaml"):
        read_yaml(tmp_path / "none.yaml")


def test_a_recipe_that_ships_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_yaml("configs/scenes_tiny.yaml")["output_dir"] == "runs/demo"


def test_options_as_flags():
    assert as_flags({"a": -1, "b": [1, 2], "c": None, "d": True, "e": {"x": 1}}) == [
        "--a=-1",
        *("--b", "1", "2"),
        *("--d", "true"),
        *("--e", '{"x": 1}'),
    ]


def test_help_has_groups_defaults_kinds_and_an_example(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: contextcir paint [FILE.yaml]") and "Paint a fence. And more." in text
    assert "\nPaint:\n" in text and "Example:\n  contextcir paint --rate 0.5\n" in text and "other.yaml" not in text
    assert "--rate float" in text and "Speed, 50 % by default. (default: 1.0)" in text
    assert "--kind {oil,water}" in text and "--many text ..." in text and "--[no_]drying" in text
    assert text.count("drying") == 1 and "--left-out" not in text  # one line, one spelling
