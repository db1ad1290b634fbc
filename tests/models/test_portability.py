"""Models load where this package is not installed, with the code in their folders.

The code imports torch, transformers, huggingface_hub, and numpy and Pillow, which image processors need. From the
Hub, transformers checks the imports of all files, but from a folder those of the top file only; hence the test of the
closure.
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
from transformers import AutoModel
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from contextcir.data.images import load_image
from modeling_contextcir import ContextCIRProcessor
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


ALONE = """
import json, sys, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

class Blocker:
    def find_spec(self, name, *args):
        if name.split(".")[0] in ("modeling_contextcir", "contextcir"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
try:
    AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=False)
except Exception as error:
    refused = type(error).__name__
image = Image.open(sys.argv[2])
pixels = []
for kind in (AutoProcessor, AutoImageProcessor):
    processor = kind.from_pretrained(sys.argv[1], trust_remote_code=True)
    pixels.append(processor(images=image, return_tensors="pt")["pixel_values"].tolist())
print(json.dumps([refused, *pixels]))
"""


@pytest.mark.slow
@pytest.mark.fault("E04", "a saved processor gives the same pixels where the package is not installed, or refuses")
def test_images_are_read_alike_where_the_package_is_not_installed(clip_folder, tmp_path):
    processor = ContextCIRProcessor.from_pretrained(clip_folder, image_fit="padding")
    processor.save_pretrained(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((90, 40)).convert("RGB").save(tmp_path / "photo.jpg", exif=exif)
    environment = {**os.environ, "PYTHONPATH": "", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ALONE, str(tmp_path), str(tmp_path / "photo.jpg")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-3000:]
    refused, *found = json.loads(done.stdout.splitlines()[-1])
    assert refused == "ValueError"
    expected = processor(images=load_image(tmp_path / "photo.jpg"))["pixel_values"]
    for pixels in found:
        assert torch.equal(torch.tensor(pixels), expected)


@pytest.mark.parametrize("path", CODE, ids=[path.name for path in CODE])
def test_imports_of_the_code(path):
    """Siblings are imported as `from .name import X`: transformers does not follow other forms."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
    for file in {path, *map(Path, get_relative_import_files(path))}:
        assert file.parent == path.parent
        assert {name.split(".")[0] for name in get_imports(file)} <= ALLOWED, file.name
