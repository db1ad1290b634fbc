"""Trainers of tiny models on eight triplets, and what their tests compare."""

import json
from pathlib import Path

import datasets
import pytest
import torch

from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import (
    CompositionBaseline,
    ContextCIRModel,
    ContextCIRProcessor,
    InstructCIRModel,
    InstructCIRProcessor,
)
from tests.tiny_triplets import dataset, triplets

REPOSITORY = Path(__file__).parents[2]
KINDS = {  # kind of model -> class, processor, and training arguments that it needs
    "contextcir": (ContextCIRModel, ContextCIRProcessor, {}),
    "instructcir": (InstructCIRModel, InstructCIRProcessor, {"cc_weight": 0.0, "query_negatives": "none"}),
    "cir_baseline": (CompositionBaseline, ContextCIRProcessor, {"cc_weight": 0.0}),
}
QUIET = {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "report_to": "none", "use_cpu": True}
OPTIONS = QUIET | {"per_device_train_batch_size": 4, "max_steps": 2, "learning_rate": 1e-3}
SAVING = {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="session")
def processor(clip_folder):
    return ContextCIRProcessor.from_pretrained(clip_folder)


def undecoded(rows):
    """A data set whose images are not decoded, as `load_triplets` returns it."""
    rows = dataset(rows)
    for column in ("reference_image", "target_image"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def evaluation_sets(rows):
    """One evaluation set, several by name, or none."""
    if isinstance(rows, dict):
        return {name: undecoded(some) for name, some in rows.items()}
    return None if rows is None else undecoded(rows)


@pytest.fixture
def build(clip_folder, tmp_path):
    def build(kind="contextcir", rows=None, output="run", eval_rows=None, model=None, model_options=None, **options):
        """A trainer; all start from the same weights. Options are those of the trainer and of its arguments."""
        model_class, processor_class, needed = KINDS[kind]
        torch.manual_seed(0)
        own = {name: options.pop(name) for name in ("evaluator", "card_template", "run_info") if name in options}
        return CIRTrainer(
            model or model_class.from_clip_pretrained(clip_folder, **(model_options or {})),
            CIRTrainingArguments(output_dir=str(tmp_path / output), **{**OPTIONS, **needed, **options}),
            train_dataset=undecoded(triplets(8) if rows is None else rows),
            eval_dataset=evaluation_sets(eval_rows),
            processing_class=processor_class.from_pretrained(clip_folder),
            **own,
        )

    return build


def folder_of(trainer):
    return Path(trainer.args.output_dir)


def read_json(trainer, name):
    return json.loads((folder_of(trainer) / name).read_text())


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def averages(trainer):
    return {name: parameter.clone() for name, parameter in trainer.moving_average.model.named_parameters()}


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def trained(trainer):
    """The parameters that training changes."""
    before = weights(trainer)
    trainer.train()
    return changed(before, weights(trainer))
