"""The README's tree, commands and numbers are true."""

import re
import shlex
from pathlib import Path

import pytest

from research import render

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def commands():
    for language, block in BLOCKS:
        if language == "bash":
            lines = block.replace("\\\n", " ").splitlines()
            yield from (line.split("#")[0].strip() for line in lines if line.strip())


def test_every_entry_of_the_tree_exists():
    (tree,) = (block for language, block in BLOCKS if not language and "├──" in block)
    folder = ROOT
    entries = 0
    for line in tree.splitlines():
        match = re.match(r"(│   )?[├└]── (\S+)", line)
        if not match:
            continue
        nested, name = match.groups()
        path = (folder if nested else ROOT) / name
        assert path.exists(), name
        assert path.is_dir() == name.endswith("/"), name
        folder = folder if nested else path
        entries += 1
    assert entries > 15


def test_every_script_of_the_commands_exists():
    scripts = [word for command in commands() for word in shlex.split(command) if word.endswith((".py", ".yaml"))]
    assert len(scripts) >= 3
    for script in scripts:
        assert (ROOT / script).is_file(), script


def test_every_target_of_make_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = {command.split()[1] for command in commands() if command.startswith("make ")}
    assert targets >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_pictures_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture


def test_numbers_are_those_of_the_runs():
    assert render.main(["--check"]) == 0
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in render.PAGES]
    marks = [mark for page in pages for mark in re.findall(r"<!-- (\w+) -->", page)]
    assert sorted(marks) == sorted(render.PARTS)


@pytest.mark.parametrize("word", ["/work", "/tmp", "localhost"])
def test_nothing_of_this_machine(word):
    for page in render.PAGES:
        assert word not in (ROOT / page).read_text(encoding="utf-8"), page
