"""The tour: drawn pictures, found with the model that ships, by commands that can be typed again."""

import json
import re
import shlex

import pytest
import torch
from PIL import Image

from contextcir.cli import main as cli
from contextcir.cli import tour
from contextcir.runtime.locations import shipped


@pytest.mark.slow
def test_a_tour_without_a_page(tmp_path, capsys, monkeypatch):
    toured, served = tmp_path / "of scenes", []
    monkeypatch.setattr("contextcir.cli.serve.main", lambda argv: served.append(argv) or 0)
    assert cli.main(["tour", "--output", str(toured), "--pictures", "320", "--serve", "false"]) == 0
    said = capsys.readouterr().out
    assert len(list((toured / "pictures").glob("*.jpg"))) == 320
    commands = [shlex.split(line)[2:] for line in said.splitlines() if line.startswith("$ contextcir ")]
    assert [command[0] for command in commands] == ["index", "search", "search", "search"] and not served
    assert said.count("right: ") == 3 and "Where to go next" in said
    asked = [json.loads(line) for line in (toured / "examples.jsonl").read_text().splitlines()]
    assert [command[3] for command in commands[1:]] == [one["id"] for one in asked]
    for number, one in enumerate(asked, start=1):
        assert one["text"] in (toured / f"search_{number}.html").read_text()

    assert cli.main(commands[1]) == 0  # as it was printed
    again = capsys.readouterr().out
    assert again.splitlines()[:5] == said[said.index("$ contextcir search") :].splitlines()[1:6]


def test_a_right_answer_is_named_by_its_rank():
    class Question:
        target_ids = ("b", "c")

    assert tour.verdict(["a.jpg", "c.jpg", "b.jpg"], Question).endswith("rank 2")
    assert tour.verdict(["a.jpg"], Question).endswith("not among the 1 best")


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    assert cli.main(["tour", "--output", str(tmp_path)]) == 1
    assert "exists. Give a new folder" in capsys.readouterr().err


def test_the_model_ships_and_is_small():
    folder = shipped(tour.MODEL)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8 * 2**20
    assert {"README.md", "training.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_the_page_is_served_at_the_end(tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("contextcir.cli.serve.main", lambda argv: served.append(argv) or 0)
    assert cli.main(["tour", "--output", str(tmp_path / "new"), "--pictures", "320", "--port", "0"]) == 0
    ((gallery, *options),) = served
    assert gallery.endswith("gallery") and options[-2:] == ["--port", "0"] and "--examples" in options
    monkeypatch.setattr(tour.importlib.util, "find_spec", lambda name: None)
    capsys.readouterr()
    assert cli.main(["tour", "--output", str(tmp_path / "other"), "--pictures", "320"]) == 0
    assert "pip install 'contextcir[serve]'" in capsys.readouterr().out and len(served) == 1


def test_the_code_of_its_card_runs(monkeypatch):
    pytest.importorskip("sentence_transformers")
    folder = shipped(tour.MODEL)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(folder.parents[1])
    images = [Image.new("RGB", (96, 96), color) for color in ["red", "blue"] * 5]
    names = {"reference": images[0], "images": images}
    found = []
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        found.append((torch.as_tensor(names["query"]), names["best"].values))
    assert len(blocks) == 2
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
