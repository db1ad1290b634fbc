"""Model, processor and data go to a Hub and come back, with the real client against `loopback_hub.LoopbackHub`."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.loopback_hub import LoopbackHub

REPOSITORY = Path(__file__).parents[2]
IMAGE = Image.fromarray((np.arange(300) % 256).astype(np.uint8).reshape(10, 10, 3))

PUSH = """
import datasets, numpy as np, sys
from PIL import Image
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

model = ContextCIRModel.from_clip_pretrained(sys.argv[1])
model.push_to_hub("tester/contextcir")
ContextCIRProcessor.from_pretrained(sys.argv[1]).push_to_hub("tester/contextcir")
model.save_pretrained(sys.argv[2])
image = Image.fromarray((np.arange(300) % 256).astype(np.uint8).reshape(10, 10, 3))
rows = {"id": ["a", "b"], "reference_image": [image, image], "modification_text": ["make it red", "add a dog"]}
features = datasets.Features({"id": datasets.Value("string"), "reference_image": datasets.Image()})
features["modification_text"] = datasets.Value("string")
datasets.Dataset.from_dict(rows, features=features).push_to_hub("tester/triplets", split="train")
"""

LOAD = """
import datasets, json, sys, torch
from transformers import AutoModel, AutoProcessor

class Blocker:
    def find_spec(self, name, *args):
        if name.split(".")[0] in ("modeling_contextcir", "contextcir"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
data = datasets.load_dataset("tester/triplets", split="train")
model = AutoModel.from_pretrained("tester/contextcir", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("tester/contextcir", trust_remote_code=True)
inputs = processor(images=list(data["reference_image"]), text=list(data["modification_text"]))
with torch.no_grad():
    embeds = model.get_query_features(**inputs)
print(json.dumps({"embeds": embeds.tolist(), "module": type(model).__module__, "processor": type(processor).__name__}))
"""


@pytest.fixture
def hub(tmp_path):
    with LoopbackHub() as hub:
        yield hub


def run(hub, tmp_path, code, *arguments, path=""):
    environment = {**os.environ, **hub.environment(tmp_path / "cache"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_push_and_load_with_remote_code(hub, tmp_path, clip_folder):
    run(hub, tmp_path, PUSH, clip_folder, tmp_path / "local", path=str(REPOSITORY))
    files = hub.files("model", "tester/contextcir")
    code = {"configuration_contextcir.py", "modeling_contextcir.py", "processing_contextcir.py"}
    assert code | {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(files)
    assert json.loads(files["config.json"])["auto_map"]["AutoModel"] == "modeling_contextcir.ContextCIRModel"
    assert files["model.safetensors"] == (tmp_path / "local" / "model.safetensors").read_bytes()
    assert "data/train-00000-of-00001.parquet" in hub.files("dataset", "tester/triplets")

    model = ContextCIRModel.from_pretrained(tmp_path / "local")
    inputs = ContextCIRProcessor.from_pretrained(clip_folder)(images=[IMAGE, IMAGE], text=["make it red", "add a dog"])
    with torch.no_grad():
        expected = model.get_query_features(**inputs)
    loaded = json.loads(run(hub, tmp_path, LOAD).splitlines()[-1])
    assert loaded["module"].startswith("transformers_modules.")
    assert loaded["processor"] == "ContextCIRProcessor"
    torch.testing.assert_close(torch.tensor(loaded["embeds"]), expected, atol=1e-5, rtol=0)
    assert hub.unknown_requests == []
