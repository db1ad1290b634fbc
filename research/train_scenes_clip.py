"""Train the tiny CLIP that ships with the repository, on scenes and their captions.

    python -m research.train_scenes_clip --output checkpoints/scenes-clip-tiny
    python -m research.train_scenes_clip --output runs/better --init checkpoints/scenes-clip-tiny

The demo starts from a pretrained CLIP, as users do. No published CLIP is that small and knows scenes. This one has
CLIP's architecture and contrastive loss (Radford et al. 2021) and a byte-pair vocabulary learned from the texts of the
scenes grammar. Pictures and captions are drawn during training.

A vision transformer of this size learns positions very slowly from whole captions alone. So linear heads on the patch
tokens predict the content of each cell of the grid (`--cell_weight`); they are not saved. Captions are expensive, so
only `--captions` pictures of a batch have one, in groups of a scene and its near misses: hard negatives of each other.
"""

import json
import logging
import random
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import ModelCard, ModelCardData
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.hf_argparser import HfArg
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.runtime.provenance import code_commit
from contextcir.scenes import (
    VERSION,
    Scene,
    apply,
    describe,
    near_miss,
    realise,
    render,
    sample_family,
    sample_scene,
)
from contextcir.scenes.world import BACKGROUNDS, CELLS, GRID, SHAPES, VALUES

logger = logging.getLogger("train_scenes_clip")
CARD = Path(__file__).with_name("scenes_clip_card.md")
GROUP = 4  # a scene and its near misses
NUM_TEXTS = 20_000  # that the tokenizer is trained on
NUM_SCORED = 1000  # scenes to measure on


@dataclass
class Arguments:
    """Options of the training."""

    _argument_group_name = "CLIP"

    output: str = HfArg(help="Folder for the model, the processor files, training.json and the card.")
    steps: int = HfArg(default=1800, help="Optimiser steps.")
    batch_size: int = HfArg(default=256, help="Pictures of a batch.")
    captions: int = HfArg(default=64, help="Pictures of a batch with a caption.")
    learning_rate: float = HfArg(default=1e-3, help="Peak learning rate (AdamW, warm-up, cosine to 0).")
    weight_decay: float = HfArg(default=0.05, help="Weight decay of matrices.")
    cell_weight: float = HfArg(default=1.0, help="Weight of the loss of the heads; 0: CLIP alone.")
    init: str | None = HfArg(default=None, help="Tiny CLIP to continue from, instead of random weights.")
    vision_width: int = HfArg(default=128, help="Width of the vision transformer.")
    vision_layers: int = HfArg(default=4, help="Layers of the vision transformer.")
    text_width: int = HfArg(default=128, help="Width of the text transformer.")
    text_layers: int = HfArg(default=2, help="Layers of the text transformer.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    patch_size: int = HfArg(default=16, help="Side of a patch in pixels.")
    save_every: int = HfArg(default=300, help="Steps between two measurements, each with a saved model.")
    seed: int = HfArg(default=0, help="Seed of weights and data.")
    device: str = HfArg(default="cuda" if torch.cuda.is_available() else "cpu", help="Torch device.")


def train_tokenizer(seed: int) -> CLIPTokenizer:
    """Train a CLIP tokenizer on captions and modification texts of the scenes grammar."""
    # An untrained CLIP tokenizer has CLIP's normalizer and pre-tokenizer; only the merges are learned.
    base = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = base.normalizer, base.pre_tokenizer
    rng = random.Random(f"tokenizer {seed}")
    texts: list[str] = []
    while len(texts) < NUM_TEXTS:
        texts += [query.text for query in sample_family(rng)]
        texts.append(realise(describe(rng, sample_scene(rng)))[0])
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # of the 256 bytes
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]  # CLIP pools at the largest id, the end token
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def build_model(args: Arguments, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return a CLIP with random weights."""

    def sizes(width: int, layers: int) -> dict[str, Any]:
        transformer = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        return transformer | {"num_attention_heads": 4, "hidden_act": "gelu"}

    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77, **special}
    vision = {"image_size": args.image_size, "patch_size": args.patch_size}
    return CLIPModel(
        CLIPConfig(
            vision_config=sizes(args.vision_width, args.vision_layers) | vision,
            text_config=sizes(args.text_width, args.text_layers) | text,
            projection_dim=128,
        )
    )


class CellHeads(nn.Module):
    """
    Linear heads that predict the content of each cell of the grid from the patch tokens. Used in training only.

    There are two sets of heads. The local heads read the tokens of the cell, so that tokens represent their content.
    The layout heads read the mean of all tokens, so that tokens also represent their position. With the local heads
    alone, tokens lose their position, because the task is the same in every cell; tokens of a CLIP trained on
    photographs keep it.

    Args:
        width (`int`): Width of the tokens.
        patches (`int`): Patches along a side of the picture.
    """

    def __init__(self, width: int, patches: int):
        super().__init__()
        self.patches = patches
        sizes = {name: len(values) for name, values in VALUES.items()}
        sizes["shape"] += 1  # an empty cell
        self.local = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self.layout = nn.ModuleDict({name: nn.Linear(width, len(CELLS) * size) for name, size in sizes.items()})
        self.place = nn.Linear(width, len(CELLS))
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map tokens `(batch, 1 + patches ** 2, width)` to logits: `background` `(batch, classes)`; `place`, and
        `local` and `layout` followed by an attribute such as `shape`, `(batch, cells, classes)`."""
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.patches, self.patches))
        cells = F.adaptive_avg_pool2d(grid, GRID).flatten(2).transpose(1, 2)  # (batch, cells, width)
        mean = tokens[:, 1:].mean(dim=1)
        return {
            "background": self.background(mean),
            "place": self.place(cells),
            **{f"local {name}": head(cells) for name, head in self.local.items()},
            **{f"layout {name}": head(mean).unflatten(1, (len(CELLS), -1)) for name, head in self.layout.items()},
        }


