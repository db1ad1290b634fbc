"""The notebooks run where there is nothing but the package, and what they show is for a reader."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nbclient", reason="needs the extra dev")

import nbformat  # noqa: E402
from nbclient.exceptions import CellExecutionError  # noqa: E402

from research import notebooks  # noqa: E402

FOUND = notebooks.notebooks()
NEEDS = {  # notebook -> libraries of extras
    "3_noun_phrases": ("benepar", "spacy"),
    "4_captions": ("openai",),
    "6_vector_stores": ("faiss", "lancedb", "sentence_transformers"),
}


def written(folder: Path, *cells: str) -> Path:
    """A notebook of code cells that have not run."""
    path = folder / "written.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    return path


def kinds(notebook) -> list[list[str]]:
    """For each cell what it shows: printed text by its stream, other outputs by their types."""
    return [
        [name for output in cell.get("outputs", []) for name in output.get("data", [output.get("name")])]
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_has_shown(path, tmp_path):
    for library in ("matplotlib", *NEEDS.get(path.stem, ())):
        pytest.importorskip(library)
    notebook = notebooks.execute(path, tmp_path)
    notebooks.clean(notebook)
    assert kinds(notebook) == kinds(nbformat.read(path, as_version=4)), "python -m research.notebooks"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_outputs_are_for_a_reader(path):
    assert notebooks.problems(path) == []


def test_all_of_them():
    assert [path.stem[0] for path in FOUND] == [str(number) for number in range(1, len(FOUND) + 1)]
    assert sum(path.stat().st_size for path in FOUND) <= notebooks.LARGEST_OF_ALL


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert links and [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("draw, kind", [(lambda x, y: 255 * (x % 4 > 0), "png"), (lambda x, y: x + y // 3, "jpeg")])
def test_the_smaller_format_is_kept(draw, kind):
    """Sharp lines are smaller as a PNG, and soft shades as a JPEG."""
    x, y = np.meshgrid(np.arange(160), np.arange(160))
    picture = Image.fromarray(np.stack([draw(x, y), draw(x, y), draw(y, x)], axis=-1).astype(np.uint8))
    picture.save(file := io.BytesIO(), "PNG")
    (found,) = notebooks.smaller(base64.b64encode(file.getvalue()).decode())
    assert found == f"image/{kind}"


@pytest.mark.slow
def test_a_cell_that_fails_is_shown(tmp_path):
    with pytest.raises(CellExecutionError, match=r"1 / number\n(.|\n)*ZeroDivisionError"):
        notebooks.execute(written(tmp_path, "number = 0", "1 / number"), tmp_path)


@pytest.mark.slow
def test_what_is_kept_and_what_is_found(tmp_path, monkeypatch):
    """Progress and descriptions of pictures are not kept. Everything else that is not for a reader is found."""
    path = written(
        tmp_path,
        "from PIL import Image; from tqdm import tqdm\nfor _ in tqdm(range(3)):\n    print('a', flush=True)",
        "Image.new('RGB', (200, 200), 'red')",
    )
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    assert notebooks.problems(path) == ["its cells have not run one after the other", "it shows no picture"]
    assert notebooks.main([]) == 0
    first, second = (cell.outputs for cell in nbformat.read(path, as_version=4).cells)
    assert [(one.name, one.text) for one in first] == [("stdout", "a\na\na\n")]
    assert [set(one.data) for one in second] == [{"image/jpeg"}]

    written(tmp_path, "import warnings; warnings.warn('/tmp/a')", "object()", "print('3 ms')")
    assert notebooks.main(["written"]) == 1
    found = "\n".join(notebooks.problems(path))
    for what in ("a path of this machine", "a warning", "an address in memory", "a time", "it shows no picture"):
        assert what in found
