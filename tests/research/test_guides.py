"""The blocks of all guides run, or are read by the commands' own parsers where the page says why they are not run."""

import json
import re
import shutil

import datasets
import pytest
from PIL import Image
from transformers import TrainerState

from tests import tiny_scenes
from tests.research import guides

DOCS = guides.ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if re.search(r"^ *```(python|bash)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
)
OF_DOCSTRINGS = {"commands.md"}  # examples of each command: only their options are checked
RESULTS = {"results.md"}  # no guide: its block comes where it belongs
ELSEWHERE = {"sentence-transformers", "faiss", "LanceDB", "MTEB", "transformers"}  # tests/research/test_elsewhere.py
TWO_SCREENS = 80  # lines


@pytest.fixture(scope="session")
def world(tmp_path_factory, clip_folder, run):
    """What the guides speak of: photographs, models, triplets and a benchmark, all of them tiny."""
    folder = tmp_path_factory.mktemp("guides")
    for place in ("runs/demo", "runs/mine", "user/model"):
        shutil.copytree(run, folder / place)
    TrainerState(log_history=[{"step": 1, "loss": 2.0}]).save_to_json(
        str(folder / "runs" / "demo" / "trainer_state.json")
    )
    shutil.copytree(clip_folder, folder / "openai" / "clip-vit-base-patch32")
    pictures = {
        "photos": "reference a b beach/dog old/1 old/2",
        "more-photos": "c",
        "new-photos": "d",
        "my-photos/images": "beach snow",
    }
    for place, names in pictures.items():
        for number, name in enumerate(names.split()):
            path = folder / place / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (40 * number, 90, 200)).save(path)
    for number in (1, 2):  # as the guide names them
        (folder / "photos" / "old" / f"{number}.png").rename(folder / "photos" / "old" / f"{number}.jpg")
    Image.new("RGB", (40, 30), "red").save(folder / "ref.jpg")
    facts = "file_name,brand\n" + "".join(f"{name}.png,{name}\n" for name in ("reference", "a", "b"))
    (folder / "photos" / "metadata.csv").write_text(facts)
    query = {"reference": "beach.png", "text": "the same in the snow", "targets": ["snow.png"]}
    (folder / "my-photos" / "queries.jsonl").write_text(json.dumps(query))
    scenes = tiny_scenes.build(folder / "data" / "scenes")
    shutil.copytree(scenes / "triplets", folder / "my-triplets")
    shutil.copytree(scenes, folder / "my-benchmark")
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A copy of the world, as the working directory."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in OF_DOCSTRINGS])
def test_blocks_run(page, here):
    found = [block for block in guides.blocks(page) if page != "elsewhere.md" or block.section not in ELSEWHERE]
    assert found
    guides.run(found)


@pytest.mark.parametrize("page", sorted(OF_DOCSTRINGS))
def test_options_exist(page):
    for block in guides.blocks(page):
        guides.parse(block)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_found_and_comes_early(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    found = guides.blocks(page)
    assert len(found) == len(re.findall(r"^ *```(?:python|bash)$", text, flags=re.MULTILINE))
    assert text.count("<!-- parsed only:") == sum(block.why is not None for block in found)
    if page not in OF_DOCSTRINGS | RESULTS:
        assert text[: text.index(found[0].code)].count("\n") <= TWO_SCREENS


@pytest.mark.parametrize("line", ["contextcir index photos --modell runs/demo", "contextcir mine --ranks five"])
def test_an_option_that_does_not_exist_is_found(line):
    with pytest.raises(AssertionError, match="before it had read"):
        guides.parse(guides.Block("", "bash", line, "it is wrong"))
