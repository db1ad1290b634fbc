"""Models load where this package is not installed, with the code in their folders.

The code imports torch, transformers, huggingface_hub, and numpy and Pillow, which image processors need. From the
Hub, transformers checks the imports of all files, but from a folder those of the top file only; hence the test of the
closure.
"""

import ast
import sys
from pathlib import Path

import pytest
from transformers import AutoModel
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from tests.models.conftest import KINDS, OPTIONS, assert_same_embeds, embed

CODE = Path(__file__).parents[2] / "modeling_contextcir"
CODE = sorted(path for path in CODE.glob("*.py") if path.name != "__init__.py")
ALLOWED = {"torch", "transformers", "huggingface_hub", "numpy", "PIL", *sys.stdlib_module_names}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
def test_load_where_the_package_is_not_installed(remote, kind):
    result, processor_class = remote[f"new-{kind}"], KINDS[kind][1]
    assert all(module.startswith("transformers_modules.") for module in result["modules"])
    again = f"{result['folder']}-again"  # saved there, loaded here
    expected = embed(AutoModel.from_pretrained(again), processor_class.from_pretrained(again), OPTIONS[kind])
    assert set(result["embeds"]) == set(expected)
    assert ("isolated_attentions" in expected) == (kind == "contextcir")
    assert_same_embeds(result["embeds"], expected, atol=1e-5)


@pytest.mark.parametrize("path", CODE, ids=[path.name for path in CODE])
def test_imports_of_the_code(path):
    """Siblings are imported as `from .name import X`: transformers does not follow other forms."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
    for file in {path, *map(Path, get_relative_import_files(path))}:
        assert file.parent == path.parent
        assert {name.split(".")[0] for name in get_imports(file)} <= ALLOWED, file.name
