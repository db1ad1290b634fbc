"""The command that serves the oracle."""

import json
import os
import signal
import threading
import time

import pytest

from contextcir.cli.oracle import main
from contextcir.scenes import render
from contextcir.scenes.ground_truth import scene_to_json
from contextcir.scenes.oracle import Oracle
from contextcir.scenes.truth import Truth
from tests.scenes.oracle.chat import REQUEST, port_of, post
from tests.scenes.small_scenes import TWO


@pytest.fixture
def folder(tmp_path):
    render(TWO, 0).save(tmp_path / "a.png")
    (tmp_path / "truth.jsonl").write_text(json.dumps({"image": "a.png", "scene": scene_to_json(TWO)}) + "\n")
    return str(tmp_path)


def test_serve_until_interrupted(folder, caplog):
    caplog.set_level("INFO")
    statuses = []

    def use_and_interrupt():
        try:
            while not (url := next((word for word in caplog.text.split() if word.startswith("http:")), "")):
                time.sleep(0.005)
            statuses.append(post(url, REQUEST)[0])
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    client = threading.Thread(target=use_and_interrupt)
    client.start()
    assert main(["--truth", folder, "--port", "0", "--rate-429", "1.0", "--models", "a", "b"]) == 0
    client.join()
    assert statuses == [429]
    started, ended = caplog.messages
    assert started.startswith("1 ") and " a, b " in started
    assert ended.startswith("1 rate_429;")


def test_missing_truth_and_taken_port(folder, tmp_path):
    with pytest.raises(OSError, match="truth.jsonl"):
        main(["--truth", str(tmp_path / "elsewhere")])
    with Oracle(Truth()) as url, pytest.raises(OSError, match=str(port_of(url))):
        main(["--truth", folder, "--port", str(port_of(url))])
