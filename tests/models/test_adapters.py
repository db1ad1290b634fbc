"""LoRA with peft: what is trained and saved, on which base it loads, merging, and training that is resumed."""

import pytest
import torch
from safetensors.torch import load_file

from contextcir.cli.train_arguments import ModelArguments
from contextcir.cli.train_model import add_lora
from contextcir.training.adapters import lora_config, modules_outside_encoders
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRProcessor
from tests.models.conftest import KINDS, assert_equal_outputs, step, total_loss
from tests.models.test_every_model import NEW_PARTS
from tests.tiny_triplets import dataset, triplets

peft = pytest.importorskip("peft", reason="adapters need the extra `peft`")
every_adapted = pytest.mark.parametrize("kind", ["contextcir", "contextcir-clip-targets", "instructcir", "combiner"])


def from_clip(clip_folder, kind, seed):
    torch.manual_seed(seed)
    return KINDS[kind][0].from_clip_pretrained(clip_folder, **KINDS[kind][2])


@every_adapted
@pytest.mark.fault(
    "L36", "lora_config trains and saves all that is new beside CLIP, and the adapter loads on any base"
)
def test_an_adapter_holds_all_that_is_new(clip_folder, batch, tmp_path, kind):
    base = from_clip(clip_folder, kind, seed=0)
    names = modules_outside_encoders(base)
    assert NEW_PARTS[kind.split("-")[0]] - {"combiner_weight"} <= {name.split(".")[0] for name in names}
    model = peft.get_peft_model(base, lora_config(base, rank=3))
    encoders = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and "text_model" in n or "vision_model" in n and p.requires_grad
    ]
    assert encoders and all("lora_" in name for name in encoders)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    total_loss(step(model.base_model.model, batch)).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    optimizer.step()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert not [name for name in saved if "encoder.layers" in name and "lora_" not in name]

    trained = step(model.base_model.model, batch)
    other = peft.PeftModel.from_pretrained(from_clip(clip_folder, kind, seed=1), tmp_path)
    assert_equal_outputs(trained, step(other.base_model.model, batch), atol=1e-6)
    merged = other.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = KINDS[kind][0].from_pretrained(tmp_path / "merged")
    assert_equal_outputs(trained, step(again, batch), atol=1e-5)
    assert not torch.allclose(
        trained.query_embeds, step(from_clip(clip_folder, kind, 0), batch).query_embeds, atol=1e-3
    )


@every_adapted
@pytest.mark.fault("L36", "a checkpoint of an unfinished run with --lora_rank loads, with its adapters merged")
def test_a_checkpoint_with_adapters_loads(clip_folder, batch, tmp_path, kind):
    model = from_clip(clip_folder, kind, seed=0)
    merge = add_lora(model, ModelArguments(clip_name_or_path=clip_folder, lora_rank=2, lora_alpha=6))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    expected = step(model, batch)
    model.save_pretrained(tmp_path / "checkpoint")
    merge()
    model.save_pretrained(tmp_path / "merged")
    for name in ("checkpoint", "merged"):
        loaded = KINDS[kind][0].from_pretrained(tmp_path / name)
        assert_equal_outputs(expected, step(loaded, batch), atol=1e-5)
    assert not torch.allclose(
        expected.query_embeds, step(from_clip(clip_folder, kind, 0), batch).query_embeds, atol=1e-3
    )


@pytest.mark.fault("L36", "adapters whose scale is not known are named")
def test_adapters_without_a_scale_are_named(clip_folder, tmp_path):
    model = from_clip(clip_folder, "contextcir", seed=0)
    peft.LoraModel(model, lora_config(model, rank=2), "default")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="LoRA.*scale"):
        KINDS["contextcir"][0].from_pretrained(tmp_path)


def trainer(clip_folder, folder, kind="contextcir", steps=4):
    model = from_clip(clip_folder, kind, seed=0)
    args = CIRTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=steps,
        save_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    return CIRTrainer(
        peft.get_peft_model(model, lora_config(model, rank=2)),
        args,
        train_dataset=dataset(triplets(8)),
        processing_class=ContextCIRProcessor.from_pretrained(clip_folder),
    )


@pytest.mark.slow
@pytest.mark.fault("L37", "a run of the user's own get_peft_model is saved, resumed with equal weights, and loaded")
def test_a_run_with_an_adapter_is_resumed(clip_folder, batch, tmp_path):
    whole = trainer(clip_folder, tmp_path / "whole")
    whole.train()
    half = tmp_path / "whole" / "checkpoint-2"
    files = {path.name for path in half.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files and "model.safetensors" not in files
    second = trainer(clip_folder, tmp_path / "second")
    second.train(resume_from_checkpoint=str(half))
    expected = whole.model.state_dict()
    assert second.state.global_step == 4
    for name, value in second.model.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], atol=1e-6, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
    second.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    loaded = peft.PeftModel.from_pretrained(from_clip(clip_folder, "contextcir", seed=5), tmp_path / "saved")
    assert_equal_outputs(
        step(second.model.eval().base_model.model, batch), step(loaded.eval().base_model.model, batch), atol=1e-6
    )
    assert second.record()["model"]["parameters"] > 0


@pytest.mark.slow
@pytest.mark.fault("L37", "a damaged or missing adapter in a checkpoint is named, and the one before is taken")
def test_a_damaged_adapter_is_skipped(clip_folder, tmp_path):
    first = trainer(clip_folder, tmp_path)
    first.train()
    last = tmp_path / "checkpoint-4" / "adapter_model.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(ValueError, match="adapter_model.safetensors is damaged"):
        trainer(clip_folder, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    second = trainer(clip_folder, tmp_path)
    assert second.checkpoint_to_resume(True).endswith("checkpoint-2")
