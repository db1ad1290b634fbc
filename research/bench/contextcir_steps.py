"""ConText-CIR: a training step with and without its loss on noun phrases, and the encoding of queries and galleries.

The naive step runs the vision encoder again for every noun phrase and pads every text to 77 tokens. It must reach the
same loss (to 1e-5) and gradients (to 1e-4 of their norm).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from contextcir.training.losses import concept_consistency_loss, contrastive_loss
from modeling_contextcir import ContextCIRConfig, ContextCIRModel
from research.bench.batches import CIRR_LENGTHS, encoder_configs, random_batch, random_ids
from research.bench.measuring import Report, compare

CONCEPT_WEIGHT = 0.08  # the paper's value
Batch = Mapping[str, torch.Tensor]


def build_model(quick: bool) -> ContextCIRModel:
    """Return a ConText-CIR model with random weights."""
    torch.manual_seed(0)
    return ContextCIRModel(ContextCIRConfig(**encoder_configs(quick)))


def pad_to_77(ids: torch.Tensor, mask: torch.Tensor, end_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad tokens and mask to 77, the longest text of CLIP."""
    more = 77 - ids.shape[1]
    return torch.nn.functional.pad(ids, (0, more), value=end_id), torch.nn.functional.pad(mask, (0, more))


def step(model: Any, batch: Batch, concepts: bool) -> torch.Tensor:
    """Run forward and backward of the trainer. Returns the loss."""
    model.zero_grad()
    if not concepts:
        batch = {key: value for key, value in batch.items() if not key.startswith("phrase_")}
    loss = total_loss(model(**batch), batch)
    loss.backward()
    return loss.detach()


def total_loss(output: Mapping[str, Any], batch: Batch) -> torch.Tensor:
    """Compute the loss of the trainer."""
    queries, targets, references = (output[f"{name}_embeds"] for name in ("query", "target", "reference"))
    loss = contrastive_loss(queries, targets, references, output["logit_scale"])
    if output.get("context_attentions") is not None:
        context, isolated = output["context_attentions"], output["isolated_attentions"]
        concepts = concept_consistency_loss(context, isolated, batch["phrase_sample"], len(queries))
        loss = loss + CONCEPT_WEIGHT * concepts.loss
    return loss


def naive_step(model: Any, batch: Batch) -> torch.Tensor:
    """Run the same step naively: pad each text to 77 tokens, and encode each pair of image and text separately."""
    model.zero_grad()
    end = model.config.empty_text_ids[1]
    references, targets = (batch["pixel_values"][batch[name]] for name in ("reference_index", "target_index"))
    samples = batch["phrase_sample"]
    empty = torch.tensor([model.config.empty_text_ids] * len(references), device=references.device)

    def fuse(pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        ids, mask = pad_to_77(ids, mask, end)
        prepared = model.fusion.prepare_images(model.encode_images(pixels))
        return model._fuse(prepared, model._encode_texts(ids), mask.bool(), True)

    def distribution(attentions: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        patches = (attentions[:, :, 1:] * token_mask[:, :, None]).sum(dim=1)
        return patches / patches.sum(dim=-1, keepdim=True)

    query_embeds, attentions = fuse(references, batch["input_ids"], batch["attention_mask"])
    reference_embeds, _ = fuse(references, empty, torch.ones_like(empty))
    target_embeds, _ = fuse(targets, empty, torch.ones_like(empty))
    with torch.no_grad():
        _, isolated = fuse(references[samples], batch["phrase_input_ids"], batch["phrase_attention_mask"])
    position = torch.arange(77, device=references.device)
    own_tokens = (position > 0) & (position < batch["phrase_attention_mask"].sum(dim=1, keepdim=True) - 1)
    in_context, _ = pad_to_77(batch["phrase_token_mask"], batch["phrase_token_mask"], False)
    output = {
        "query_embeds": query_embeds,
        "target_embeds": target_embeds,
        "reference_embeds": reference_embeds,
        "logit_scale": model.logit_scale.exp(),
        "context_attentions": distribution(attentions[samples], in_context),
        "isolated_attentions": distribution(isolated, own_tokens),
    }
    loss = total_loss(output, batch)
    loss.backward()
    return loss.detach()


def compare_gradients(model: Any, batch: Batch) -> dict[str, float]:
    """Return the differences of the naive step from ours: of the loss, and of the gradients relative to their norm."""
    loss = step(model, batch, True)
    ours = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).clone()
    naive_loss = naive_step(model, batch)
    naive = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return {
        "loss_difference": (loss - naive_loss).abs().item(),
        "gradient_difference": ((ours - naive).norm() / ours.norm()).item(),
    }


def bench_training(model: Any, batch_sizes: Sequence[int], repeats: int, device: str, report: Report) -> None:
    """Report a training step with the loss on noun phrases, compared with one without it and with the naive step."""
    for num_phrases, concept_goal, naive_goal in ((3, "<= 1.2", ">= 1.9"), (8, "<= 1.3", ">= 2.3")):
        for batch_size in batch_sizes:
            batch = random_batch(model, batch_size, num_phrases, device)
            what = f"batch {batch_size}, {num_phrases} phrases"
            with_concepts, without, naive = (
                partial(step, model, batch, True),
                partial(step, model, batch, False),
                partial(naive_step, model, batch),
            )
            seconds = compare(with_concepts, without, repeats, device)
            report.add(f"training step with / without CC loss, {what}", seconds[0] / seconds[1], concept_goal, seconds)
            differences = compare_gradients(model, batch)
            seconds = compare(naive, with_concepts, repeats, device)
            equal = differences["loss_difference"] <= 1e-5 and differences["gradient_difference"] <= 1e-4
            name = f"naive / our training step, {what}"
            report.add(name, seconds[0] / seconds[1], naive_goal, seconds, equal=equal, **differences)


@torch.no_grad()
def bench_encoding(model: Any, batch_size: int, repeats: int, device: str, report: Report) -> None:
    """Report the encoding of queries and of a gallery."""
    size, generator = model.config.vision_config.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randn(batch_size, 3, size, size, generator=generator).to(device)
    ids, mask = random_ids([CIRR_LENGTHS[i % 16] for i in range(batch_size)], model.config, generator)
    padded = [text.to(device) for text in pad_to_77(ids, mask, model.config.empty_text_ids[1])]
    short = [text.to(device) for text in (ids, mask)]

    def encode_padded() -> torch.Tensor:
        prepared = model.fusion.prepare_images(model.encode_images(pixels))
        return model._fuse(prepared, model._encode_texts(padded[0]), padded[1].bool())[0]

    variants = (encode_padded, partial(model.get_query_features, pixels, *short))
    seconds = compare(*variants, repeats, device)
    report.add("query encoding, texts padded to 77 / to the longest", seconds[0] / seconds[1], ">= 1.4", seconds)
    seconds = compare(partial(model.get_image_features, pixels), partial(model.vision_model, pixels), repeats, device)
    report.add('gallery encoding, f(I, "") / plain vision forward', seconds[0] / seconds[1], "<= 1.1", seconds)
