"""The README's tree, commands, code and numbers are true, and so are those of the guides."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from contextcir.cli.main import COMMANDS
from research import render

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAINTENANCE = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"}
MAINTENANCE |= {"constraints.txt", "mkdocs.yml", "pyproject.toml"}  # what any project has, not named in the tree


def commands(page=README):
    for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line.split(" #")[0].strip() for line in lines if line.strip())


def tracked():
    """Tracked and new files, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.splitlines() if (ROOT / name).exists()]


def test_length():
    assert len(README.splitlines()) <= 200


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_tree_names_every_folder_and_nothing_else():
    (tree,) = (block for language, block in BLOCKS if not language and "├──" in block)
    listed, folder = set(), ""
    for line in tree.splitlines():
        nested, name = re.match(r"(│   )?[├└]── (\S+)", line).groups()
        listed.add(f"{folder}{name}" if nested else name)
        folder = folder if nested else name
    found = {f"{path.parts[0]}/" if len(path.parts) > 1 else path.name for path in tracked()}
    found |= {
        f"contextcir/{path.parts[1]}/" for path in tracked() if path.parts[0] == "contextcir" and len(path.parts) > 2
    }
    assert listed == {name for name in found if not name.startswith(".")} - MAINTENANCE


def test_pictures_say_in_words_what_they_show():
    """For readers who do not see them: more than a title, and no file name."""
    pictures = [
        one for page in PAGES for one in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(pictures) > 20
    assert {name: words for words, name in pictures if len(words.split()) < 8 or Path(name).stem in words} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_files_exist(page):
    for command in commands(page.read_text(encoding="utf-8")):
        words = shlex.split(command)
        if words[0] == "contextcir" and not words[1].startswith("-"):
            assert words[1] in COMMANDS, command
        for word in words:
            if word.endswith(".py") or word.startswith("configs/"):
                assert (ROOT / word).is_file(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert not link or (page.parent / link).exists(), link


def test_code_runs(tmp_path, monkeypatch, capsys, run):
    """The ten lines of the README, on a tiny model and three images."""
    code = next(block for language, block in BLOCKS if language == "python")
    shutil.copytree(run, tmp_path / "checkpoints" / "scenes-contextcir-tiny")
    (tmp_path / "photos").mkdir()
    for name, color in (("reference", "red"), ("a", "blue"), ("b", "green")):
        Image.new("RGB", (32, 32), color).save(tmp_path / "photos" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[2] for line in lines} == {"reference.png", "a.png", "b.png"}


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
    assert set(marks) == set(render.PARTS)  # the claims are on the page of the grid too, which writes them


def test_nothing_of_this_machine():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(?:work|tmp|home|root)/", text), page.name
        assert os.uname().nodename not in text.split(), page.name
