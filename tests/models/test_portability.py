"""The luggage travels alone: it imports torch, transformers and huggingface_hub only, and loads where we are not
installed.

A load from a local folder checks the imports of the top file only, the Hub path those of all files; hence the gate on
the closure.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from modeling_contextcir import ContextCIRModel, ContextCIRProcessor, InstructCIRModel, InstructCIRProcessor

REPOSITORY = Path(__file__).parents[2]
LUGGAGE = sorted(path for path in REPOSITORY.glob("modeling_*/*.py") if path.name != "__init__.py")
ALLOWED = {"torch", "transformers", "huggingface_hub"}

LOAD = """
import json, sys, torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor

class Blocker:
    def find_spec(self, name, *args):
        if name.split(".")[0] in ("modeling_contextcir", "modeling_instructcir", "contextcir"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
folder, again, options = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
image = Image.new("RGB", (30, 30), "red")
inputs = processor(images=[image], text=["the red dog"], **json.loads(options))
inputs = {key: value for key, value in inputs.items() if not key.startswith("num_")}
only = torch.tensor([0])
output = model(reference_index=only, target_index=only, **inputs)
model.save_pretrained(again)
processor.save_pretrained(again)
modules = [type(x).__module__ for x in (config, model, processor)]
print(json.dumps({"modules": modules, "output": {key: value.tolist() for key, value in output.items()}}))
"""


def closure(path: Path) -> set[Path]:
    return {path, *map(Path, get_relative_import_files(path))}


@pytest.mark.parametrize("path", LUGGAGE, ids=[path.name for path in LUGGAGE])
def test_import_closure(path):
    for file in closure(path):
        assert file.parent == path.parent, f"{path.name} reaches {file}"
        foreign = {name.split(".")[0] for name in get_imports(file)} - ALLOWED - set(sys.stdlib_module_names)
        assert not foreign, f"{file.name} imports {foreign}"


@pytest.mark.parametrize("path", LUGGAGE, ids=[path.name for path in LUGGAGE])
def test_siblings_are_imported_by_name(path):
    """`from tests.name import X`: other forms are not followed when code is copied to the Hub."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)


@pytest.mark.parametrize(
    "model_class, processor_class, options",
    [
        (ContextCIRModel, ContextCIRProcessor, {"noun_phrases": [[[0, 11]]]}),
        (InstructCIRModel, InstructCIRProcessor, {"count_truncated": True}),
    ],
    ids=["contextcir", "instructcir"],
)
def test_load_where_the_package_is_not_installed(clip_folder, tmp_path, model_class, processor_class, options):
    model = model_class.from_clip_pretrained(clip_folder)
    model.save_pretrained(tmp_path / "model")
    processor_class.from_pretrained(clip_folder).save_pretrained(tmp_path / "model")
    environment = {**os.environ, "PYTHONPATH": "", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model"), str(tmp_path / "again"), json.dumps(options)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert all(module.startswith("transformers_modules.") for module in result["modules"])

    processor = processor_class.from_pretrained(tmp_path / "again")  # saved there, read here
    inputs = processor(images=[Image.new("RGB", (30, 30), "red")], text=["the red dog"], **options)
    only = torch.tensor([0])
    inputs = {key: value for key, value in inputs.items() if not key.startswith("num_")}
    model = model_class.from_pretrained(tmp_path / "again")
    output = model(reference_index=only, target_index=only, **inputs)
    for key, value in result["output"].items():
        torch.testing.assert_close(torch.tensor(value), output[key], atol=1e-5, rtol=0)
