"""GradCache: the gradients of chunks are those of the whole step, whatever the model and the options."""

import types

import pytest
import torch
from transformers.models.clip.modeling_clip import CLIPAttention

from contextcir.training.adapters import lora_config
from contextcir.training.grad_cache import cut
from contextcir.training.objective import NOT_MODEL_INPUTS
from tests.models.conftest import IMAGE_QUERIES
from tests.tiny_triplets import png, triplet, triplets
from tests.training.conftest import changed, logged, weights

BATCH = 8
# Images repeat: two references have two texts, a target has two, and a target is a reference elsewhere.
SHARED = [
    triplet(
        row,
        reference_id=f"i{number}",
        reference_image={"bytes": png(number), "path": None},
        target_id=f"i{target}",
        target_image={"bytes": png(target), "path": None},
    )
    for row, (number, target) in enumerate([(0, 10), (1, 11), (0, 12), (2, 10), (3, 2), (4, 14), (1, 15), (5, 16)])
]
MODELS = {
    "contextcir": ("contextcir", {}),
    "image queries": ("contextcir", IMAGE_QUERIES),
    "clip targets": ("contextcir", {"target_encoding": "clip"}),
    "image queries, clip targets": ("contextcir", IMAGE_QUERIES | {"target_encoding": "clip"}),
    "instructcir": ("instructcir", {}),
    "instructcir without cross-attention": ("instructcir", {"cross_attention": False}),
    "combiner": ("cir_baseline", {"composition": "combiner"}),
    "tirg": ("cir_baseline", {"composition": "tirg"}),
}


def gradients(trainer, rows=SHARED, dtype=torch.float32, seed=0):
    """The loss and the gradients of one micro-batch, as training computes them, and the log of its parts."""
    torch.manual_seed(seed)
    batch = trainer.data_collator(rows)
    batch = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in batch.items()
    }
    trainer.model.to(dtype).zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, batch)
    found = {name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None}
    return loss, found, trainer._parts.drain(trainer.accelerator)


def assert_same(one, other, tolerance):
    """Compare gradients by the norm of each, losses and logs. A gradient that is zero but for rounding, as that of a
    constant that a softmax does not see, is compared by a hundredth of the norm of all."""
    torch.testing.assert_close(one[0], other[0], rtol=max(tolerance, 1e-6), atol=0)
    assert one[1].keys() == other[1].keys() and one[1]
    least = 0.01 * torch.stack([gradient.norm() for gradient in other[1].values()]).norm()
    for name, expected in other[1].items():
        difference, norm = (one[1][name] - expected).norm(), max(expected.norm(), least)
        assert difference <= tolerance * norm, f"{name}: {difference / norm:.1e}"
    assert list(one[2]) == list(other[2])
    for name, expected in other[2].items():
        assert one[2][name] == pytest.approx(expected, rel=max(tolerance, 1e-5)), name


def compare(build, tolerance, dtype=torch.float32, kind="contextcir", chunk=3, rows=SHARED, **options):
    options |= {"rows": rows}
    plain = build(kind, output="plain", **options)
    cached = build(kind, output="cached", grad_cache_chunk=chunk, **options)
    assert_same(gradients(cached, rows, dtype), gradients(plain, rows, dtype), tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_whole_step(build, name, dtype, tolerance):
    kind, model_options = MODELS[name]
    compare(build, tolerance, dtype, kind, model_options=model_options)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 1},
        {"chunk": 7},
        {"query_negatives": "all"},
        {"query_negatives": "none"},
        {"query_negatives": "none", "model_options": {"target_encoding": "clip"}},
        {"mask_repeated_targets": False},
        {"cc_form": "contrastive", "isolated_grad": True, "cc_weight": 1.0},
        {"cc_form": "absolute", "cc_slack": 0.01, "cc_weight": 1.0, "cc_warmup_steps": 0},
        {"cc_weight": 0.0},
        {"freeze_vision": True},
        {"freeze_text": True, "learn_temperature": False},
        {"train_only": "logit_scale"},
        {"train_only": "fusion"},
        {"freeze_vision": True, "encode_images_once": True},
        {"activation_checkpointing": True},
        {"ema_momentum": 0.9},
        {"kind": "instructcir", "ema_momentum": 0.9},
        {"kind": "instructcir", "train_only": "combiner_weight"},
    ],
    ids=str,
)
def test_gradients_are_the_same_with_every_option(build, options):
    compare(build, 1e-5, **options)


