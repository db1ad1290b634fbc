"""Groups of weights: what decays, the rate of the encoders, and resuming with other groups."""

import pytest
import torch

from tests.training.conftest import SAVING, changed, folder_of, weights

NOT_LAYERS = {"logit_scale", "class_embedding", "position_embedding", "seed", "combiner_weight", "composer.weights"}


def groups(trainer):
    """The weight decay and the rate of each weight, by its name."""
    names = {weight: name for name, weight in trainer.model.named_parameters()}
    optimizer = trainer.create_optimizer()
    return {names[p]: (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize(
    "kind, model_options",
    [
        ("contextcir", {"fusion_hidden_size": 40}),
        ("instructcir", {}),
        ("cir_baseline", {"composition": "combiner"}),
        ("cir_baseline", {"composition": "tirg"}),
    ],
    ids=str,
)
def test_only_weights_of_layers_decay(build, kind, model_options):
    trainer = build(kind, model_options=model_options, weight_decay=0.1)
    found = groups(trainer)
    assert found.keys() == {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    for name, (decay, _) in found.items():
        module = trainer.model.get_submodule(name.rpartition(".")[0])
        layer = isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and name.endswith(".weight")
        assert decay == (0.1 if layer or "token_embedding" in name else 0), name
    assert any("norm" in name for name in found) and any(name.endswith("bias") for name in found)


def test_the_groups_of_earlier_versions_are_a_switch_away(build):
    new = groups(build(output="new", weight_decay=0.1))
    old = groups(build(output="old", weight_decay=0.1, weight_decay_of="transformers"))
    assert {name for name in new if new[name] != old[name]} == {
        "logit_scale",
        "pooler.seed",
        "text_model.embeddings.position_embedding.weight",
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding.weight",
    }


def test_without_gradients_only_layers_shrink(build):
    """AdamW moves a weight without a gradient by its decay alone."""
    trainer = build(weight_decay=0.5, learning_rate=1e-2)
    optimizer, before = trainer.create_optimizer(), weights(trainer)
    for weight in trainer.model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moved = changed(before, weights(trainer))
    assert "projection.weight" in moved and not [name for name in moved if name.endswith(tuple(NOT_LAYERS))]


@pytest.mark.parametrize("decay_of", ["layers", "transformers"])
def test_encoders_have_their_own_rate(build, decay_of):
    options = {"learning_rate": 1e-3, "min_learning_rate": 1e-5, "weight_decay_of": decay_of, "max_steps": 4}
    trainer = build(encoder_learning_rate=1e-4, **options)
    found = groups(trainer)
    assert {name: decay for name, (decay, _) in found.items()} == {
        name: decay for name, (decay, _) in groups(build(output="plain", **options)).items()
    }
    for name, (_, rate) in found.items():
        assert rate == (1e-4 if name.startswith(("text_model.", "vision_model.")) else 1e-3), name
    trainer.train()
    for group, first in zip(trainer.optimizer.param_groups, (1e-3, 1e-3, 1e-4, 1e-4), strict=True):
        assert group["lr"] == pytest.approx(first / 100)  # the same schedule
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry][0] == 1e-3


def test_a_rate_of_zero_keeps_the_encoders(build):
    trainer = build(encoder_learning_rate=0.0)
    before = weights(trainer)
    trainer.train()
    moved = changed(before, weights(trainer))
    assert moved and not [name for name in moved if name.startswith(("text_model.", "vision_model."))]


def test_adapters_learn_at_the_rate_of_their_encoder(build):
    peft = pytest.importorskip("peft")
    trainer = build(encoder_learning_rate=1e-4)
    pattern = r"(text_model|vision_model)\..*\.(q_proj|v_proj)"
    peft.LoraModel(trainer.model, peft.LoraConfig(r=2, target_modules=pattern), "default")
    rates = {name: rate for name, (_, rate) in groups(trainer).items() if "lora_" in name}
    assert rates and set(rates.values()) == {1e-4}


def test_an_optimizer_of_the_user_has_its_own_rates(build, clip_folder, tmp_path):
    from contextcir.training.trainer import CIRTrainer

    trainer = build(encoder_learning_rate=1e-4)
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer.*encoder_learning_rate"):
        CIRTrainer(
            trainer.model, trainer.args, processing_class=trainer.processing_class, optimizers=(optimizer, None)
        )


@pytest.mark.parametrize("other", [{"weight_decay_of": "transformers"}, {"encoder_learning_rate": 1e-4}], ids=str)
def test_a_checkpoint_with_other_groups_is_refused(build, other):
    first = build(max_steps=1, **SAVING)
    first.train()
    resumed = build(max_steps=2, **other)
    with pytest.raises(ValueError, match=r"checkpoint-1 .*encoder_learning_rate.*weight_decay_of.*transformers"):
        resumed.train(resume_from_checkpoint=True)
    same = build(max_steps=2)
    same.train(resume_from_checkpoint=True)
    assert same.state.global_step == 2 and folder_of(same) == folder_of(first)


def test_a_resumed_run_with_rates_ends_with_the_same_bits(build):
    options = {"encoder_learning_rate": 1e-4, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = build(output="whole", **options)
    whole.train()
    (folder_of(whole).parent / "run").mkdir()
    (folder_of(whole) / "checkpoint-2").rename(folder_of(whole).parent / "run" / "checkpoint-2")
    resumed = build(**options)
    resumed.train(resume_from_checkpoint=True)
    assert not changed(weights(whole), weights(resumed))
