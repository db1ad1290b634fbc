"""Training with maps of noun phrases: those of the true masks, or those of a teacher without masks."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from transformers import set_seed

from contextcir.data.triplets import MAPS_FEATURE, PHRASE_MAPS
from contextcir.training.collator import TripletCollator
from contextcir.training.encoded_images import encode_images
from contextcir.training.phrase_teacher import Learning, phrase_maps, train_teacher
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

CLIP = Path(__file__).parents[2] / "checkpoints" / "scenes-clip-tiny"
# As in configs/scenes_ablation/base.yaml.
RECIPE: dict[str, Any] = {
    "train_sampling_strategy": "sequential",
    "per_device_train_batch_size": 128,
    "freeze_vision": True,
    "learning_rate": 1.2e-3,
    "min_learning_rate": 1.2e-5,
    "weight_decay_of": "transformers",
    "adam_beta2": 0.98,
    "warmup_steps": 0.05,
    "dataloader_pin_memory": False,
    "logging_steps": 20,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@dataclass(frozen=True)
class Objective:
    """What is done about the maps of noun phrases. By default they are free."""

    maps: Literal["masks", "teacher"] | None = None  # what the maps in context are drawn to, with weight 1
    cc_weight: float = 0.0  # of the consistency loss as published


def true_maps(coverage: Iterable[Any]) -> list[list[float]]:
    """Return maps that are spread evenly over what a phrase denotes, by the part of each patch that is covered; zeros
    for phrases that denote nothing."""
    covered = [np.asarray(one, dtype=float) for one in coverage]
    return [(one / max(one.sum(), 1e-12)).tolist() for one in covered]


def train(
    rows: datasets.Dataset,
    model_fields: dict[str, Any],
    objective: Objective,
    *,
    seed: int,
    steps: int,
    output: Path,
    learning: Learning | None = None,
) -> dict[str, float]:
    """Train a model from the tiny CLIP, and save it. Returns the means of the last logged losses."""
    set_seed(seed)
    model = ContextCIRModel.from_clip_pretrained(CLIP, fusion_num_layers=1, **{"fusion_num_heads": 16} | model_fields)
    processor = ContextCIRProcessor.from_pretrained(CLIP)
    encoded = encode_images(rows, processor, model)
    if objective.maps == "masks":
        maps = [true_maps(coverage) for coverage in rows["coverage"]]
        rows = rows.add_column(PHRASE_MAPS, maps, feature=MAPS_FEATURE)
    elif objective.maps == "teacher":
        how = learning or Learning(seed=seed)
        teacher, *_ = train_teacher(copy.deepcopy(model), processor, rows, how, encoded)
        maps = list(phrase_maps(teacher, processor, rows, how, encoded))
        rows = rows.add_column(PHRASE_MAPS, maps, feature=MAPS_FEATURE)
    weights = {"cc_weight": objective.cc_weight, "grounding_weight": float(objective.maps is not None)}
    args = CIRTrainingArguments(output_dir=str(output), max_steps=steps, seed=seed, **weights, **RECIPE)
    # All phrases of the trees, each of which has its mask.
    phrases = {"max_phrases": args.max_phrases if args.reads_phrases else 0, "concepts_only": False}
    collator = TripletCollator(processor, encoded_images=encoded, grounding=objective.maps is not None, **phrases)
    trainer = CIRTrainer(model, args, train_dataset=rows, processing_class=processor, data_collator=collator)
    trainer.train()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    last = [entry for entry in trainer.state.log_history if "loss_contrastive" in entry][-1]
    return {name: value for name, value in last.items() if name.startswith("loss")}
