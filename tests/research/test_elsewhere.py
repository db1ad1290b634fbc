"""The code of docs/elsewhere.md runs, and remote code is always pinned."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny_scenes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
TEXTS = [path for kind in ("md", "py") for path in ROOT.rglob(f"*.{kind}")]
OURS = ("contextcir", "modeling_contextcir", "datasets_scripts", "research", "docs", "model_cards")


def code_of(part):
    return "\n".join(re.findall(r"```python\n(.*?)```", PARTS[part], flags=re.DOTALL))


@pytest.fixture
def here(tmp_path, monkeypatch, run):
    """A folder with a model and three images."""
    shutil.copytree(run, tmp_path / "runs" / "demo")
    (tmp_path / "photos").mkdir()
    for name, color in (("reference", "red"), ("a", "blue"), ("b", "green")):
        Image.new("RGB", (32, 32), color).save(tmp_path / "photos" / f"{name}.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_sentence_transformers_and_stores(here, capsys):
    """faiss and LanceDB find what the similarity of sentence-transformers finds."""
    for library in ("sentence_transformers", "faiss", "lancedb"):
        pytest.importorskip(library)
    names = {}
    for part in ("sentence-transformers", "faiss", "LanceDB"):
        code = code_of(part)
        assert len([line for line in code.splitlines() if line and "import" not in line]) <= 5
        exec(compile(code, part, "exec"), names)
    assert "tensor" in capsys.readouterr().out
    best = names["model"].similarity(names["query"], names["vectors"])[0].topk(3).indices.tolist()
    assert names["places"][0].tolist() == best
    assert [hit["path"] for hit in names["hits"]] == [str(names["paths"][place]) for place in best]


@pytest.mark.slow
def test_mteb(here, tmp_path, capsys):
    pytest.importorskip("mteb")
    tiny_scenes.build(tmp_path / "data" / "scenes")
    exec(compile(code_of("MTEB"), "MTEB", "exec"), {})
    assert 0 <= float(capsys.readouterr().out.splitlines()[-1]) <= 1


def test_pipeline(here):
    names = {}
    exec(compile(code_of("transformers"), "transformers", "exec"), names)
    assert len(names["embedding"]) == 20


def test_remote_code_is_pinned():
    """Each call in a page, template or docstring that runs code of the Hub says of which commit."""
    calls = []
    for path in TEXTS:
        where = path.relative_to(ROOT)
        if where.parts[0] in OURS or len(where.parts) == 1:
            lines = path.read_text(encoding="utf-8").splitlines()
            calls += [(where, line) for line in lines if re.search(r"\(.*trust_remote_code=True", line)]
    assert len(calls) > 8
    assert [(where, line) for where, line in calls if "revision=" not in line] == []