def test_gradients_are_the_same_under_autocast(build):
    compare(build, 2e-2, bf16=True)


def with_dropout(build, **options):
    """A trainer of a model with dropout in its encoders and in LoRA adapters, which is where a model may have it."""
    peft = pytest.importorskip("peft")
    trainer = build(**options)
    config = lora_config(trainer.model, rank=2, dropout=0.5)
    peft.LoraModel(trainer.model, config, "default")
    for name, parameter in trainer.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    for module in trainer.model.modules():
        if isinstance(module, CLIPAttention):
            module.dropout = 0.3
    trainer.model.train()
    return trainer


def recorded(trainer, monkeypatch):
    """The outputs of all passes of one step, in their order."""
    outputs, forward = [], trainer._forward
    monkeypatch.setattr(trainer, "_forward", lambda *args: outputs.append(forward(*args)) or outputs[-1])
    return outputs


def test_the_second_pass_draws_the_random_numbers_of_the_first(build, monkeypatch):
    trainer = with_dropout(build, rows=SHARED, grad_cache_chunk=3)
    outputs = recorded(trainer, monkeypatch)
    gradients(trainer)
    goes_on = torch.rand(())
    assert len(outputs) == 6
    for first, second in zip(outputs[:3], outputs[3:], strict=True):
        for name in ("query_embeds", "target_embeds", "reference_embeds"):
            assert torch.equal(first[name], second[name]) and not first[name].requires_grad
    assert not torch.equal(outputs[0].query_embeds, trainer._forward(trainer.model, chunks_of(trainer)[1][0])[0])
    torch.manual_seed(0)
    with torch.no_grad():
        for inputs in chunks_of(trainer)[1]:
            empty = {name: value[:0] for name, value in inputs.items() if name.startswith("phrase_")}
            trainer._forward(trainer.model, inputs | empty)
    assert torch.equal(goes_on, torch.rand(()))  # as after one pass


def chunks_of(trainer, rows=SHARED):
    """The chunks of a batch, and the arguments of `forward` of each."""
    batch = trainer.data_collator(rows)
    batch = {name: value for name, value in batch.items() if name not in NOT_MODEL_INPUTS}
    chunks = cut(batch, 3)
    return chunks, [chunk.inputs(batch) for chunk in chunks]


def test_gradients_with_dropout_are_those_of_one_graph_of_all_chunks(build):
    trainer = with_dropout(build, rows=SHARED, grad_cache_chunk=3, cc_weight=0.0)
    loss, found, _ = gradients(trainer)
    torch.manual_seed(0)
    trainer.model.zero_grad()
    chunks, arguments = chunks_of(trainer)
    outputs = [trainer._forward(trainer.model, inputs) for inputs in arguments]
    texts, targets = (torch.cat([getattr(chunk, name) for chunk in chunks]).argsort() for name in ("texts", "targets"))
    own = [output.target_embeds[: len(chunk.targets)] for output, chunk in zip(outputs, chunks, strict=True)]
    batch = trainer.data_collator(SHARED)
    whole = types.SimpleNamespace(
        query_embeds=torch.cat([output.query_embeds for output in outputs])[texts],
        reference_embeds=torch.cat([output.reference_embeds for output in outputs])[texts],
        target_embeds=torch.cat(own)[targets][batch["target_index"].unique(return_inverse=True)[1]],
        logit_scale=outputs[0].logit_scale,
    )
    expected = trainer._contrastive_loss(whole, batch)
    expected.backward()
    grads = {name: value.grad for name, value in trainer.model.named_parameters() if value.grad is not None}
    assert_same((loss, found, {}), (expected.detach(), grads, {}), 1e-5)