def labels_of(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """Return attribute -> class of every cell, `(batch, 9)`; `background` is `(batch,)`. An empty cell has a shape of
    its own, and -1 (ignored) for other attributes."""
    labels = {"background": torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes])}
    labels["place"] = torch.arange(len(CELLS)).expand(len(scenes), -1)
    for name, values in VALUES.items():
        nothing = len(SHAPES) if name == "shape" else -1
        labels[name] = torch.tensor(
            [
                [values.index(getattr(thing, name)) if (thing := scene.at(cell)) else nothing for cell in CELLS]
                for scene in scenes
            ]
        )
    return labels


def sample_scenes(rng: random.Random, args: Arguments) -> list[Scene]:
    """Sample the scenes of a batch: groups of near misses for the captions, then unrelated scenes."""
    scenes: list[Scene] = []
    while len(scenes) < args.captions:
        group = [sample_scene(rng)]
        while len(group) < GROUP:
            group += [other for other in [apply(group[0], near_miss(rng, group[0]))] if other not in group]
        scenes += group
    return scenes[: args.captions] + [sample_scene(rng) for _ in range(args.batch_size - args.captions)]


def make_batch(
    rng: random.Random, scenes: Sequence[Scene], captions: int, args: Arguments, tokenizer: Any, processor: Any
) -> tuple[torch.Tensor, Any]:
    """Return pictures `(len(scenes), 3, image_size, image_size)`, and the tokens of captions of the first scenes."""
    levels = np.stack([np.asarray(render(scene, rng.getrandbits(48), args.image_size)) for scene in scenes])
    mean, std = np.array(processor.image_mean, "f4"), np.array(processor.image_std, "f4")
    pixels = torch.from_numpy((levels.astype("f4") / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    texts = [realise(describe(rng, scene))[0] for scene in scenes[:captions]]
    return pixels, tokenizer(texts, padding=True, truncation=True, return_tensors="pt")


@torch.inference_mode()
def score(model: Any, args: Arguments, tokenizer: Any, processor: Any) -> dict[str, float]:
    """Measure recall@1, in percent, between `NUM_SCORED` unseen scenes and their captions, in both directions."""
    model.eval()
    rng = random.Random("scenes for scoring the tiny CLIP")
    scenes = [sample_scene(rng) for _ in range(NUM_SCORED)]
    pixels, tokens = make_batch(rng, scenes, NUM_SCORED, args, tokenizer, processor)
    images = [model.get_image_features(part.to(args.device)).pooler_output for part in pixels.split(250)]
    texts = [
        model.get_text_features(ids.to(args.device), attention_mask=mask.to(args.device)).pooler_output
        for ids, mask in zip(tokens["input_ids"].split(250), tokens["attention_mask"].split(250), strict=True)
    ]
    similarity = F.normalize(torch.cat(texts), dim=-1) @ F.normalize(torch.cat(images), dim=-1).T
    right = torch.arange(NUM_SCORED, device=similarity.device)
    model.train()
    return {
        "text_to_image_recall@1": 100 * (similarity.argmax(1) == right).float().mean().item(),
        "image_to_text_recall@1": 100 * (similarity.argmax(0) == right).float().mean().item(),
    }


@torch.inference_mode()
def score_heads(model: Any, heads: CellHeads, args: Arguments, tokenizer: Any, processor: Any) -> dict[str, float]:
    """Measure the accuracy of the heads, in percent, over the things of half as many unseen scenes."""
    rng = random.Random("scenes for scoring the names")
    scenes = [sample_scene(rng) for _ in range(NUM_SCORED // 2)]
    pixels, _ = make_batch(rng, scenes, 1, args, tokenizer, processor)
    tokens = torch.cat([model.vision_model(part.to(args.device)).last_hidden_state for part in pixels.split(250)])
    labels, percent = labels_of(scenes), {}
    for name, logits in heads(tokens).items():
        right = logits.argmax(-1).cpu() == labels[name.split()[-1]]
        things = right[labels["colour"] >= 0] if name != "background" else right  # not the empty cells
        percent[name] = 100 * things.float().mean().item()
    return percent


def heads_loss(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the mean cross-entropy of all heads."""
    losses = [
        F.cross_entropy(values.flatten(0, -2), labels[name.split()[-1]].flatten().to(values.device), ignore_index=-1)
        for name, values in logits.items()
    ]
    return torch.stack(losses).mean()


def compute_loss(
    model: Any, heads: CellHeads, scenes: Sequence[Scene], batch: tuple[torch.Tensor, Any], args: Arguments
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of a batch, and its parts for the log."""
    pixels, tokens = batch
    vision = model.vision_model(pixel_values=pixels.to(args.device))
    images = F.normalize(model.visual_projection(vision.pooler_output[: args.captions]), dim=-1)
    text = model.text_model(**tokens.to(args.device))
    texts = F.normalize(model.text_projection(text.pooler_output), dim=-1)
    logits = model.logit_scale.exp().clamp(max=100) * texts @ images.T  # (captions, captions)
    right = torch.arange(len(logits), device=logits.device)
    contrastive = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    cells = heads_loss(heads(vision.last_hidden_state), labels_of(scenes))
    parts = {"contrastive": contrastive.item(), "cells": cells.item()}
    return contrastive + args.cell_weight * cells, parts


def save(model: Any, tokenizer: Any, processor: Any, args: Arguments, record: dict[str, Any]) -> None:
    """Write the model, its tokenizer and image processor, the record and the card."""
    folder = Path(args.output)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    write_card(folder, record)


def write_card(folder: Path, record: dict[str, Any]) -> None:
    """Render the card of a run."""
    tags = ["clip", "composed-image-retrieval"]
    data = ModelCardData(license="apache-2.0", library_name="transformers", tags=tags)
    ModelCard.from_template(card_data=data, template_path=str(CARD), **record).save(folder / "README.md")


def earlier_runs(init: str | None) -> list[dict[str, Any]]:
    """Return the runs that a tiny CLIP was trained in, from the first to the last."""
    if init is None:
        return []
    record = json.loads((Path(init) / "training.json").read_text())
    last = {name: record[name] for name in ("command", "commit", "scenes_version", "steps_done", "minutes")}
    return [*record.get("earlier", []), last]


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Train, and measure and save in between. Returns the record of the run."""
    (args,) = CommandParser([Arguments], "python -m research.train_scenes_clip", __doc__).parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers.set_seed(args.seed)
    tokenizer = CLIPTokenizer.from_pretrained(args.init) if args.init else train_tokenizer(args.seed)
    size = {"height": args.image_size, "width": args.image_size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": args.image_size}, crop_size=size)
    model = CLIPModel.from_pretrained(args.init) if args.init else build_model(args, tokenizer)
    model = model.train().to(args.device)
    heads = CellHeads(args.vision_width, args.image_size // args.patch_size).to(args.device)
    logger.info("%d tokens, %.2f M parameters", len(tokenizer), sum(p.numel() for p in model.parameters()) / 1e6)

    parameters = [*model.parameters(), *heads.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    rng = random.Random(f"tiny CLIP {args.seed}")
    record: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "research.train_scenes_clip", *argv]),
        "commit": code_commit(),
        "scenes_version": VERSION,
        "arguments": {name: value for name, value in asdict(args).items() if name not in ("output", "device")},
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "earlier": earlier_runs(args.init),
        "log": [],
    }
    start = time.time()
    for step in range(1, args.steps + 1):
        scenes = sample_scenes(rng, args)
        batch = make_batch(rng, scenes, args.captions, args, tokenizer, processor)
        loss, parts = compute_loss(model, heads, scenes, batch, args)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            shown = {name: round(value, 3) for name, value in parts.items()}
            logger.info("step %d/%d %s %.0f s", step, args.steps, shown, time.time() - start)
        if step % args.save_every == 0 or step == args.steps:
            scores = score(model, args, tokenizer, processor)
            names = score_heads(model, heads, args, tokenizer, processor)
            record["log"].append({"step": step, **parts, **scores, "names": names})
            record.update(scores=scores, names=names, steps_done=step, pictures_seen=step * args.batch_size)
            record["minutes"] = (time.time() - start) / 60
            logger.info("%s %s", scores, names)
            save(model, tokenizer, processor, args, record)
    return record


if __name__ == "__main__":
    sys.exit(run(main, "train_scenes_clip"))
