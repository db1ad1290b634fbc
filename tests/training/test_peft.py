"""Adapters of peft, as users add them: trained, saved alone, resumed."""

import pytest

from contextcir.training.checkpoints import checkpoint_problem
from modeling_contextcir import ContextCIRModel
from tests.training.conftest import SAVING, changed, folder_of, logged, weights

peft = pytest.importorskip("peft")
LORA = {"r": 2, "target_modules": r"(text_model|vision_model)\..*\.(q_proj|v_proj)"}


@pytest.fixture
def adapted(build, clip_folder):
    def adapted(**options):
        import torch

        torch.manual_seed(0)
        model = ContextCIRModel.from_clip_pretrained(clip_folder)
        model = peft.get_peft_model(model, peft.LoraConfig(**LORA, modules_to_save=["projection"]))
        return build(model=model, **options)

    return adapted


@pytest.mark.fault("L01", "a run with adapters of peft is resumed from its adapters")
@pytest.mark.slow
def test_a_run_with_adapters_is_resumed(adapted):
    whole = adapted(output="whole", max_steps=4)
    whole.train()
    adapted(max_steps=2, **SAVING).train()
    last = folder_of(whole).parent / "run" / "checkpoint-2"
    assert not (last / "model.safetensors").exists() and checkpoint_problem(last) is None
    resumed = adapted(max_steps=4, lr_scheduler_type="constant", min_learning_rate=2e-7)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in logged(resumed)] == [1, 2, 3, 4]
    content = (last / "adapter_model.safetensors").read_bytes()
    (last / "adapter_model.safetensors").write_bytes(content[:-9])
    assert "adapter_model.safetensors" in checkpoint_problem(last)


@pytest.mark.fault("L01", "a run with adapters of peft is resumed from its adapters")
def test_a_resumed_run_with_adapters_ends_with_the_same_bits(adapted):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = adapted(output="whole", **options)
    whole.train()
    (folder_of(whole).parent / "run").mkdir()
    (folder_of(whole) / "checkpoint-2").rename(folder_of(whole).parent / "run" / "checkpoint-2")
    resumed = adapted(**options)
    resumed.train(resume_from_checkpoint=True)
    assert not changed(weights(whole), weights(resumed))
