"""`contextcir publish`: a run with its results and figures becomes a private repository with a whole card."""

import json
import shutil

import pytest
import yaml
from datasets import Features, Value

from contextcir.cli import publish
from contextcir.data.parquet import write_parquet
from tests.loopback_hub import LoopbackHub
from tests.training.test_card import METRICS, RECORD


@pytest.fixture
def hub(monkeypatch):
    with LoopbackHub() as loopback, loopback.in_this_process(monkeypatch):
        yield loopback


@pytest.fixture
def trained(run, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(run, folder)
    record = RECORD | {"model": RECORD["model"] | {"base_model": str(tmp_path / "some" / "clip")}}
    (folder / "training.json").write_text(json.dumps(record))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "metrics.queries.jsonl").write_text("{}\n")
    (folder / "figures").mkdir()
    (folder / "figures" / "retrieval_grid.png").write_bytes(b"\x89PNG\0")
    (folder / ".env").write_text("KEY=1")
    return folder


@pytest.mark.fault("P03", "a published run has its results with intervals and its retrieval grid in the card")
def test_a_run_is_published(hub, trained, tmp_path, capsys):
    commit = publish.main([str(trained), "tester/mine", "--hub_license", "mit"])
    assert commit in capsys.readouterr().out and hub.private["model", "tester/mine"]
    pushed = hub.files("model", "tester/mine")
    assert {"model.safetensors", "metrics.json", "figures/retrieval_grid.png", "modeling_contextcir.py"} <= set(pushed)
    assert not {".env", "metrics.queries.jsonl"} & set(pushed)
    card = pushed["README.md"].decode()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit" and header["model-index"][0]["results"][0]["metrics"][0]["args"]
    assert "27.0 to 36.3" in card and "](figures/retrieval_grid.png)" in card
    assert f'name, revision = "tester/mine", "{commit}"' in card
    assert str(tmp_path) not in card and json.loads(pushed["training.json"])["model"]["base_model"] == "clip"
    assert card == (trained / "README.md").read_text().replace(str(tmp_path / "some" / "clip"), "clip")


def test_a_folder_without_a_record_is_refused(hub, trained):
    (trained / "training.json").unlink()
    with pytest.raises(ValueError, match="training.json.*contextcir train"):
        publish.main([str(trained), "tester/mine"])
    assert not hub.repos


def test_a_data_set_is_published(hub, tmp_path, capsys):
    folder = tmp_path / "hats"
    write_parquet([{"id": "a"}], Features({"id": Value("string")}), folder / "triplets", "train")
    (folder / "notes.txt").write_text("notes")
    with pytest.raises(ValueError, match="README.md"):
        publish.main(["dataset", str(folder), "tester/hats"])
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Hats\n")
    publish.main(["dataset", str(folder), "tester/hats", "--public"])
    assert "lacks language, pretty_name" in capsys.readouterr().out
    assert set(hub.files("dataset", "tester/hats")) == {"README.md", "triplets/train-00000.parquet"}
    assert not hub.private["dataset", "tester/hats"]


def test_old_and_new_words_for_a_model(hub, trained):
    publish.main(["model", str(trained), "tester/new", "--public", "--license", "mit"])
    publish.main([str(trained), "tester/old", "--hub_public", "--hub_license", "mit"])
    new, old = (hub.files("model", f"tester/{name}") for name in ("new", "old"))
    assert set(new) == set(old) and not hub.private["model", "tester/new"] and not hub.private["model", "tester/old"]
