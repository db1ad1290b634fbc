"""Train the tiny CLIP that ships with the repository, on scenes and their captions.

    python datasets_scripts/train_scenes_clip.py --output checkpoints/scenes-clip-tiny
    python datasets_scripts/train_scenes_clip.py --output runs/better --init checkpoints/scenes-clip-tiny

The demo starts as users start, from a pretrained CLIP; none can be small enough and see scenes, so this one is made
here: CLIP's architecture and contrastive loss (Radford et al. 2021), a byte-pair vocabulary learned from the texts of
the scenes grammar, pictures and captions drawn on the fly. A vision transformer of this size learns what stands where
very slowly from whole captions alone. So, during training only, linear heads on the patch tokens also name what is in
each cell of the grid (`--cell_weight`); the heads are thrown away. Captions are what takes time: only `--captions`
pictures of a batch have one, in groups of a scene and its near misses, which are hard negatives of each other.
"""

import json
import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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
GROUP = 4  # scenes that are near misses of each other


@dataclass
class Arguments:
    """Settings of the one-off training run."""

    output: str = HfArg(help="Folder for the model, the processor files, training.json and the card.")
    steps: int = HfArg(default=1800, help="Optimiser steps.")
    batch_size: int = HfArg(default=256, help="Pictures a step.")
    captions: int = HfArg(default=64, help="Pictures of a batch with a caption; each is the negative of the others.")
    learning_rate: float = HfArg(default=1e-3, help="Peak learning rate (AdamW, warm-up, cosine to 0).")
    weight_decay: float = HfArg(default=0.05, help="Weight decay of matrices.")
    cell_weight: float = HfArg(default=1.0, help="Weight of the auxiliary naming of cells; 0: CLIP alone.")
    init: str | None = HfArg(default=None, help="Tiny CLIP to go on from, in place of random weights.")
    vision_width: int = HfArg(default=128, help="Width of the vision transformer.")
    vision_layers: int = HfArg(default=4, help="Blocks of the vision transformer.")
    text_width: int = HfArg(default=128, help="Width of the text transformer.")
    text_layers: int = HfArg(default=2, help="Blocks of the text transformer.")
    image_size: int = HfArg(default=96, help="Side of the pictures in pixels.")
    patch_size: int = HfArg(default=16, help="Side of a patch in pixels.")
    save_every: int = HfArg(default=300, help="Save (and score) every so many steps.")
    seed: int = HfArg(default=0, help="Seed of weights and data.")
    device: str = HfArg(default="cuda" if torch.cuda.is_available() else "cpu", help="Torch device.")


def train_tokenizer(seed: int, num_texts: int = 20000) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges come from captions and modification texts of the scenes grammar."""
    # An untrained CLIP tokenizer already holds CLIP's normaliser and pre-tokeniser; only the merges are learned.
    base = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = base.normalizer, base.pre_tokenizer
    rng = random.Random(f"tokenizer {seed}")
    texts = []
    while len(texts) < num_texts:
        texts += [query.text for query in sample_family(rng)]
        texts.append(realise(describe(rng, sample_scene(rng)))[0])
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]

    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]  # the end token has the largest id: CLIP pools there
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes in byte-level BPE."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def build_model(args: Arguments, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP with random weights in the sizes asked for."""
    sizes = {"num_attention_heads": 4, "hidden_act": "gelu"}
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(
        CLIPConfig(
            vision_config={
                "hidden_size": args.vision_width,
                "intermediate_size": 4 * args.vision_width,
                "num_hidden_layers": args.vision_layers,
                "image_size": args.image_size,
                "patch_size": args.patch_size,
                **sizes,
            },
            text_config={
                "hidden_size": args.text_width,
                "intermediate_size": 4 * args.text_width,
                "num_hidden_layers": args.text_layers,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 77,
                **special,
                **sizes,
            },
            projection_dim=128,
        )
    )


