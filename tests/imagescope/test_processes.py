"""Two processes caption a share each, agree on everything else, and end together."""

import json
import os
import subprocess
import sys

WORKER = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from accelerate import PartialState
from contextcir.chat.server import ChatStop
from tests.imagescope.test_trace import QUERIES, world
import json

state = PartialState(cpu=True)
pictures, folder = world(), Path({folder!r})
ranking = pictures.scope(folder).search(QUERIES, pictures.gallery(), 10, exclude_reference=True)
seen = {{"ids": ranking.gallery_ids, "asked": dict(pictures.counts())}}

def broken(request):
    raise ChatStop("quota", "The quota is exhausted.")

other = world()
other.faults = {{role: broken for role in ("captioner", "evaluator")}}
messages = []
for folder_name, models in (("captions", {{"captioner": "new"}}), ("verdicts", {{"evaluator": "new"}})):
    try:
        other.scope(folder, models=models).search(QUERIES, other.gallery(), 10, exclude_reference=True)
    except (ChatStop, RuntimeError) as error:
        messages.append(str(error))
seen["messages"] = messages
(folder / f"seen{{state.process_index}}.json").write_text(json.dumps(seen))
"""


def test_two_processes(tmp_path, request):
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(request.path.parent), folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"seen{number}.json").read_text()) for number in range(2))
    assert one["ids"] == other["ids"] and one["ids"][0][0] == "p4"
    assert one["asked"] == {"captioner": 20, "reasoner": 10, "verifier": 100, "evaluator": 15}
    assert other["asked"] == {"captioner": 20}
    assert one["messages"] == [
        "The captioner (new): The quota is exhausted.",
        "The evaluator (new): The quota is exhausted.",
    ]
    # The second captioned its share and failed by itself; of the evaluator it hears.
    assert other["messages"][0] == "The captioner (new): The quota is exhausted."
    assert other["messages"][1] == "Another process has stopped: The evaluator (new): The quota is exhausted."
