"""The blocks of all guides run, or are read by the commands' own parsers where the page says why they are not run."""

import json
import re
import shutil
from itertools import groupby

import datasets
import pytest
from PIL import Image
from transformers import TrainerState

from contextcir.cli.main import main
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
# Each block asks a chat server, or needs several machines.
NONE_RUN = {"imagescope.md", "how/imagescope.md", "how/good4cir.md", "machines.md"}
ELSEWHERE = {"sentence-transformers", "faiss", "LanceDB", "MTEB", "transformers"}  # tests/research/test_elsewhere.py
TWO_SCREENS = 80  # lines


PICTURES = {  # folder -> its pictures
    "photos": ("reference.png", "a.png", "b.png", "a/1.jpg", "beach/dog.jpg", "old/1.jpg", "old/2.jpg"),
    "more-photos": ("c.png",),
    "new-photos": ("d.png",),
    "my-photos/images": ("beach.png", "snow.png"),
    "my-images": ("a.png", "b.png"),
    ".": ("ref.jpg",),
}


@pytest.fixture(scope="session")
def world(tmp_path_factory, clip_folder, run):
    """What the guides speak of: photographs, models, triplets and a benchmark, all of them tiny."""
    folder = tmp_path_factory.mktemp("guides")
    for place in ("runs/demo", "runs/mine", "user/model"):
        shutil.copytree(run, folder / place)
    TrainerState(log_history=[{"step": 1, "loss": 2.0}]).save_to_json(f"{folder}/runs/demo/trainer_state.json")
    shutil.copytree(clip_folder, folder / "openai" / "clip-vit-base-patch32")
    draw_pictures(folder)
    scenes = tiny_scenes.build(folder / "data" / "scenes", num_train=64)  # a batch of the guide
    assert main(["phrases", str(scenes / "triplets")]) == 0
    shutil.copytree(scenes / "triplets", folder / "my-triplets")
    shutil.copytree(scenes, folder / "my-benchmark")
    return folder


def draw_pictures(folder):
    """Write `PICTURES`, and what the guides say about them."""
    for place, names in PICTURES.items():
        for number, name in enumerate(names):
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (40 * number, 90, 200)).save(path)
    (folder / "photos" / "metadata.csv").write_text("file_name,brand,price\na.png,a,10\nb.png,b,30\n")
    query = {"reference": "beach.png", "text": "the same in the snow", "targets": ["snow.png"]}
    (folder / "my-photos" / "queries.jsonl").write_text(json.dumps(query))
    triplet = {"reference_file_name": "a.png", "target_file_name": "b.png", "modification_text": "make it red"}
    (folder / "my-images" / "metadata.jsonl").write_text(json.dumps(triplet))


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
    if page != "train.md":
        guides.run(found)
    else:  # each of its sections may train `runs/mine`
        for _, blocks in groupby(found, key=lambda block: block.section):
            shutil.rmtree(here / "runs" / "mine", ignore_errors=True)
            guides.run(list(blocks))


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
    if page not in OF_DOCSTRINGS | RESULTS | NONE_RUN:
        first = next(block for block in found if block.why is None)
        assert text[: text.index(first.code)].count("\n") <= TWO_SCREENS


@pytest.mark.parametrize("line", ["contextcir index photos --modell runs/demo", "contextcir mine --ranks five"])
def test_an_option_that_does_not_exist_is_found(line):
    with pytest.raises(AssertionError, match="before it had read"):
        guides.parse(guides.Block("", "bash", line, "it is wrong"))