class CellNames(nn.Module):
    """Linear heads that name what each cell of the grid holds, from patch tokens; used in training only.

    Twice: from the tokens in the cell, which thereby know what they show, and from the mean of all tokens, which
    thereby know where they are. By the first alone they forget it, the task being the same in every cell; the patch
    tokens of a CLIP that is trained on photographs have not.
    """

    def __init__(self, width: int, patches: int):
        super().__init__()
        self.patches = patches
        sizes = {name: len(values) for name, values in VALUES.items()}
        sizes["shape"] += 1  # nothing
        self.local = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self.layout = nn.ModuleDict({name: nn.Linear(width, len(CELLS) * size) for name, size in sizes.items()})
        self.place = nn.Linear(width, len(CELLS))
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, tokens) -> dict[str, torch.Tensor]:
        """Patch tokens `(batch, 1 + patches ** 2, width)` -> logits `(batch, cells, classes)` under the names
        `local shape`, `layout shape` and so on, `place`, and `background` `(batch, classes)`."""
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.patches, self.patches))
        cells = F.adaptive_avg_pool2d(grid, GRID).flatten(2).transpose(1, 2)  # (batch, cells, width)
        mean = tokens[:, 1:].mean(dim=1)
        return {
            "background": self.background(mean),
            "place": self.place(cells),
            **{f"local {name}": head(cells) for name, head in self.local.items()},
            **{f"layout {name}": head(mean).unflatten(1, (len(CELLS), -1)) for name, head in self.layout.items()},
        }


def labels_of(scenes) -> dict[str, torch.Tensor]:
    """Class numbers of every cell: `(batch, 9)`; an empty cell has its own shape and -1 (ignored) elsewhere."""
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
    """The scenes of a batch: groups of near misses for the captions, then any."""
    scenes = []
    while len(scenes) < args.captions:
        group = [sample_scene(rng)]
        while len(group) < GROUP:
            group += [other for other in [apply(group[0], near_miss(rng, group[0]))] if other not in group]
        scenes += group
    return scenes[: args.captions] + [sample_scene(rng) for _ in range(args.batch_size - args.captions)]


