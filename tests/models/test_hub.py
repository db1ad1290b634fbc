"""Model, processor and data are pushed to a loopback Hub by the real client and loaded again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.loopback_hub import LoopbackHub

REPOSITORY = Path(__file__).parents[2]
TEXTS = ["make it red", "add a dog"]
# One process imports the libraries. Its child pushes with this package, the process itself loads without.
PUSH_AND_LOAD = """
import datasets, json, numpy as np, os, sys, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

clip, local, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if not (child := os.fork()):
    from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

    model = ContextCIRModel.from_clip_pretrained(clip)
    model.push_to_hub("tester/contextcir")
    ContextCIRProcessor.from_pretrained(clip).push_to_hub("tester/contextcir")
    model.save_pretrained(local)
    image = Image.fromarray((np.arange(300) % 256).astype(np.uint8).reshape(10, 10, 3))
    rows = {"id": ["a", "b"], "reference_image": [image, image], "modification_text": texts}
    features = datasets.Features({"id": datasets.Value("string"), "reference_image": datasets.Image()})
    features["modification_text"] = datasets.Value("string")
    datasets.Dataset.from_dict(rows, features=features).push_to_hub("tester/triplets", split="train")
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0

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


@pytest.mark.slow
def test_push_and_load_with_remote_code(tmp_path, clip_folder):
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        arguments = [clip_folder, str(tmp_path / "local"), json.dumps(TEXTS)]
        command = [sys.executable, "-c", PUSH_AND_LOAD, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    files = hub.files("model", "tester/contextcir")
    code = {"configuration_contextcir.py", "modeling_contextcir.py", "processing_contextcir.py"}
    assert code | {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(files)
    assert json.loads(files["config.json"])["auto_map"]["AutoModel"] == "modeling_contextcir.ContextCIRModel"
    assert files["model.safetensors"] == (tmp_path / "local" / "model.safetensors").read_bytes()
    assert "data/train-00000-of-00001.parquet" in hub.files("dataset", "tester/triplets")
    assert hub.unknown_requests == []

    image = Image.fromarray((np.arange(300) % 256).astype(np.uint8).reshape(10, 10, 3))
    inputs = ContextCIRProcessor.from_pretrained(clip_folder)(images=[image, image], text=TEXTS)
    with torch.no_grad():
        expected = ContextCIRModel.from_pretrained(tmp_path / "local").get_query_features(**inputs)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["module"].startswith("transformers_modules.")
    assert loaded["processor"] == "ContextCIRProcessor"
    torch.testing.assert_close(torch.tensor(loaded["embeds"]), expected, atol=1e-5, rtol=0)
