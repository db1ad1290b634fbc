"""The documentation site: every page is in it, links and references lead somewhere, drawings are current."""

import base64
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import contextcir
import modeling_contextcir
from research import reference
from research.docs_site import drawings
from research.docs_site.drawing import Drawing, marked

ROOT = Path(__file__).parents[2]
SHOWN = r"^::: (\S+)$"


@pytest.fixture
def hooks():
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    from research.docs_site import hooks

    return hooks


def page(uri: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=uri))


def test_every_public_name_has_its_place():
    assert set(reference.pages_of_names()) == {name for name in contextcir.__all__ if not name.startswith("__")}
    models = (ROOT / "docs" / "api" / "models.md").read_text(encoding="utf-8")
    shown = set(re.findall(SHOWN, models, flags=re.MULTILINE))
    assert shown >= {f"modeling_contextcir.{name}" for name in modeling_contextcir.__all__}


def test_a_name_without_a_page_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "API", tmp_path)
    (tmp_path / "a.md").write_text("::: contextcir.measure\n")
    with pytest.raises(ValueError, match="no page"):
        reference.pages_of_names()


def test_links_out_of_the_pages(hooks):
    text = (
        "[a](../contextcir/data/images.py) [b](search.md#serve) [c](../CHANGELOG.md) [d](https://x.org/y.md) [e](#f)"
    )
    found = hooks.on_page_markdown(text, page("data.md"))
    places = ("source/contextcir/data/images.py.md", "search.md#serve", "changelog.md", "https://x.org/y.md", "#f")
    assert re.findall(r"\((.*?)\)", found) == list(places)
    assert hooks.on_page_markdown("[a](docs/search.md#serve)", page("contributing.md")) == "[a](search.md#serve)"
    assert hooks.on_page_markdown("[a](../../train.py)", page("how/x.md")) == "[a](../source/train.py.md)"
    assert "def load_image" in hooks.show("contextcir/data/images.py")


def test_links_of_notebooks(hooks):
    assert hooks.on_page_markdown("[a](../notebooks/2_train.ipynb)", page("index.md")) == "[a](notebooks/2_train.md)"
    text = "[a](2_train.ipynb) [b](../docs/search.md#serve) [c](../docs/figures/a.png) [d](../train.py) [e](a_1.png)"
    found = hooks.on_page_markdown(text, page("notebooks/1_search.md"))
    places = ("2_train.md", "../search.md#serve", "../figures/a.png", "../source/train.py.md", "a_1.png")
    assert re.findall(r"\((.*?)\)", found) == list(places)


