"""A model from the Hub knows its commit, by which a gallery names who made it."""

import json
import os
import subprocess
import sys

import pytest

from tests.loopback_hub import LoopbackHub

SCRIPT = """
import json, sys
from transformers import AutoModel, AutoProcessor
import modeling_contextcir
from contextcir.retrieval.dense import DenseRetriever

local = AutoModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
for part in local:
    part.push_to_hub("tester/model")
found = [DenseRetriever.from_model(*local).identity]
for kind in (AutoModel, type(local[0])):
    processor = AutoProcessor.from_pretrained("tester/model")
    found.append(DenseRetriever.from_model(kind.from_pretrained("tester/model"), processor).identity)
print(json.dumps([(one.model, one.revision, one.fingerprint) for one in found]))
"""


@pytest.mark.slow
@pytest.mark.fault("E14", "embeddings of a model from the Hub name its commit")
def test_the_commit_of_a_model(run, tmp_path):
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path), "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, str(run)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        local, auto, own = json.loads(done.stdout.splitlines()[-1])
        assert local[:2] == [str(run), None]
        assert auto == own == ["tester/model", hub.revision(("model", "tester/model")), local[2]]
