"""Checkpoints of version 0.1.0 give the same embeddings as before, with the installed package and their own code."""

import json

import pytest
from transformers import AutoModel, AutoProcessor

import modeling_contextcir
from tests.models.conftest import OLD, assert_same_embeds, embed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contextcir", "instructcir", "cir_baseline"])
def test_with_their_own_code(remote, name):
    result = remote[name]
    assert all(module.startswith("transformers_modules.") for module in result["modules"][:2])
    assert_same_embeds(result["embeds"], json.loads((OLD / name / "expected.json").read_text()), atol=1e-6)


@pytest.mark.parametrize("name", ["contextcir", "instructcir", "cir_baseline"])
def test_with_the_installed_package(name):
    model, processor = AutoModel.from_pretrained(OLD / name), AutoProcessor.from_pretrained(OLD / name)
    assert type(model).__module__.startswith(modeling_contextcir.__name__)
    expected = json.loads((OLD / name / "expected.json").read_text())
    assert_same_embeds(embed(model, processor), expected, atol=1e-6)