def test_a_notebook_as_a_page(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    from research.docs_site import notebook_pages

    picture = {"image/png": base64.b64encode(b"a picture").decode(), "text/plain": "<Figure>"}
    printed = nbformat.v4.new_output("stream", name="stdout", text="3\n")
    shown = nbformat.v4.new_output("display_data", data=picture)
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("print(3)", outputs=[printed, shown]),
        nbformat.v4.new_code_cell("%%bash\nls"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    text, pictures = notebook_pages.page(tmp_path / "a.ipynb")
    assert pictures == {"a_1.png": b"a picture"}
    title, download, *parts = text.strip().split("\n\n")
    assert title == "# Title" and 'href="a.ipynb"' in download
    assert parts == [
        "````python\nprint(3)\n````",
        "````{ .text .output }\n3\n````",
        "![What the code above draws](a_1.png)",
        "````bash\nls\n````",
    ]


def test_every_notebook_is_in_the_site():
    listed = re.findall(r"notebooks/(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert listed == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_formulas_and_drawings(hooks, caplog):
    formula = r'<span class="arithmatex">\(\lambda &lt; 1\)</span>'
    assert hooks.on_page_content(formula, page("a.md")).count("<mi>&#x003BB;</mi><mo>&#x0003C;</mo>") == 1
    image = '<img alt="The fusion" src="../figures/how_contextcir_fusion.svg" />'
    assert "<svg" in hooks.on_page_content(image, page("a.md")) and not caplog.messages


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://x.org/a.js">',
        '<link rel="stylesheet" href="https://x.org/a.css">',
        '<img src="http://x/y">',
    ],
)
def test_pages_fetch_nothing(hooks, tag, caplog):
    hooks.on_post_page(f'<a href="https://x.org">{tag}', page("a.md"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    hooks.on_post_page('<script src="a.js"><img src="../b.png">', page("a.md"))
    assert len(caplog.records) == 1


def test_references_of_docstrings(tmp_path, monkeypatch, caplog):
    griffe = pytest.importorskip("griffe", reason="needs the extra docs")
    from research.docs_site import references

    monkeypatch.setattr(references, "OURS", ("mine",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "a.py").write_text(
        'class A:\n    """[`A.b`], [`~mine.a.A`], [`~torch.nn.Module`], [`gone`] and [`~mine.a.gone`]."""\n\n'
        '    def b(self):\n        """[`b`]"""\n'
    )
    loader = griffe.GriffeLoader(
        search_paths=[tmp_path], extensions=griffe.load_extensions(references.HubDocstrings())
    )
    text = loader.load("mine")["a.A"].docstring.value
    assert re.findall(r'identifier="([\w.]+)"><code>([\w.]+)', text) == [("mine.a.A.b", "A.b"), ("mine.a.A", "A")]
    assert "`Module`, `gone` and `gone`" in text
    assert [re.search(r"\[`~?([\w.]+)`\]", message)[1] for message in caplog.messages] == ["gone", "mine.a.gone"]


@pytest.mark.parametrize(
    "section, line, expected",
    [
        ("Args", "k (`int`, *optional*, defaults to 3): Number.", "k (int, optional): Number."),
        ("Args", "path (`str` or `Path`): Where.", "path (str | Path): Where."),
        ("Args", "x (`torch.Tensor` of shape `(n, dim)`): Rows.", "x (torch.Tensor): Of shape `(n, dim)`. Rows."),
        ("Args", "panel ([`~a.b.Panel`]): Roles.", "panel (a.b.Panel): Roles."),
        ("Args", "names: Without a type.", "names: Without a type."),
        ("Returns", "`torch.Tensor` of shape `(n,)`: In [0, 1].", "torch.Tensor: Of shape `(n,)`. In [0, 1]."),
        ("Raises", "[`StoreError`]: It is gone.", "StoreError: It is gone."),
    ],
)
def test_heads_of_sections(section, line, expected):
    pytest.importorskip("griffe", reason="needs the extra docs")
    from research.docs_site.references import heads

    text = f"Do it.\n\n{section}:\n    {line}\n        {line}\n\n{line}"
    assert heads(text) == text.replace(f"    {line}\n   ", f"    {expected}\n   ", 1)


def test_drawings_are_current():
    assert drawings.main(["--check"]) == 0
    linked = {
        name for path in (ROOT / "docs").rglob("*.md") for name in re.findall(r"figures/(how_\w+)", path.read_text())
    }
    assert linked == {f"how_{draw.__name__}" for draw in drawings.DRAWINGS}


def test_symbols_and_the_description_of_a_drawing():
    assert marked("a $x_i$").startswith('a <tspan class="m">x<tspan dy="4"')
    assert 'aria-label="a &quot;b&quot;"' in Drawing(1, 1, 'a "b"').svg()


@pytest.mark.slow
@pytest.mark.parametrize("link, code", [("index.md#here", 0), ("index.md#gone", 1), ("gone.md", 1), ("/index.md", 1)])
def test_dead_links_end_the_build(link, code, tmp_path):
    """With the command of the Makefile, and the checks of mkdocs.yml."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    assert "make docs" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    words = re.search(r"^\t\$\(MKDOCS\) (build.*)$", makefile, flags=re.MULTILINE)[1].split()
    ours = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config = {"site_name": "x", "theme": "mkdocs", "validation": ours["validation"]}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Here\n\n[a]({link})\n")
    command = [sys.executable, "-m", "mkdocs", *words, "--config-file", str(tmp_path / "mkdocs.yml")]
    assert subprocess.run(command, capture_output=True).returncode == code