def make_batch(rng: random.Random, scenes: list[Scene], captions: int, args: Arguments, tokenizer, processor):
    """Pictures `(len(scenes), 3, image_size, image_size)` and the token tensors of the first captions."""
    levels = np.stack([np.asarray(render(scene, rng.getrandbits(48), args.image_size)) for scene in scenes])
    mean, std = np.array(processor.image_mean, "f4"), np.array(processor.image_std, "f4")
    pixels = torch.from_numpy((levels.astype("f4") / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    texts = [realise(describe(rng, scene))[0] for scene in scenes[:captions]]
    return pixels, tokenizer(texts, padding=True, truncation=True, return_tensors="pt")


@torch.inference_mode()
def score(model: CLIPModel, args: Arguments, tokenizer, processor, size: int = 1000) -> dict[str, float]:
    """Recall@1 in percent of captions among `size` unseen scenes, in both directions."""
    model.eval()
    rng = random.Random("scenes for scoring the tiny CLIP")
    scenes = [sample_scene(rng) for _ in range(size)]
    pixels, tokens = make_batch(rng, scenes, size, args, tokenizer, processor)
    images = [model.get_image_features(part.to(args.device)).pooler_output for part in pixels.split(250)]
    texts = [
        model.get_text_features(ids.to(args.device), attention_mask=mask.to(args.device)).pooler_output
        for ids, mask in zip(tokens["input_ids"].split(250), tokens["attention_mask"].split(250), strict=True)
    ]
    similarity = F.normalize(torch.cat(texts), dim=-1) @ F.normalize(torch.cat(images), dim=-1).T
    right = torch.arange(size, device=similarity.device)
    model.train()
    return {
        "text_to_image_recall@1": 100 * (similarity.argmax(1) == right).float().mean().item(),
        "image_to_text_recall@1": 100 * (similarity.argmax(0) == right).float().mean().item(),
    }


@torch.inference_mode()
def score_names(model: CLIPModel, heads: CellNames, args: Arguments, tokenizer, processor) -> dict[str, float]:
    """Percent of names that the heads find, over the things of 500 unseen scenes."""
    rng = random.Random("scenes for scoring the names")
    scenes = [sample_scene(rng) for _ in range(500)]
    pixels, _ = make_batch(rng, scenes, 1, args, tokenizer, processor)
    tokens = torch.cat([model.vision_model(part.to(args.device)).last_hidden_state for part in pixels.split(250)])
    labels, percent = labels_of(scenes), {}
    for name, logits in heads(tokens).items():
        right = logits.argmax(-1).cpu() == labels[name.split()[-1]]
        things = right[labels["colour"] >= 0] if name != "background" else right  # not the empty cells
        percent[name] = 100 * things.float().mean().item()
    return percent


def name_loss(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of all heads."""
    losses = [
        F.cross_entropy(values.flatten(0, -2), labels[name.split()[-1]].flatten().to(values.device), ignore_index=-1)
        for name, values in logits.items()
    ]
    return torch.stack(losses).mean()


def train_step(model, heads, scenes, batch, args: Arguments) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of one batch, and its parts for the log."""
    pixels, tokens = batch
    vision = model.vision_model(pixel_values=pixels.to(args.device))
    images = F.normalize(model.visual_projection(vision.pooler_output[: args.captions]), dim=-1)
    text = model.text_model(**tokens.to(args.device))
    texts = F.normalize(model.text_projection(text.pooler_output), dim=-1)
    logits = model.logit_scale.exp().clamp(max=100) * texts @ images.T  # (captions, captions)
    right = torch.arange(len(logits), device=logits.device)
    contrastive = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    cells = name_loss(heads(vision.last_hidden_state), labels_of(scenes))
    parts = {"contrastive": contrastive.item(), "cells": cells.item()}
    return contrastive + args.cell_weight * cells, parts


def save(model, tokenizer, processor, args: Arguments, record: dict) -> None:
    """The model folder with everything that `from_pretrained` needs, the record of the run and the card."""
    folder = Path(args.output)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    template = Path(__file__).parent.parent / "model_cards" / "scenes_clip_template.md"
    ModelCard.from_template(card_data=_card_data(), template_path=str(template), **record).save(folder / "README.md")


def _card_data():
    return ModelCardData(license="apache-2.0", library_name="transformers", tags=["clip", "composed-image-retrieval"])


def earlier_runs(init: str | None) -> list[dict]:
    """Command, commit and steps of the runs that a tiny CLIP comes from, the first one first."""
    if init is None:
        return []
    record = json.loads((Path(init) / "training.json").read_text())
    last = {name: record[name] for name in ("command", "commit", "scenes_version", "steps_done", "minutes")}
    return [*record.get("earlier", []), last]


def main(argv: Sequence[str] | None = None) -> dict:
    """Train, save every now and then, and return the record of the run."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data scenes-clip", __doc__).parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers.set_seed(args.seed)
    tokenizer = CLIPTokenizer.from_pretrained(args.init) if args.init else train_tokenizer(args.seed)
    size = {"height": args.image_size, "width": args.image_size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": args.image_size}, crop_size=size)
    model = CLIPModel.from_pretrained(args.init) if args.init else build_model(args, tokenizer)
    model = model.train().to(args.device)
    heads = CellNames(args.vision_width, args.image_size // args.patch_size).to(args.device)
    logger.info("%d words, %.2f M parameters", len(tokenizer), sum(p.numel() for p in model.parameters()) / 1e6)

    parameters = [*model.parameters(), *heads.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    rng = random.Random(f"tiny CLIP {args.seed}")
    record = {
        "command": "python " + " ".join([sys.argv[0], *(argv or sys.argv[1:])]),
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
        loss, parts = train_step(model, heads, scenes, batch, args)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            logger.info(
                "step %d/%d %s %.0f s",
                step,
                args.steps,
                {k: round(v, 3) for k, v in parts.items()},
                time.time() - start,
            )
        if step % args.save_every == 0 or step == args.steps:
            scores = score(model, args, tokenizer, processor)
            names = score_names(model, heads, args, tokenizer, processor)
            record["log"].append({"step": step, **parts, **scores, "names": names})
            record.update(scores=scores, names=names, steps_done=step, pictures_seen=step * args.batch_size)
            record["minutes"] = (time.time() - start) / 60
            logger.info("%s %s", scores, names)
            save(model, tokenizer, processor, args, record)
    return record


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data scenes-clip"))
