"""Tiny models of all kinds with random weights, one batch for all of them, and a process that loads them remotely."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from modeling_contextcir import (
    CompositionBaseline,
    ContextCIRModel,
    ContextCIRProcessor,
    InstructCIRModel,
    InstructCIRProcessor,
)

TEXTS = ["make the red dog look at the cat", "", "add a tree", "the red hat and the red bag with a long, long strap"]
PHRASES = [[(5, 16), (25, 32)], [], [(4, 10)], [(0, 11), (16, 27), (33, 51)]]

CONTEXTCIR = (ContextCIRModel, ContextCIRProcessor)
INSTRUCTCIR = (InstructCIRModel, InstructCIRProcessor)
BASELINE = (CompositionBaseline, ContextCIRProcessor)
FUSION = {"fusion_hidden_size": 40}  # differs from the width of both encoders
IMAGE_QUERIES, CLIP_TARGETS = {"fusion_direction": "image_to_text"}, {"target_encoding": "clip"}
POOLED_IMAGE = {"pool_image_tokens": True}
KINDS = {  # kind of model -> class, processor, and fields of the config
    "contextcir": (*CONTEXTCIR, FUSION),
    "contextcir-image-queries": (*CONTEXTCIR, FUSION | IMAGE_QUERIES),
    "contextcir-clip-targets": (*CONTEXTCIR, FUSION | CLIP_TARGETS),
    "contextcir-image-queries-clip-targets": (*CONTEXTCIR, FUSION | IMAGE_QUERIES | CLIP_TARGETS),
    "contextcir-pooled-image": (*CONTEXTCIR, FUSION | POOLED_IMAGE),
    "instructcir": (*INSTRUCTCIR, {}),
    "instructcir-no-cross-attention": (*INSTRUCTCIR, {"cross_attention": False}),
    "instructcir-no-predictor-text": (*INSTRUCTCIR, {"predictor_text": False}),
    "combiner": (*BASELINE, {"composition": "combiner"}),
    "tirg": (*BASELINE, {"composition": "tirg"}),
}


@pytest.fixture(scope="session")
def processor(clip_folder):
    return ContextCIRProcessor.from_pretrained(clip_folder)


@pytest.fixture(scope="session")
def batch(processor, images):
    """Arguments of `forward` for four triplets with six noun phrases."""
    inputs = processor(images=images, text=TEXTS, noun_phrases=PHRASES)
    assert inputs.pop("num_truncated_texts") == 0 and inputs.pop("num_dropped_phrases") == 0
    return {"reference_index": torch.arange(4), "target_index": torch.arange(4, 8), **inputs}


@pytest.fixture(scope="session")
def build(clip_config):
    def build(kind="contextcir", **fields):
        """A model like one in the middle of its training: no weight is zero, and lambda of InstructCIR is not 1."""
        model_class, _, defaults = KINDS[kind]
        torch.manual_seed(0)
        encoders = {name: getattr(clip_config, name).to_dict() for name in ("vision_config", "text_config")}
        combiner_weight = fields.pop("combiner_weight", 0.8)
        config = model_class.config_class(**encoders, **{"projection_dim": 20} | defaults | fields)
        model = model_class(config).eval()
        if model_class is InstructCIRModel:
            torch.nn.init.normal_(model.predictor.fc2.weight, std=0.1)
            model.combiner_weight.fill_(combiner_weight)
        return model

    return build


def with_phrases(model):
    return isinstance(model, ContextCIRModel)


def step(model, batch, **changes):
    """Output of a training step on what the model uses of a batch."""
    batch = {name: value for name, value in (batch | changes).items() if value is not None}
    if not with_phrases(model):
        batch = {name: value for name, value in batch.items() if not name.startswith("phrase_")}
    return model(**batch)


def queries(batch, size=4):
    """The first queries of a batch, as arguments of `get_query_features`."""
    pixel_values = batch["pixel_values"][batch["reference_index"][:size]]
    return {"pixel_values": pixel_values, **{name: batch[name][:size] for name in ("input_ids", "attention_mask")}}


def total_loss(output):
    """A loss on all outputs."""
    others = [embeds for embeds in (output.target_embeds, output.reference_embeds) if embeds is not None]
    logits = output.logit_scale * output.query_embeds @ torch.cat(others).T
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))
    if output.context_attentions is not None:
        loss = loss + (output.context_attentions - output.isolated_attentions).relu().sum()
    return loss


def assert_equal_outputs(one, other, atol=1e-5):
    assert set(one) == set(other)
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=atol, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


# Remote code

OLD = Path(__file__).parents[1] / "fixtures" / "checkpoints_0_1"  # of version 0.1.0
OPTIONS = {  # of the processors of new folders
    "contextcir": {"noun_phrases": [[[5, 18]]]},  # "the red thing"
    "instructcir": {"count_truncated": True},
    "combiner": {"count_truncated": True},
}


def embed(model, processor, options=None):
    """Embeddings of one query and image and, with options of the processor, the output of a training step."""
    image = Image.new("RGB", (20, 18), "red")
    image.paste((0, 90, 200), (5, 4, 14, 12))
    inputs = processor(images=[image], text=["make the red thing wide"], **(options or {}))
    query = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.inference_mode():
        embeds = {"query_embeds": model.get_query_features(**query)}
        embeds["image_embeds"] = model.get_image_features(inputs["pixel_values"])
        if options is not None:
            only = torch.tensor([0])
            inputs = {name: value for name, value in inputs.items() if not name.startswith("num_")}
            embeds |= model(reference_index=only, target_index=only, **inputs)
    return {name: value.tolist() for name, value in embeds.items()}


LOAD = """
import json, sys, torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor

class Blocker:
    def find_spec(self, name, *args):
        if name.split(".")[0] in ("modeling_contextcir", "modeling_instructcir", "modeling_baselines", "contextcir"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
results = {}
for folder, options in json.loads(sys.argv[1]).items():
    loaded = [kind.from_pretrained(folder, trust_remote_code=True) for kind in (AutoConfig, AutoModel, AutoProcessor)]
    _, model, processor = loaded
    results[folder] = {"modules": [type(x).__module__ for x in loaded], "embeds": embed(model, processor, options)}
    if options is not None:
        model.save_pretrained(folder + "-again")
        processor.save_pretrained(folder + "-again")
print(json.dumps(results))
"""


@pytest.fixture(scope="session")
def remote(tmp_path_factory, clip_folder, build):
    """Results of one process without this package, by the name of the folder that it loads: the fixtures of version
    0.1.0, and new folders."""
    new = tmp_path_factory.mktemp("new")
    folders = {str(OLD / name): None for name in ("contextcir", "instructcir", "cir_baseline")}
    for kind, options in OPTIONS.items():
        build(kind).save_pretrained(new / f"new-{kind}")
        KINDS[kind][1].from_pretrained(clip_folder).save_pretrained(new / f"new-{kind}")
        folders[str(new / f"new-{kind}")] = options
    environment = {**os.environ, "PYTHONPATH": "", "HF_HOME": str(new / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", inspect.getsource(embed) + LOAD, json.dumps(folders)]
    done = subprocess.run(command, env=environment, cwd=new, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    return {Path(folder).name: {"folder": Path(folder), **result} for folder, result in results.items()}


def assert_same_embeds(found, expected, atol):
    assert set(found) >= set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(torch.tensor(found[key]), torch.tensor(value), atol=atol, rtol=0)
