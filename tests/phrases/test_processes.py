"""Noun phrases in processes that are forked, as `Dataset.map(num_proc=2)` forks them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")
pytest.importorskip("spacy")

MAP = """
import json, datasets, torch
from contextcir.phrases.extractor import NounPhraseExtractor

torch.set_num_threads(4)  # of a thread pool that a forked process does not have
extractor = NounPhraseExtractor()
texts = ["remove the red dog on the left of the tree", "add a hat"] * 50
expected = extractor.extract(texts)
rows = datasets.Dataset.from_dict({"text": texts})
rows = rows.map(lambda rows: {"found": extractor.extract(rows["text"])}, batched=True, num_proc=2)
found = [[{name: span[name] for name in ("text", "start", "end")} for span in row] for row in rows["found"]]
print(json.dumps(found == expected), torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.fault("L30", "Dataset.map(num_proc=2) with a NounPhraseExtractor ends, with the phrases of one process")
def test_map_with_two_processes(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("OMP_NUM_THREADS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", MAP], env=environment, **pipes)
    try:
        out, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children hang, not the process itself
        raise
    assert process.returncode == 0, errors[-3000:]
    same, threads = out.split()[-2:]
    assert json.loads(same) and threads == "4"
