"""TensorBoard, Weights & Biases and trackio get the same names, those of the history, and no secrets.

The libraries are played by stand-ins: transformers' own callbacks write to them.
"""

import json
import sys
from collections import defaultdict
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from transformers.integrations import integration_utils

from tests.tiny_triplets import triplets
from tests.training.conftest import folder_of

LOGGERS = ("tensorboard", "wandb", "trackio")
OF_THE_RUN = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
TOKEN = "hf_" + "s" * 34


class Config(dict):
    def update(self, values, allow_val_change):
        super().update(values)


@pytest.fixture
def heard(monkeypatch):
    """What each logger has got: `(step, name) -> value`, and its hyper-parameters."""
    values, told, summary = defaultdict(dict), {"wandb": Config(), "trackio": Config(), "tensorboard": {}}, {}

    def log_to(name):
        def log(logs):
            logs = dict(logs)
            step = logs.pop("train/global_step")
            values[name] |= {(step, key): value for key, value in logs.items()}

        return log

    class SummaryWriter:
        def __init__(self, log_dir):
            told["tensorboard"]["log_dir"] = log_dir

        def add_scalar(self, key, value, step):
            values["tensorboard"][step, key] = value

        def add_text(self, key, text):
            told["tensorboard"][key] = json.loads(text)

        def flush(self):
            pass

        close = flush

    def module(name, **members):
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)

    for name in LOGGERS:
        monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: True)
    module("tensorboard")
    module("torch.utils.tensorboard", SummaryWriter=SummaryWriter)
    run = SimpleNamespace(summary=summary, _label=lambda code: None)
    module("wandb", init=lambda **_: None, run=run, config=told["wandb"], log=log_to("wandb"))
    module("wandb.sdk.lib.config_util", ConfigError=RuntimeError)
    space = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
    calls = {"init": lambda **_: None, "finish": lambda: None, "log": log_to("trackio")}
    module("trackio", config=told["trackio"], context_vars=space, **calls)
    return SimpleNamespace(values=values, told=told, summary=summary)


def shown(name):
    """The name by which loggers show a number of the history."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


@pytest.fixture
def trainer(build, heard):
    trainer = build(
        eval_rows={"near": triplets(3), "far": triplets(5)},
        eval_strategy="steps",
        eval_steps=1,
        evaluator=lambda model: {"recall@1": 0.5},
        report_to=[*LOGGERS],
        matryoshka_dims=[20, 8],
        hub_token=TOKEN,
    )
    trainer.train()
    return trainer


def test_the_same_names_reach_every_logger(heard, trainer):
    history = {
        (entry["step"], shown(name)): value
        for entry in trainer.state.log_history
        for name, value in entry.items()
        if name != "step"
    }
    names = {name for _, name in history}
    assert {"train/loss", "train/temperature", "train/dim8_loss_contrastive", "train/learning_rate"} <= names
    assert {"eval/near_loss", "eval/far_dim8_loss_contrastive", "eval/recall@1"} <= names
    of_the_run = {key for key in history if key[1].removeprefix("train/") in OF_THE_RUN}
    assert len(of_the_run) == len(OF_THE_RUN)
    assert heard.values["tensorboard"] == history
    assert (
        heard.values["wandb"] == heard.values["trackio"] == {k: v for k, v in history.items() if k not in of_the_run}
    )
    assert heard.summary == {name.removeprefix("train/"): history[step, name] for step, name in of_the_run}


def test_loggers_are_told_no_secrets_and_no_paths_that_nobody_gave(heard, trainer, clip_folder):
    given = (str(folder_of(trainer)), clip_folder)
    for name in LOGGERS:
        told = json.dumps(heard.told[name], default=str)
        assert '"learning_rate": 0.001' in told and '"cc_weight"' in told and TOKEN not in told
        others = [text for text in strings(json.loads(told)) if text.startswith("/") and not text.startswith(given)]
        assert not others, (name, others)


def strings(value):
    """All texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in values for text in strings(one)]
