"""Training of composed-image-retrieval models on the two losses of ConText-CIR (L_tot = L_cont + lambda * L_cc), or on
the first alone, as InstructCIR.

The trainer of transformers, with what a contrastive loss needs: negatives of all processes with their gradients,
losses over whole sets in evaluation, every part of the loss logged under its own name, retrieval metrics from an
`evaluator` that is handed in, and a model card rendered from the record of the run. Negatives do not cross the
micro-batches of gradient accumulation: their embeddings would have to be kept or computed twice (GradCache), which is
left out.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import datasets
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import SchedulerType, Trainer
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from contextcir.data.triplet_images import find_bad_images
from contextcir.runtime.distributed import gather_with_gradient
from contextcir.runtime.provenance import versions
from contextcir.training.callbacks import LogBeforeSaving, TellEpoch
from contextcir.training.checkpoints import checkpoint_problem, last_whole_checkpoint
from contextcir.training.collator import TripletCollator
from contextcir.training.ema import AVERAGE_FILE, MovingAverage
from contextcir.training.encoded_images import EncodedImages, encode_images
from contextcir.training.freezing import freeze_parts
from contextcir.training.loss_parts import LossParts
from contextcir.training.losses import concept_consistency_loss, concept_losses, contrastive_loss
from contextcir.training.model_card import recorded_arguments, write_model_card
from contextcir.training.output_folder import claim_folder
from contextcir.training.schedules import cosine_with_restarts
from contextcir.training.training_args import CIRTrainingArguments

logger = logging.get_logger(__name__)

NOT_FOR_THE_MODEL = ("target_keys", "reference_keys", "num_truncated_texts", "num_dropped_phrases")
MEANS = (
    "loss_contrastive",
    "loss_concept_consistency",
    "num_concepts",
    "context_entropy",
    "isolated_entropy",
    "map_diversity",
    "temperature",
)
COUNTS = ("truncated_texts", "dropped_phrases", "captions_without_phrases")


class CIRTrainer(Trainer):
    """
    [`~transformers.Trainer`] for any model whose `forward` takes what [`TripletCollator`] makes, and returns
    `query_embeds`, `target_embeds`, `logit_scale` and, where `query_negatives` and `cc_weight` ask for them,
    `reference_embeds` and the attention maps of noun phrases. With `ema_momentum`, targets come from the moving
    average of the model in training; what is evaluated and saved is the model itself.

    Args:
        model: Such as `ContextCIRModel`.
        args ([`CIRTrainingArguments`]): Arguments.
        evaluator (`Callable[[model], dict[str, float]]`, *optional*):
            Retrieval metrics, called on every process whenever the model is evaluated. With the prefix `eval_` they
            serve `metric_for_best_model`.
        card_template (`str` or `os.PathLike`, *optional*):
            Jinja template of the model card, filled with [`CIRTrainer.record`]. Without, transformers writes its own.
        run_info (`dict`, *optional*):
            What the record says beside what the trainer knows, such as the data, the command and the commit.
        **kwargs: Of [`~transformers.Trainer`]. `data_collator` defaults to a [`TripletCollator`].

    Logged beside `loss`, averaged over micro-batches and processes since the last time: `loss_contrastive`,
    `loss_concept_consistency` (unweighted), `num_concepts` (noun phrases of a triplet), `context_entropy`,
    `isolated_entropy` (nats), `map_diversity`, `temperature`; and summed: `truncated_texts`, `dropped_phrases`,
    `captions_without_phrases`.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model=None,
        args: CIRTrainingArguments | None = None,
        *,
        evaluator: Callable[[torch.nn.Module], dict[str, float]] | None = None,
        card_template: str | os.PathLike | None = None,
        run_info: dict[str, Any] | None = None,
        **kwargs,
    ):
        args = CIRTrainingArguments() if args is None else args
        self.evaluator, self.card_template, self.run_info = evaluator, card_template, run_info or {}
        self.bad_images = {}
        self._owns_output_dir = False
        if model is not None and args.cc_weight and not hasattr(model, "get_concept_attentions"):
            raise ValueError(f"{type(model).__name__} has no attention maps of noun phrases. Set cc_weight to 0.")
        if args.on_bad_image == "skip":
            with args.main_process_first(desc="checking images"):  # the others read the cache
                for name in ("train_dataset", "eval_dataset"):
                    kwargs[name] = self._without_bad_images(kwargs.get(name), name.removesuffix("_dataset"))
        if kwargs.get("data_collator") is None and kwargs.get("processing_class") is not None:
            kwargs["data_collator"] = TripletCollator(
                kwargs["processing_class"],
                max_phrases=args.max_phrases if args.cc_weight else 0,
                augmentation=args.augmentation,
                seed=args.seed,
            )
        if kwargs.get("eval_dataset") is None and evaluator is not None:
            kwargs["eval_dataset"] = []  # transformers refuses an eval_strategy without one
        freeze_parts(model, args)
        super().__init__(model, args, **kwargs)
        if args.encode_images_once:
            self.data_collator.encoded_images = self._encode_images_once()
        self._parts = LossParts(MEANS, COUNTS, args.device)
        self.moving_average = None
        if args.ema_momentum is not None:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                raise ValueError("ema_momentum needs the whole model on every process: leave out DeepSpeed and FSDP.")
            self.moving_average = MovingAverage(self.model, args.ema_momentum)
            self.add_callback(self.moving_average)
        self.add_callback(LogBeforeSaving)
        if hasattr(self.data_collator, "set_epoch"):
            self.add_callback(TellEpoch(self.data_collator))

    def _without_bad_images(self, dataset, split: str):
        if not isinstance(dataset, datasets.Dataset):
            return dataset
        bad = self.bad_images[split] = find_bad_images(dataset)
        rows = {image["row"] for image in bad}
        if not rows:
            return dataset
        logger.warning(f"{split}: {len(rows)} of {len(dataset)} triplets have an unreadable image and are left out.")
        return dataset.select([row for row in range(len(dataset)) if row not in rows])

    def _encode_images_once(self) -> EncodedImages:
        if not hasattr(self.model, "encode_images"):
            raise ValueError(
                f"{type(self.model).__name__} has no image encoder of its own, apart from the text. Leave out"
                " encode_images_once."
            )
        args, model = self.args, self.model.eval()
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32

        def encode(pixel_values):
            with self.accelerator.autocast():
                return model.encode_images(pixel_values.to(args.device))

        return encode_images(
            self.train_dataset,
            self.processing_class,
            model.vision_model,
            encode,
            kind=type(model).encode_images,
            dtype=half,
            batch_size=args.per_device_eval_batch_size,
            share=(self.accelerator.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", args.world_size))),
            wait=self.accelerator.wait_for_everyone,
        )

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """
        As in transformers, with an output folder that belongs to one run: a folder that holds another run's results is
        refused unless that run is resumed, and `resume_from_checkpoint=True` takes the last checkpoint that is whole.

        Raises:
            ValueError: where the folder is in use or holds results, no checkpoint is whole, the one asked for is not,
                the data do not fill one batch, no image of the evaluation can be read, or a checkpoint lacks the
                moving average.
            FloatingPointError: where the loss is NaN or infinite, found at the next logging.
        """
        with self.claim_output_dir(bool(resume_from_checkpoint)):
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                checkpoint = resume_from_checkpoint  # sharded, in layouts of their own
            else:
                checkpoint = self._checkpoint_to_resume(resume_from_checkpoint) if resume_from_checkpoint else None
                self._refuse_to_forget_the_average(checkpoint)
            if self.is_world_process_zero() and self.bad_images:
                _write_json(os.path.join(self.args.output_dir, "bad_images.json"), self.bad_images)
            self._check_numbers_of_triplets()
            if checkpoint and self.moving_average is not None:
                self.moving_average.load(checkpoint)
            output = super().train(resume_from_checkpoint=checkpoint, **kwargs)
            if self.args.publish_moving_average:
                self.moving_average.copy_to(self.model)
            return output

    @contextmanager
    def claim_output_dir(self, resuming: bool = False) -> Iterator[None]:
        """
        Within this context the output folder belongs to this run. [`train`] claims it itself; whoever writes into it
        after training claims it around both.

        Raises:
            ValueError: on all processes, where another run is in the folder or, unless `resuming`, has left results.
        """
        if self._owns_output_dir:
            yield
            return
        folder, is_main_process = self.args.output_dir, self.is_world_process_zero()
        with claim_folder(folder, resuming=resuming, is_main_process=is_main_process):
            self._owns_output_dir = True
            try:
                yield
            finally:
                self._owns_output_dir = False

    def _checkpoint_to_resume(self, asked: str | bool) -> str:
        # Of two tensors that are one, a checkpoint holds the first.
        tensors = self.model.state_dict().keys() - getattr(self.model, "all_tied_weights_keys", {}).keys()
        others = {} if self.moving_average is None else {AVERAGE_FILE: self.moving_average.names}
        if asked is not True:
            problem = checkpoint_problem(asked, tensors, others)
            if problem:
                raise ValueError(
                    f"Cannot resume from {asked}: {problem}. resume_from_checkpoint=True takes the last whole one."
                )
            return asked
        checkpoint = last_whole_checkpoint(self.args.output_dir, tensors, others)
        if checkpoint is None:
            raise ValueError(f"Nothing to resume: no whole checkpoint in {self.args.output_dir}.")
        return checkpoint

    def _refuse_to_forget_the_average(self, checkpoint: str | None) -> None:
        if checkpoint and self.moving_average is None and os.path.isfile(os.path.join(checkpoint, AVERAGE_FILE)):
            raise ValueError(
                f"{checkpoint} has targets from a moving average ({AVERAGE_FILE}). Give the ema_momentum of that run,"
                " or delete that file to go on with targets from the model itself."
            )

    def _save_checkpoint(self, model, trial):
        if self.moving_average is not None and self.args.should_save:
            # Before all else: that a checkpoint is whole is said by `trainer_state.json`, which is written last.
            folder = f"checkpoint-{self.state.global_step}"
            self.moving_average.save(os.path.join(self.args.output_dir, folder))
        super()._save_checkpoint(model, trial)

    def _check_numbers_of_triplets(self) -> None:
        left_out = self._num_left_out()
        batch = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_dataset) < batch:
            others = left_out.get("train", 0)
            raise ValueError(
                f"{len(self.train_dataset)} training triplets do not fill one batch of {batch} over all processes"
                + (f" ({others} with unreadable images are left out, see bad_images.json)" if others else "")
                + ". Lower per_device_train_batch_size"
                + (" or replace the images." if others else ".")
            )
        if left_out.get("eval") and not len(self.eval_dataset):
            raise ValueError(
                f"All {left_out['eval']} evaluation triplets have unreadable images, see bad_images.json. Replace"
                " them, or train without evaluation triplets."
            )

    def _num_left_out(self) -> dict[str, int]:
        return {split: len({image["row"] for image in bad}) for split, bad in self.bad_images.items()}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """L_tot of this process's queries against the targets of all processes."""
        args, batch = self.args, dict(inputs)
        keys = {name: batch.pop(name) for name in NOT_FOR_THE_MODEL if name in batch}
        outputs = self._forward(model, batch)
        references = self._references(outputs)
        batch_size = len(outputs.query_embeds)
        all_references = args.query_negatives == "all"
        masking = args.mask_repeated_targets
        contrastive = contrastive_loss(
            outputs.query_embeds,
            gather_with_gradient(outputs.target_embeds),
            gather_with_gradient(references) if all_references else references,
            outputs.logit_scale,
            query_negatives=args.query_negatives,
            target_keys=keys["target_keys"] if masking else None,
            all_target_keys=self.accelerator.gather(keys["target_keys"]) if masking else None,
            reference_keys=self.accelerator.gather(keys["reference_keys"])
            if all_references
            else keys["reference_keys"],
            offset=self.accelerator.process_index * batch_size,
        )
        loss = contrastive
        self._parts.add("loss_contrastive", contrastive)
        self._parts.add("temperature", 1 / outputs.logit_scale)
        self._parts.count("truncated_texts", keys["num_truncated_texts"])
        if args.cc_weight:
            concepts = concept_consistency_loss(
                outputs.context_attentions,
                outputs.isolated_attentions,
                batch["phrase_sample"],
                batch_size,
                batch["phrase_token_mask"],
                slack=args.cc_slack,
                form=args.cc_form,
            )
            loss = contrastive + self._cc_weight() * concepts.loss
            self._parts.add("loss_concept_consistency", concepts.loss)
            self._parts.add("num_concepts", concepts.num_concepts / batch_size)
            self._parts.add("context_entropy", concepts.context_entropy, concepts.num_concepts)
            self._parts.add("isolated_entropy", concepts.isolated_entropy, concepts.num_concepts)
            phrases = batch["phrase_sample"].bincount(minlength=batch_size)
            self._parts.add("map_diversity", concepts.map_diversity, (phrases * (phrases - 1)).sum() / 2)  # of pairs
            self._parts.count("dropped_phrases", keys["num_dropped_phrases"])
            self._parts.count("captions_without_phrases", (phrases == 0).sum())
        return (loss, outputs) if return_outputs else loss

    def _cc_weight(self) -> float:
        """The weight of the concept-consistency loss in this step."""
        rise = self.args.cc_warmup_steps
        steps = rise * self.state.max_steps if rise < 1 else rise
        return self.args.cc_weight * min(1.0, self.state.global_step / steps if steps else 1.0)

    def _forward(self, model, batch: dict[str, torch.Tensor]):
        options = {"isolated_grad": self.args.isolated_grad} if self.args.cc_weight else {}
        if self.moving_average is None or not model.training:
            return model(**batch, **options)
        target_index = batch.pop("target_index")
        outputs = model(**batch, **options)
        with self.accelerator.autocast():  # which the prepared model does by itself
            outputs.target_embeds = self.moving_average.embed_targets(batch["pixel_values"], target_index)
        return outputs

    def _references(self, outputs) -> torch.Tensor | None:
        """Embeddings of the reference images, if they are negatives."""
        if self.args.query_negatives == "none":
            return None
        if getattr(outputs, "reference_embeds", None) is None:
            raise ValueError(
                f"{type(self.model).__name__} does not embed the reference image by itself. Set query_negatives to"
                " none."
            )
        return outputs.reference_embeds

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The paper's cosine between two rates with restarts, or the one that `lr_scheduler_type` names."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == SchedulerType.COSINE_WITH_RESTARTS:
            rate = partial(
                cosine_with_restarts,
                warmup_steps=self.args.get_warmup_steps(num_training_steps),
                total_steps=num_training_steps,
                num_cycles=self.args.lr_num_cycles,
                floor=self.args.min_learning_rate / self.args.learning_rate if self.args.learning_rate else 0.0,
            )
            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, rate)
            self._created_lr_scheduler = True
            return self.lr_scheduler
        return super().create_scheduler(num_training_steps, optimizer)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss to what is logged in training, and ends training at a loss that is no number."""
        if "loss" in logs:
            logs.update(self._drain_parts())
        super().log(logs, start_time)
        if not math.isfinite(logs.get("loss", 0.0)):  # the mean over processes: all of them stop here
            raise FloatingPointError(
                f"The loss is {logs['loss']} in the steps up to {self.state.global_step}, expected a finite number."
                " Lower learning_rate, set max_grad_norm, use bf16 instead of fp16, and go on from the last checkpoint"
                " with resume_from_checkpoint=True."
            )

    def _drain_parts(self) -> dict[str, float]:
        parts = self._parts.drain(self.accelerator)
        if not self.args.cc_weight:  # noun phrases are not looked at
            del parts["dropped_phrases"], parts["captions_without_phrases"]
        return parts

    # Evaluation

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Without augmentation, and with the last, smaller batch, which training leaves out."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        evaluation = getattr(self.data_collator, "for_evaluation", lambda: self.data_collator)
        loader = DataLoader(
            self.eval_dataset if eval_dataset is None else eval_dataset,
            batch_size=self.args.eval_batch_size,
            collate_fn=evaluation(),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """
        Embeddings, not a loss: which negatives a query meets must not depend on the number of processes.

        Returns:
            `None`; a tuple of concept consistency `(batch_size,)`, logit scale `(batch_size,)` and query, target and,
            if they are negatives, reference embeddings `(batch_size, dim)`; and the target and reference keys
            `(batch_size, 2)`.
        """
        batch = dict(self._prepare_inputs(inputs))
        keys = {name: batch.pop(name) for name in NOT_FOR_THE_MODEL if name in batch}
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self._forward(model, batch)
        consistency = torch.zeros(len(outputs.query_embeds), device=outputs.query_embeds.device)
        if self.args.cc_weight:
            of_phrases = concept_losses(
                outputs.context_attentions,
                outputs.isolated_attentions,
                batch["phrase_sample"],
                batch["phrase_token_mask"],
                slack=self.args.cc_slack,
                form=self.args.cc_form,
            )
            consistency.index_add_(0, batch["phrase_sample"], of_phrases)
        embeds = (outputs.query_embeds, outputs.target_embeds, self._references(outputs))
        embeds = (embed for embed in embeds if embed is not None)
        predictions = (consistency, outputs.logit_scale.expand(len(consistency)), *embeds)
        return None, predictions, torch.stack([keys["target_keys"], keys["reference_keys"]], dim=1)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Losses over the evaluation set, in the order of its rows, and the metrics of the `evaluator`."""
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        metrics = {} if output.predictions is None else self._losses(output.predictions, output.label_ids)
        if self.evaluator is not None:
            self.model.eval()
            with torch.no_grad(), self.accelerator.autocast():
                metrics |= self.evaluator(self.model)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _losses(self, predictions, keys) -> dict[str, float]:
        consistency, scale, *embeds = (torch.from_numpy(array) for array in predictions)
        if len(embeds) == 2:  # without reference images
            embeds.append(None)
        target_keys, reference_keys = torch.from_numpy(keys).unbind(1)
        contrastive = 0.0
        for start in range(0, len(scale), self.args.eval_batch_size):
            rows = slice(start, start + self.args.eval_batch_size)
            loss = contrastive_loss(
                *(None if embed is None else embed[rows] for embed in embeds),
                scale[0],
                query_negatives=self.args.query_negatives,
                target_keys=target_keys[rows] if self.args.mask_repeated_targets else None,
                reference_keys=reference_keys[rows],
            )
            contrastive += loss.item() * len(scale[rows]) / len(scale)
        if not self.args.cc_weight:
            return {"loss": contrastive, "loss_contrastive": contrastive}
        concepts = consistency.mean().item()
        return {
            "loss": contrastive + self.args.cc_weight * concepts,
            "loss_contrastive": contrastive,
            "loss_concept_consistency": concepts,
        }

    # What is left of a run

    def record(self) -> dict[str, Any]:
        """Everything that the model card says, and `training.json` holds: JSON of `run_info`, the model, the arguments
        that differ from their defaults, the metrics, the history of the log, and the versions."""
        history = self.state.log_history
        finished = [entry for entry in history if "train_runtime" in entry]
        evaluated = [entry for entry in history if any(key.startswith("eval_") for key in entry)]
        trained = [entry for entry in history if "loss" in entry]
        parameters = list(self.model.parameters())
        return {
            **self.run_info,
            "model": {
                "class": type(self.model).__name__,
                "parameters": sum(parameter.numel() for parameter in parameters),
                "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
                "scalars": {name: p.item() for name, p in self.model.named_parameters() if p.dim() == 0},
                **self.run_info.get("model", {}),
            },
            "train_triplets": len(self.train_dataset) if self.train_dataset is not None else None,
            "bad_images": self._num_left_out(),
            "processes": self.args.world_size,
            "arguments": recorded_arguments(self.args),
            "training": {**(trained[-1] if trained else {}), **(finished[-1] if finished else {})},
            "metrics": evaluated[-1] if evaluated else {},
            "history": history,
            "versions": versions(),
        }

    def create_model_card(self, model_name: str | None = None, **kwargs) -> None:
        """Renders `README.md` of the output folder from the `record` of the run."""
        if self.card_template is None:
            return super().create_model_card(model_name=model_name, **kwargs)
        if self.is_world_process_zero():
            write_model_card(self.record(), self.card_template, self.args.output_dir, model_name)
        return None


def _write_json(path: str, content: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
