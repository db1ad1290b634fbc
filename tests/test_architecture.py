"""The dependency rule: arrows point down, heavy libraries live in one file, the luggage is self-contained."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LUGGAGE = ("modeling_contextcir", "modeling_instructcir", "modeling_baselines")
LEVELS = {
    "trainer": 2,
    "captions": 2,
    "dispatch": 2,
    "visualization": 2,
    "retrieval.dense": 2,
    "retrieval.imagescope": 2,
    "benchmarks": 2,
}  # everything else in contextcir is a tool, level 1
ALLOWED_SIDEWAYS = {  # an engine needs these arrows between files of its own level; each is one idea split in files
    ("benchmarks", "benchmarks"),
    ("retrieval", "retrieval"),
    ("metrics", "metrics"),
    ("scenes", "scenes"),
    ("ablation", "ablation"),
    ("visualization", "visualization"),
    ("captions", "captions"),
    ("dispatch", "dispatch"),
    ("training", "triplets"),
    ("training", "triplet_images"),
    ("training", "training_args"),
    ("triplet_images", "triplets"),
    ("collator", "triplet_images"),
    ("noun_phrases", "chart_parser"),
    ("treebank", "chart_parser"),
    ("ablation", "yaml_options"),
    ("attention", "inference"),
    ("treebank", "treebank"),
    ("chat", "chat_answers"),
    ("chat", "chat_attempts"),
    ("chat", "chat_exchange"),
    ("chat", "chat_images"),
}
HOMES = {  # library -> the only files that may import it
    "spacy": {"contextcir/noun_phrases.py"},
    "benepar": {"contextcir/chart_parser.py"},
    "openai": {"contextcir/chat.py"},
    "faiss": {"contextcir/retrieval/index.py"},
    "gradio": {"app.py"},
    "torchvision": set(),
}
SOURCES = [path for path in ROOT.rglob("*.py") if not {".venv", "build", "data", "runs"} & set(path.parts)]
WORKSHOP = [path for path in SOURCES if path.relative_to(ROOT).parts[0] == "contextcir"]


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, relative imports resolved, those inside functions too."""
    here = path.relative_to(ROOT).with_suffix("").parts
    package = here if path.name == "__init__.py" else here[:-1]
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            base = ".".join(package[: len(package) - statement.level + 1]) if statement.level else ""
            module = ".".join(part for part in (base, statement.module or "") if part)
            found |= {f"{module}.{alias.name}" for alias in statement.names} | {module}
    return found


def level(module: str) -> int:
    return next((value for name, value in LEVELS.items() if (module + ".").startswith(name + ".")), 1)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "contextcir").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def arrows():
    for path in WORKSHOP:
        for name in imported(path):
            if name.startswith("contextcir."):
                yield path, module_of(path), name.removeprefix("contextcir.")


def test_there_is_something_to_check():
    assert len(WORKSHOP) > 10
    assert len(list(arrows())) > 10


def test_arrows_point_down():
    for path, here, there in arrows():
        if there.split(".")[0] == "images":
            continue  # every tool may read images
        same_package = (here.split(".")[0], there.split(".")[0]) in ALLOWED_SIDEWAYS
        assert level(there) < level(here) or same_package, f"{path}: {here} must not import {there}"


def test_the_workshop_never_imports_the_luggage_or_a_door():
    doors = {path.stem for path in ROOT.glob("*.py")} | {"bench", "commands", "datasets_scripts", "tests"}
    for path in WORKSHOP:
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & (set(LUGGAGE) | doors), path


def test_nobody_imports_a_door():
    doors = {path.stem for path in ROOT.glob("*.py")}
    for path in SOURCES:
        if "tests" not in path.parts:
            assert not {name.split(".")[0] for name in imported(path)} & doors, path


def test_the_luggage_imports_its_siblings_and_three_libraries():
    standard = set(sys.stdlib_module_names)
    for package in LUGGAGE:
        for path in (ROOT / package).glob("*.py"):
            for name in imported(path):
                top = name.split(".")[0]
                assert top in standard | {"torch", "transformers", "huggingface_hub", package}, f"{path}: {name}"
            assert not [p for p in path.parent.iterdir() if p.is_dir() and p.name != "__pycache__"]


def test_files_that_several_folders_of_the_luggage_have_are_the_same():
    copies = {}
    for package in LUGGAGE:
        for path in (ROOT / package).glob("clip_*.py"):
            copies.setdefault(path.name, set()).add(path.read_bytes())
    assert copies.keys() == {"clip_config.py", "clip_model.py", "clip_processor.py"}
    assert [name for name, contents in copies.items() if len(contents) > 1] == []


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_lives_in_one_file(library):
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        if any(name.split(".")[0] == library for name in imported(path)):
            assert where in HOMES[library] or where.startswith("tests/"), where


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
        if where.parts[0] != "tests" and where.as_posix() != "contextcir/images.py":
            assert not opened_with_pillow(path), f"{where}: read images with contextcir.images.load_image"
    assert opened_with_pillow(ROOT / "contextcir" / "images.py")


def test_importing_the_package_imports_nothing():
    code = "import sys; before = set(sys.modules); import contextcir; print(sorted(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['contextcir']"


def test_no_junk_drawers():
    assert not [path for path in SOURCES if path.stem in ("utils", "common", "helpers", "misc")]
