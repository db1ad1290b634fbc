"""Training keeps float32 weights whatever the type that they were stored in."""

import logging

import pytest
import torch
from safetensors.torch import load_file

from modeling_contextcir import ContextCIRModel
from tests.tiny_triplets import triplets
from tests.training.conftest import folder_of, weights


@pytest.fixture
def heard(caplog):
    """The log of transformers, which does not propagate."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    logging.getLogger("contextcir").addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logging.getLogger("contextcir").removeHandler(caplog.handler)


@pytest.mark.fault("S04", "a model stored in half precision trains on float32 weights")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bf16", [False, True])
def test_half_precision_is_for_storing_and_autocast_only(build, clip_folder, dtype, bf16, heard):
    model = ContextCIRModel.from_clip_pretrained(clip_folder).to(dtype)
    trainer = build(model=model, learning_rate=2e-5, max_steps=3, bf16=bf16)
    assert {tensor.dtype for tensor in trainer.model.state_dict().values()} == {torch.float32}
    assert str(dtype).removeprefix("torch.") in heard.text and "float32" in heard.text
    before = weights(trainer)
    seen = []
    trainer.model.projection.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    trainer.train()
    assert set(seen) == {torch.bfloat16 if bf16 else torch.float32}
    moved = sum((before[name] != value).sum() for name, value in weights(trainer).items())
    assert moved > 0.9 * sum(value.numel() for value in before.values())
    trainer.save_model()
    assert {tensor.dtype for tensor in load_file(folder_of(trainer) / "model.safetensors").values()} == {torch.float32}


@pytest.mark.fault("S08", "evaluation in half precision does not change the model that is saved")
@pytest.mark.parametrize("option", ["bf16_full_eval", "fp16_full_eval"])
def test_half_precision_evaluation_leaves_the_model_alone(build, option):
    trainer = build(eval_rows=triplets(3), **{option: True})
    trainer.train()
    before, seen = weights(trainer), []
    trainer.model.projection.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    assert set(seen) == {torch.bfloat16 if option.startswith("bf16") else torch.float16}
    after = weights(trainer)
    assert all(torch.equal(before[name], value) for name, value in after.items())
    trainer.save_model()
    saved = load_file(folder_of(trainer) / "model.safetensors")
    assert all(torch.equal(before[name], value) for name, value in saved.items() if name in before)
