"""Training of composed-image-retrieval models on the losses of ConText-CIR, `L_tot = L_cont + lambda * L_cc`.

InstructCIR and the baselines train on `L_cont` alone. This file makes a trainer of its parts: `objective.py` computes
the loss of a step, `parameter_groups.py` says which weights decay, `run.py` starts, resumes and records a run, and
`evaluation.py` computes the losses of evaluation sets.
"""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType
from transformers.utils import logging

from contextcir.data.negatives import NegativeImages
from contextcir.training.collator import SetCollatorEpoch, TripletCollator, WarnOfWideImages
from contextcir.training.construction import check_arguments, check_negatives
from contextcir.training.ema import MovingAverage
from contextcir.training.encoded_images import encode_all_images
from contextcir.training.evaluation import TripletEvaluation
from contextcir.training.interruption import StopWhenAsked
from contextcir.training.loss_log import LogBeforeSaving, LossParts
from contextcir.training.matryoshka import take_widths
from contextcir.training.memory import advising_less_memory
from contextcir.training.model_parts import freeze, use_float32
from contextcir.training.objective import Objective
from contextcir.training.parameter_groups import GroupedWeights
from contextcir.training.run import TrainingRun
from contextcir.training.sampling import batch_sampler
from contextcir.training.stream_position import StreamPosition
from contextcir.training.training_args import CIRTrainingArguments
from contextcir.training.training_data import as_rows, is_stream, without_bad_images

logger = logging.get_logger(__name__)


