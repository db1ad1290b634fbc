"""InstructCIR: a training step and the encoding of a gallery, compared with plain CLIP by time and by operations."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from contextcir.training.ema import MovingAverage
from contextcir.training.losses import contrastive_loss
from modeling_contextcir import InstructCIRConfig, InstructCIRModel
from research.bench.batches import encoder_configs, random_batch
from research.bench.measuring import Report, compare, operations


def instructcir_step(model: Any, batch: Mapping[str, torch.Tensor]) -> None:
    """Run forward and backward of the trainer, without a moving average."""
    model.zero_grad()
    output = model(**batch)
    loss = contrastive_loss(
        output.query_embeds, output.target_embeds, None, output.logit_scale, query_negatives="none"
    )
    loss.backward()


def clip_step(clip: Any, batch: Mapping[str, torch.Tensor]) -> None:
    """Run forward and backward of plain CLIP on the same images and texts. A query is the sum of its features."""
    clip.zero_grad()
    images = clip.get_image_features(batch["pixel_values"]).pooler_output
    texts = clip.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    queries = images[batch["reference_index"]] + texts
    targets = images[batch["target_index"]]
    embeds = [torch.nn.functional.normalize(some, dim=-1) for some in (queries, targets)]
    contrastive_loss(embeds[0], embeds[1], None, clip.logit_scale.exp(), query_negatives="none").backward()


def bench_instructcir(quick: bool, repeats: int, device: str, report: Report) -> None:
    """Report training with the paper's batch of 32, and the encoding of a gallery."""
    torch.manual_seed(0)
    model = InstructCIRModel(InstructCIRConfig(**encoder_configs(quick))).to(device).train()
    clip = CLIPModel(CLIPConfig(**encoder_configs(quick))).to(device).train()
    batch_size = 2 if quick else 32
    batch = random_batch(model, batch_size, 3, device)
    batch = {name: value for name, value in batch.items() if not name.startswith("phrase_")}
    ours, plain = partial(instructcir_step, model, batch), partial(clip_step, clip, batch)
    expected = operations(ours) / operations(plain)
    seconds = compare(ours, plain, repeats, device)
    ratio = seconds[0] / seconds[1]
    name = f"InstructCIR / CLIP training step, batch {batch_size}"
    report.add(f"{name}: time over operations", ratio / expected, "<= 1.15", seconds, time=ratio, operations=expected)
    average = MovingAverage(model, 0.996)
    seconds = compare(partial(average.update, model, 0.996), ours, repeats, device)
    report.add("moving average, update / training step", seconds[0] / seconds[1], "<= 0.03", seconds)
    model.zero_grad()
    with torch.no_grad():
        pixels = batch["pixel_values"]
        variants = (partial(model.eval().get_image_features, pixels), partial(model.vision_model, pixels))
        seconds = compare(*variants, repeats, device)
    report.add("InstructCIR gallery encoding / plain vision forward", seconds[0] / seconds[1], "<= 1.3", seconds)
