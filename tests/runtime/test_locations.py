"""Names of local paths, of shipped files, and of models and data sets on the Hub."""

import logging
from pathlib import Path

import pytest

from contextcir.runtime import locations
from contextcir.runtime.locations import locate, shipped


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """An empty working folder with `runs/demo`, and a package that ships `configs/tiny.yaml` and `models/clip`."""
    for path in ("here/runs/demo", "package/configs", "package/models/clip"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "package/configs/tiny.yaml").touch()
    monkeypatch.setattr(locations, "ROOT", tmp_path / "package")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_the_package_ships_its_recipes(monkeypatch):
    monkeypatch.undo()
    assert (locations.ROOT / "configs/scenes_tiny.yaml").is_file()


def test_shipped_files_are_found_unless_there_is_a_local_one(folders):
    assert shipped("configs/tiny.yaml") == folders / "package/configs/tiny.yaml"
    Path("configs").mkdir()
    Path("configs/tiny.yaml").touch()
    assert shipped("configs/tiny.yaml") == Path("configs/tiny.yaml")
    assert shipped(Path("configs/none.yaml")) == Path("configs/none.yaml")
    assert shipped(folders / "here/none") == folders / "here/none"


def test_local_and_shipped_paths(folders):
    assert locate("runs/demo") == "runs/demo"
    assert locate("./runs") == "runs"
    assert locate(str(folders / "here/runs")) == str(folders / "here/runs")
    assert locate("models/clip") == str(folders / "package/models/clip")


@pytest.mark.parametrize("name", ["gpt2", "openai/clip-vit-base-patch32", "user/a.b_c-d"])
def test_names_on_the_hub(name, caplog):
    with caplog.at_level(logging.WARNING):
        assert locate(name) == name
    assert name in caplog.text


@pytest.mark.parametrize("name", ["runs/demo", "user/none"])
def test_the_prefix_is_for_the_hub_without_a_warning(name, caplog):
    assert locate(f"hf://{name}") == name
    assert not caplog.text


@pytest.mark.parametrize(
    "name, advice",
    [
        ("runs/demmo", "runs/demo.*hf://runs/demmo"),  # `runs` exists, so this is not a user on the Hub
        ("./rums", "runs"),
        ("runs/demo/model/x.json", None),
        ("configs/tony.yaml", "configs/tiny.yaml.*hf://configs/tony.yaml"),  # a shipped folder
        ("../heere/x", None),
        ("/no/such/folder", None),
        ("some file.json", None),
    ],
)
def test_a_misspelt_path_is_an_error_with_the_nearest_name(name, advice, caplog):
    with pytest.raises(ValueError, match=f"{name}.*{advice or ''}") as caught:
        locate(name)
    assert not caplog.text
    assert ("Did you mean" in str(caught.value)) == (advice is not None)
    assert ("hf://" in str(caught.value)) == ("hf://" in (advice or ""))


def test_the_advice_names_a_path_that_is_found():
    assert Path(locate("configs/tiny.yaml")).is_file()
    with pytest.raises(ValueError, match="configs/tiny.yaml"):
        locate("configs/tinny.yaml")