class CIRTrainer(TripletEvaluation, TrainingRun, GroupedWeights, Objective):
    """
    [`~transformers.Trainer`] for a model whose `forward` takes the batches of [`TripletCollator`] and returns
    `query_embeds`, `target_embeds` and `logit_scale`, and as `query_negatives` and `cc_weight` require it
    `reference_embeds` and the attention maps of noun phrases. With `ema_momentum`, training targets come from the
    moving average of the model; the model itself is evaluated and saved.

    Args:
        model (`torch.nn.Module`): Model, such as `ContextCIRModel`.
        args ([`CIRTrainingArguments`]): Arguments.
        evaluator (`Callable[[model], dict[str, float]]`, *optional*): Computes retrieval metrics, on every process,
            whenever the model is evaluated. They are logged with the prefix `eval_` and serve `metric_for_best_model`.
        card_template (`str` or `os.PathLike`, *optional*): Jinja template of the model card, filled with
            [`CIRTrainer.record`]. By default transformers writes its own.
        run_info (`dict`, *optional*): Further entries of the record, such as the data, the command and the commit.
        negatives (`datasets.Dataset`, *optional*): Images of mined negatives, as from
            [`~contextcir.data.negatives.load_negatives`], for `hard_negatives`.
        **kwargs: Of [`~transformers.Trainer`]. `data_collator` defaults to a [`TripletCollator`].

    Raises:
        ValueError: The model lacks what the options need: attention maps of noun phrases, an image encoder or a part.

    Logged beside `loss`, averaged over micro-batches and processes since the last log: `loss_contrastive`,
    `loss_concept_consistency` and `loss_grounding` (unweighted), `num_concepts` (noun phrases of a triplet),
    `context_entropy`, `isolated_entropy` (nats), `map_diversity`, `temperature`; and summed: `truncated_texts`,
    `dropped_phrases`, `captions_without_phrases`.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: torch.nn.Module | None = None,
        args: CIRTrainingArguments | None = None,
        *,
        evaluator: Callable[[torch.nn.Module], dict[str, float]] | None = None,
        card_template: str | os.PathLike | None = None,
        run_info: dict[str, Any] | None = None,
        negatives: datasets.Dataset | None = None,
        **kwargs: Any,
    ):
        args = CIRTrainingArguments() if args is None else args
        self.evaluator, self.card_template, self.run_info = evaluator, card_template, run_info or {}
        self.bad_images: dict[str, list[dict[str, Any]]] = {}
        self.data_audit = None
        self.moving_average: MovingAverage | None = None
        self.stream_position: StreamPosition | None = None
        check_arguments(args, model, kwargs)
        check_negatives(args, negatives, kwargs.get("train_dataset"))
        self._take_data(args, kwargs)
        if kwargs.get("data_collator") is None and kwargs.get("processing_class") is not None:
            kwargs["data_collator"] = TripletCollator(
                kwargs["processing_class"],
                max_phrases=args.max_phrases if args.reads_phrases else 0,
                grounding=args.grounding_weight > 0,
                concepts_only=args.concepts_only,
                augmentation=args.augmentation,
                seed=args.seed,
                hard_negatives=args.hard_negatives,
                negatives=None if negatives is None else NegativeImages(negatives),
            )
        if kwargs.get("eval_dataset") is None and evaluator is not None:
            kwargs["eval_dataset"] = []  # transformers refuses an eval_strategy without one
        if model is not None:
            self._prepare_model(model, args)
        super().__init__(model, args, **kwargs)
        self.watch_gradients()
        if args.encode_images_once:
            self.data_collator.encoded_images = encode_all_images(
                self.train_dataset,
                negatives if args.hard_negatives else None,
                self.processing_class,
                self.model,
                dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32,
                batch_size=args.per_device_eval_batch_size,
                share=(args.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE") or args.world_size)),
                wait=self.accelerator.wait_for_everyone,
            )
        self._parts = LossParts()
        self.check_whole_model(args)
        if args.ema_momentum is not None:
            self.moving_average = MovingAverage(self.model, args.ema_momentum)
            self.add_callback(self.moving_average)
        self.add_callback(LogBeforeSaving)
        if is_stream(self.train_dataset):
            self.stream_position = StreamPosition()
            self.add_callback(self.stream_position)
        elif hasattr(self.data_collator, "set_epoch"):
            self.add_callback(SetCollatorEpoch(self.data_collator))
        if isinstance(self.data_collator, TripletCollator):
            self.add_callback(WarnOfWideImages(self.data_collator))
        self.add_callback(StopWhenAsked(self))  # the last: it overrules what the others ask for

    def call_model_init(self, trial: Any = None) -> Any:
        """Make a model with `model_init`, and prepare it as one that is given."""
        model = super().call_model_init(trial)
        self._prepare_model(model, self.args)
        return model

    def _prepare_model(self, model: Any, args: CIRTrainingArguments) -> None:
        weights = [name for name in ("cc_weight", "grounding_weight") if getattr(args, name)]
        if weights and not hasattr(model, "get_concept_attentions"):
            raise ValueError(f"{type(model).__name__} has no attention maps of noun phrases. Set {weights[0]} to 0.")
        if args.grad_cache_chunk and any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise ValueError(
                "The model has batch normalisation, which chunks would change. Leave out grad_cache_chunk."
            )
        take_widths(model, args.matryoshka_dims)
        freeze(model, args)
        use_float32(model)

    def _take_data(self, args: CIRTrainingArguments, kwargs: dict[str, Any]) -> None:
        """Make rows of the data, and leave out those with bad images if asked to."""
        train, evaluation = (kwargs.get(name) for name in ("train_dataset", "eval_dataset"))
        several = evaluation if isinstance(evaluation, dict) else {}
        sets = {f"eval_{name}": rows for name, rows in several.items()} or {"eval": evaluation}
        taken = {split: as_rows(rows) for split, rows in {"train": train, **sets}.items()}
        if args.on_bad_image == "skip":
            with args.main_process_first(desc="checking images"):  # the others read the cache
                for split, rows in taken.items():
                    if rows is not None:
                        taken[split], self.bad_images[split] = without_bad_images(rows)
            for split, bad in self.bad_images.items():
                if number := len({image["row"] for image in bad}):
                    logger.warning(f"{split}: {number} triplets have an unreadable image and are left out.")
        kwargs["train_dataset"] = taken.pop("train")
        kwargs["eval_dataset"] = (
            {name.removeprefix("eval_"): rows for name, rows in taken.items()} if several else taken["eval"]
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of rows: one that composes batches, if the options say how, or that of transformers."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        return batch_sampler(rows, self.args) or super()._get_train_sampler(train_dataset)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute the gradients of a micro-batch, and remember its triplets: an error of the numbers names them."""
        self._watch.add_batch(inputs.get("triplet_ids", ()))
        if self.args.auto_find_batch_size:  # which waits for the error itself
            return super().training_step(model, inputs, num_items_in_batch)
        with advising_less_memory(self.args.per_device_train_batch_size, self.args.grad_cache_chunk):
            return super().training_step(model, inputs, num_items_in_batch)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the paper's cosine between two rates with restarts, or the schedule named by `lr_scheduler_type`."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == SchedulerType.COSINE_WITH_RESTARTS:
            rate = partial(
                cosine_with_restarts,
                warmup_steps=self.args.get_warmup_steps(num_training_steps),
                total_steps=num_training_steps,
                num_cycles=self.args.lr_num_cycles,
                floor=self.args.min_learning_rate / self.args.learning_rate if self.args.learning_rate else 0.0,
            )
            self.lr_scheduler: Any = LambdaLR(self.optimizer if optimizer is None else optimizer, rate)
            self._created_lr_scheduler = True
            return self.lr_scheduler
        return super().create_scheduler(num_training_steps, optimizer)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss beside it. A loss that is NaN or infinite raises a `FloatingPointError`."""
        if "train_loss" in logs and self.state.global_step == self._initial_global_step:
            del logs["train_loss"]  # a mean over no step
        if "loss" in logs:
            logs.update(self._parts.drain(self.accelerator))
        super().log(logs, start_time)
        if "loss" in logs:
            self.check_gradients()
        if not math.isfinite(logs.get("loss", 0.0)):  # a mean over processes: all of them stop
            raise FloatingPointError(
                f"The loss is {logs['loss']} in the steps up to {self.state.global_step}, expected a finite number."
                " Lower learning_rate, set max_grad_norm or use bf16 instead of fp16, and continue from the last"
                " checkpoint with resume_from_checkpoint=True."
            )


def cosine_with_restarts(step: int, *, warmup_steps: int, total_steps: int, num_cycles: int, floor: float) -> float:
    """Return the factor of the learning rate: linear warm-up to 1, then `num_cycles` cosines from 1 to `floor`."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if progress >= 1:
        return floor
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (progress * num_cycles % 1)))
