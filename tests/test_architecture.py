"""The dependency rule: folders are floors, imports go down, heavy libraries live in one file, models travel alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (  # from the ground up; `contextcir/__init__.py` names what is public, and stands above all
    "runtime",
    "data",
    "phrases",
    "metrics",
    "chat",
    "scenes",
    "training",
    "retrieval",
    "captions",
    "benchmarks",
    "evaluation",
    "bridges",
    "visualization",
    "serving",
    "cli",
)
HOMES = {  # library -> the only files that may import it
    "spacy": {"contextcir/phrases/extractor.py", "research/treebank/words.py"},
    "benepar": {"contextcir/phrases/chart_parser.py"},
    "openai": {"contextcir/chat/connection.py"},
    "evaluate": {"contextcir/metrics/evaluate_metric.py"},
    "lancedb": {"contextcir/retrieval/engines/lance.py"},
    "psycopg": {"contextcir/retrieval/engines/postgres.py"},
    "pgvector": {"contextcir/retrieval/engines/postgres.py"},
    "mteb": {"contextcir/bridges/mteb.py"},
    "pi_heif": {"contextcir/data/images.py"},
    "sentence_transformers": {"contextcir/retrieval/st.py"},
    "onnx": {"contextcir/bridges/onnx_export.py"},
    "onnx_ir": {"contextcir/bridges/onnx_export.py"},
    "onnxscript": {"contextcir/bridges/onnx_export.py"},
    "onnxruntime": {"contextcir/bridges/onnx_export.py", "contextcir/bridges/onnx_encoder.py"},
    "torchvision": set(),
}
SERVERS = {"fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart"}  # of `contextcir/serving`
LIMIT = 350  # lines of a file
SOURCES = [
    path
    for path in ROOT.rglob("*.py")
    if not {".venv", "build", "dist", "data", "runs"} & set(path.relative_to(ROOT).parts[:1])
    and "fixtures" not in path.parts
]
PACKAGE = [path for path in SOURCES if path.relative_to(ROOT).parts[0] == "contextcir"]


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, relative imports resolved, those inside functions too."""
    here = path.relative_to(ROOT).with_suffix("").parts
    package = here[:-1]
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            base = ".".join(package[: len(package) - statement.level + 1]) if statement.level else ""
            module = ".".join(part for part in (base, statement.module or "") if part)
            found |= {f"{module}.{alias.name}" for alias in statement.names} | {module}
    return found


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


def test_every_folder_is_a_floor():
    assert {folder_of(path) for path in PACKAGE if len(path.relative_to(ROOT).parts) > 2} == set(FLOORS)
    assert {path.name for path in PACKAGE if len(path.relative_to(ROOT).parts) == 2} == {"__init__.py"}


def test_imports_go_down():
    downward = 0
    for path in PACKAGE:
        if len(path.relative_to(ROOT).parts) == 2:
            continue
        here = FLOORS.index(folder_of(path))
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "contextcir" and len(parts) > 1 and parts[1] in FLOORS:
                there = FLOORS.index(parts[1])
                assert there <= here, f"{path.relative_to(ROOT)} imports {name}, which is above it"
                downward += there < here
    assert downward > 100


def test_who_imports_models_builders_and_scripts():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for path in SOURCES:
        where, tops = path.relative_to(ROOT), {name.split(".")[0] for name in imported(path)}
        if where.parts[0] != "tests":
            assert not tops & (scripts | {"tests"}), where
        if where.parts[0] == "contextcir" and folder_of(path) != "cli":
            assert not tops & {"modeling_contextcir", "datasets_scripts", "research"}, where
        if where.parts[0] in ("contextcir", "datasets_scripts", "modeling_contextcir"):
            assert "research" not in tops, where


def test_models_import_their_siblings_and_few_libraries():
    libraries = {"torch", "transformers", "huggingface_hub", "numpy", "PIL"}  # the last two for image processors
    allowed = set(sys.stdlib_module_names) | libraries | {"modeling_contextcir"}
    for path in (ROOT / "modeling_contextcir").iterdir():
        assert path.is_file() or path.name == "__pycache__", "the folder is flat"
        if path.suffix == ".py":
            for name in imported(path):
                assert name.split(".")[0] in allowed, f"{path.name}: {name}"


def test_models_carry_the_code_that_converts_images():
    """The code of a model travels alone, and gives the same pixels as the readers of files: one text in two places."""
    one, other = (ROOT / folder / "pixels.py" for folder in ("contextcir/data", "modeling_contextcir"))
    assert one.read_bytes() == other.read_bytes(), f"cp {one} {other}"


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_lives_in_one_file(library):
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        if any(name.split(".")[0] == library for name in imported(path)):
            assert where in HOMES[library] or where.startswith("tests/"), where


def test_servers_live_in_one_folder():
    homes = set()
    for path in SOURCES:
        where = path.relative_to(ROOT)
        if where.parts[0] != "tests" and SERVERS & {name.split(".")[0] for name in imported(path)}:
            assert where.parts[:2] == ("contextcir", "serving") or where.as_posix() == "contextcir/cli/serve.py", where
            homes.add(where.name)
    assert {"app.py", "serve.py"} <= homes


def test_no_file_is_too_long():
    long = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > LIMIT and not name.startswith("tests/")} == {}


def opened_with_pillow(path: Path) -> list[str]:
    """Uses of `open` of `PIL.Image`, whatever it is called in a file."""
    tree = ast.parse(path.read_text())
    names = {"PIL.Image"}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            names |= {alias.asname for alias in statement.names if alias.name == "PIL.Image" and alias.asname}
        elif isinstance(statement, ast.ImportFrom) and statement.module == "PIL":
            names |= {alias.asname or alias.name for alias in statement.names if alias.name == "Image"}
        elif isinstance(statement, ast.ImportFrom) and statement.module == "PIL.Image":
            names |= {alias.name for alias in statement.names if alias.name == "open"}
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Name))]
    return [use for use in map(ast.unparse, nodes) if use in {f"{name}.open" for name in names} | names & {"open"}]


def test_one_file_opens_images(tmp_path):
    lines = [
        "from PIL import Image as I; I.open(x)",
        "import PIL.Image; PIL.Image.open(x)",
        "from PIL.Image import open",
    ]
    for line in [*lines, "from PIL import Image; map(Image.open, x)"]:
        (tmp_path / "a.py").write_text(line + "\nopen(x)" * line.endswith("open"))
        assert len(opened_with_pillow(tmp_path / "a.py")) == 1, line
    for path in SOURCES:
        where = path.relative_to(ROOT)
        if where.parts[0] != "tests" and where.as_posix() != "contextcir/data/images.py":
            assert not opened_with_pillow(path), f"{where}: read images with contextcir.data.images.load_image"
    assert opened_with_pillow(ROOT / "contextcir" / "data" / "images.py")


def test_importing_the_package_imports_nothing_heavy():
    """Names come when they are used, and commands import what is heavy after they have read their options."""
    commands = sorted((ROOT / "contextcir" / "cli").glob("*.py"))
    modules = [f"contextcir.cli.{path.stem}" for path in commands if "def main(" in path.read_text()]
    code = f"""
import importlib, sys
import contextcir
assert not set(sys.modules) & {{"torch", "numpy", "transformers"}}
for module in {modules}:
    importlib.import_module(module)
print([name for name in ("torch", "datasets", "accelerate", "spacy", "matplotlib", "openai") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(modules) > 8 and out.strip() == "[]"


def test_no_junk_drawers():
    assert not [path for path in SOURCES if path.stem in ("utils", "common", "helpers", "misc")]
