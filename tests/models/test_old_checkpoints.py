"""Checkpoints that version 0.1.0 saved load and embed as they did, installed and with the code that they carry."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import modeling_contextcir

CHECKPOINTS = Path(__file__).parents[1] / "fixtures" / "checkpoints_0_1"
NAMES = ("contextcir", "instructcir", "cir_baseline")

EMBED = """
import json, sys, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

class Blocker:
    def find_spec(self, name, *args):
        if name.split(".")[0] in ("modeling_contextcir", "contextcir"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
image = Image.new("RGB", (20, 18), "red")
image.paste((0, 90, 200), (5, 4, 14, 12))
inputs = processor(images=[image], text=["make the red thing wide"], return_tensors="pt")
with torch.inference_mode():
    query = model.get_query_features(**{k: inputs[k] for k in ("pixel_values", "input_ids", "attention_mask")})
    images = model.get_image_features(inputs["pixel_values"])
embeds = {"query_embeds": query.tolist(), "image_embeds": images.tolist()}
print(json.dumps({"module": type(model).__module__, **embeds}))
"""


def expected(name: str) -> dict[str, torch.Tensor]:
    found = json.loads((CHECKPOINTS / name / "expected.json").read_text())
    return {key: torch.tensor(value) for key, value in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_installed(name):
    folder = CHECKPOINTS / name
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model).__module__.startswith(modeling_contextcir.__name__)
    image = Image.new("RGB", (20, 18), "red")
    image.paste((0, 90, 200), (5, 4, 14, 12))
    inputs = processor(images=[image], text=["make the red thing wide"], return_tensors="pt")
    with torch.inference_mode():
        query = model.get_query_features(**{k: inputs[k] for k in ("pixel_values", "input_ids", "attention_mask")})
        torch.testing.assert_close(query, expected(name)["query_embeds"], atol=1e-6, rtol=0)
        image_embeds = model.get_image_features(inputs["pixel_values"])
        torch.testing.assert_close(image_embeds, expected(name)["image_embeds"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_with_the_code_that_it_carries(name, tmp_path):
    environment = {**os.environ, "PYTHONPATH": "", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", EMBED, str(CHECKPOINTS / name)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("module").startswith("transformers_modules.")
    for key, value in expected(name).items():
        torch.testing.assert_close(torch.tensor(found[key]), value, atol=1e-6, rtol=0)
