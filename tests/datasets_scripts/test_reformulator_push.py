"""A trained reformulator is published by the one function that refuses secrets, without what lies beside it."""

import json

import pytest

from contextcir.captions.reformulator import ADAPTER, CONFIG, RECORD
from contextcir.cli.options import as_flags
from datasets_scripts import train_reformulator
from tests.loopback_hub import LoopbackHub


@pytest.mark.fault("P02", "a reformulator is published as its adapter, prompt, tokenizer, record and card, privately")
def test_published_files(tmp_path, monkeypatch):
    def train(args, argv):
        for name in (ADAPTER, "reformulation.txt", "README.md", "tokenizer.json", "training_args.bin", ".env"):
            (tmp_path / "out" / name).write_text("x")
        (tmp_path / "out" / ADAPTER).write_bytes((2).to_bytes(8, "little") + b"{}")
        (tmp_path / "out" / RECORD).write_text(json.dumps({"base_model": str(tmp_path / "lm")}))
        (tmp_path / "out" / CONFIG).write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "lm")}))
        return {}

    monkeypatch.setattr("datasets_scripts.reformulator_training.train", train)
    options = {"model_name_or_path": "lm", "data": "d", "output_dir": tmp_path / "out", "push_to_hub": "tester/words"}
    with LoopbackHub() as hub, hub.in_this_process(monkeypatch):
        train_reformulator.main(as_flags(options))
        pushed = hub.files("model", "tester/words")
        assert hub.private["model", "tester/words"]
    assert set(pushed) == {ADAPTER, CONFIG, RECORD, "reformulation.txt", "README.md", "tokenizer.json"}
    assert json.loads(pushed[RECORD])["base_model"] == json.loads(pushed[CONFIG])["base_model_name_or_path"] == "lm"