# Cutting


def test_nearly_every_image_is_in_one_chunk(build):
    trainer = build(rows=SHARED)
    batch, (chunks, arguments) = trainer.data_collator(SHARED), chunks_of(trainer)
    assert [len(chunk.texts) for chunk in chunks] == [3, 3, 2]
    assert sorted(torch.cat([chunk.texts for chunk in chunks]).tolist()) == list(range(8))
    distinct = batch["target_index"].unique()
    assert sorted(torch.cat([chunk.targets for chunk in chunks]).tolist()) == list(range(len(distinct)))
    encoded = [len(inputs["pixel_values"]) for inputs in arguments]
    assert sum(encoded) <= len(batch["pixel_values"]) + 2  # a reference whose texts lie on a border is encoded again
    for chunk, inputs in zip(chunks, arguments, strict=True):
        places = batch["reference_index"][chunk.texts]
        assert len(inputs["pixel_values"]) <= 2 * len(chunk.texts)
        assert torch.equal(inputs["pixel_values"][inputs["reference_index"]], batch["pixel_values"][places])
        targets = inputs["pixel_values"][inputs["target_index"]][: len(chunk.targets)]
        assert torch.equal(targets, batch["pixel_values"][distinct[chunk.targets]])
        own = [row for row in range(len(batch["phrase_sample"])) if batch["phrase_sample"][row] in chunk.texts]
        samples = chunk.texts[inputs["phrase_sample"]]
        assert sorted(samples.tolist()) == sorted(batch["phrase_sample"][own].tolist())
        for place, sample in enumerate(samples.tolist()):
            assert inputs["attention_mask"][inputs["phrase_sample"][place]][inputs["phrase_token_mask"][place]].all()
            ids = batch["phrase_input_ids"][batch["phrase_sample"] == sample]
            assert (inputs["phrase_input_ids"][place] == ids).all(dim=1).any()


def test_what_cannot_be_cut_is_named(build):
    batch = {name: torch.zeros(4, dtype=torch.long) for name in ("reference_index", "target_index", "depth_maps")}
    with pytest.raises(ValueError, match="grad_cache_chunk.*depth_maps"):
        cut(batch, 2)


# Training


def test_a_chunk_as_large_as_the_batch_changes_no_bit(build):
    plain, other = build(output="plain"), build(output="other", grad_cache_chunk=4)
    plain.train()
    other.train()
    assert not changed(weights(plain), weights(other))


def test_training_goes_the_same_way(build):
    options = {"rows": SHARED + triplets(8), "gradient_accumulation_steps": 2, "max_steps": 3, "cc_weight": 0.5}
    options |= {"optim": "sgd", "learning_rate": 1e-2, "augmentation": "crop"}
    plain, cached = build(output="plain", **options), build(output="cached", grad_cache_chunk=3, **options)
    plain.train()
    cached.train()
    after = weights(cached)
    for name, value in weights(plain).items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=1e-4)
    for one, other in zip(logged(cached), logged(plain), strict=True):
        assert list(one) == list(other)
        for name in other:
            assert one[name] == pytest.approx(other[name], rel=1e-3), name


def test_evaluation_is_not_cut(build, monkeypatch):
    trainer = build(eval_rows=SHARED, grad_cache_chunk=2, per_device_eval_batch_size=8)
    outputs = recorded(trainer, monkeypatch)
    trainer.evaluate()
    assert [len(output.query_embeds) for output in outputs] == [8]


def test_models_that_see_the_batch_are_refused(build, clip_folder):
    from modeling_contextcir import ContextCIRModel

    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    model.projection = torch.nn.Sequential(model.projection, torch.nn.BatchNorm1d(20))
    with pytest.raises(ValueError, match="batch normalisation.*grad_cache_chunk"):
        build(model=model, grad_cache_chunk=2)
    build(model=model)
