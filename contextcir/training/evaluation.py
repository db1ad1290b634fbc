"""Evaluation of triplets: losses of a whole set, the same on any number of processes, and retrieval metrics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers.trainer_utils import EvalLoopOutput

from contextcir.training.loader_workers import shield_workers
from contextcir.training.losses import concept_losses, contrastive_loss
from contextcir.training.matryoshka import losses_at, name_at
from contextcir.training.metric_names import LOSSES, check_exists
from contextcir.training.sharding import ShardedTraining


class TripletEvaluation(ShardedTraining):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that evaluates the model."""

    evaluator: Any  # model -> metrics, or `None`

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Return batches without augmentation. The last, smaller one is kept, which training leaves out."""
        triplets: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(triplets, str):
            triplets = self.eval_dataset[triplets]
        for_evaluation = getattr(self.data_collator, "for_evaluation", lambda: self.data_collator)
        loader = DataLoader(
            triplets,
            batch_size=self.args.eval_batch_size,
            collate_fn=for_evaluation(),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(shield_workers(loader))

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Return the batches of [`~transformers.Trainer.predict`]: as those of an evaluation, every row as it is."""
        return self.get_eval_dataloader(test_dataset)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any
    ) -> tuple[None, tuple[torch.Tensor, ...], torch.Tensor]:
        """
        Return embeddings, not a loss: the negatives of a query must not depend on the number of processes.

        Returns:
            `None`; a tuple of concept consistency `(batch_size,)`, logit scale `(batch_size,)` and query, target and,
            if they are negatives, reference embeddings `(batch_size, dim)`; and the target and reference keys
            `(batch_size, 2)`.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self._forward(model, inputs)
        consistency = torch.zeros(len(outputs.query_embeds), device=outputs.query_embeds.device)
        if self.args.cc_weight:
            losses = concept_losses(
                outputs.context_attentions,
                outputs.isolated_attentions,
                inputs["phrase_sample"],
                inputs["phrase_token_mask"],
                slack=self.args.cc_slack,
                form=self.args.cc_form,
            )
            consistency.index_add_(0, inputs["phrase_sample"], losses)
        embeds = [outputs.query_embeds, outputs.target_embeds, self._reference_embeds(outputs)]
        embeds = [embed for embed in embeds if embed is not None]
        predictions = (consistency, outputs.logit_scale.expand(len(consistency)), *embeds)
        return None, predictions, torch.stack([inputs["target_keys"], inputs["reference_keys"]], dim=1)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as in transformers: the losses of the evaluation set, or of each of several, and the evaluator's
        metrics once."""
        several = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(several, dict) or self.evaluator is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        evaluator, self.evaluator = self.evaluator, None
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.evaluator = evaluator
        own = self._evaluator_metrics(metric_key_prefix)
        self.log(own)
        return metrics | own

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Add the losses of the evaluation set, in the order of its rows, and in an evaluation the evaluator's
        metrics. `fp16_full_eval` and `bf16_full_eval` cast a copy: the weights themselves stay as they are."""
        kwargs |= {"metric_key_prefix": metric_key_prefix, "prediction_loss_only": False}
        half = not self.is_in_train and (self.args.fp16_full_eval or self.args.bf16_full_eval)
        with self.with_whole_model(), weights_put_back(self.model) if half else nullcontext():
            output = super().evaluation_loop(dataloader, description, **kwargs)
            metrics = {} if output.predictions is None else self._losses(output.predictions, output.label_ids)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
            if description != "Prediction":
                output.metrics.update(self._evaluator_metrics(metric_key_prefix))
        return output

    def _evaluator_metrics(self, prefix: str) -> dict[str, float]:
        if self.evaluator is None:
            return {}
        self.model.eval()
        with self.with_whole_model(), torch.no_grad(), self.accelerator.autocast():
            return {f"{prefix}_{name}": value for name, value in self.evaluator(self.model).items()}

    def metric_names(self) -> list[str] | None:
        """Return the names for `metric_for_best_model`, or `None` if functions of the user decide on them."""
        if self.compute_metrics is not None:
            return None
        losses = [*(LOSSES if self.args.cc_weight else LOSSES[:2])]
        losses += [name_at(width, "loss_contrastive") for width in self.args.matryoshka_dims or ()]
        sets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        names = [f"{name}_{loss}".lstrip("_") for name, rows in sets.items() if has_rows(rows) for loss in losses]
        if self.evaluator is not None:
            if not hasattr(self.evaluator, "metric_names"):
                return None
            names += self.evaluator.metric_names
        return names

    def check_best_metric(self) -> None:
        """Refuse a `metric_for_best_model` that no evaluation gives, with a `ValueError`, as early as it is known."""
        names = self.metric_names() if self.args.eval_strategy != "no" else None
        if self.args.metric_for_best_model is not None and names is not None:
            check_exists(self.args.metric_for_best_model, names)

    def _determine_best_metric(self, metrics, trial):
        if self.args.metric_for_best_model is not None:
            check_exists(self.args.metric_for_best_model, metrics)
        return super()._determine_best_metric(metrics, trial)

    def _losses(self, predictions: Sequence[np.ndarray], keys: np.ndarray) -> dict[str, Any]:
        consistency, scale, *embeds = map(torch.from_numpy, predictions)
        target_keys, reference_keys = torch.from_numpy(keys).unbind(1)
        widths = self.args.matryoshka_dims or []
        contrastive, at_widths = 0.0, dict.fromkeys(widths, 0.0)
        for start in range(0, len(scale), self.args.eval_batch_size):
            rows = slice(start, start + self.args.eval_batch_size)
            queries, targets, *references = (embed[rows] for embed in embeds)
            own = queries, targets, references[0] if references else None
            loss_of = partial(
                contrastive_loss,
                logit_scale=scale[0],
                query_negatives=self.args.query_negatives,
                target_keys=target_keys[rows] if self.args.mask_repeated_targets else None,
                reference_keys=reference_keys[rows],
            )
            loss, losses = losses_at(widths, loss_of, *own) if widths else (loss_of(*own), {})
            contrastive += loss.item() * len(scale[rows]) / len(scale)
            for width, one in losses.items():
                at_widths[width] += one.item() * len(scale[rows]) / len(scale)
        named = {name_at(width, "loss_contrastive"): value for width, value in at_widths.items()}
        if not self.args.cc_weight:
            return {"loss": contrastive, "loss_contrastive": contrastive, **named}
        concepts = consistency.mean().item()
        return {
            "loss": contrastive + self.args.cc_weight * concepts,
            "loss_contrastive": contrastive,
            "loss_concept_consistency": concepts,
            **named,
        }


def has_rows(dataset: Any) -> bool:
    """Return whether a data set is there and not empty. Of a stream it is not known, and assumed."""
    return dataset is not None and (not hasattr(dataset, "__len__") or len(dataset) > 0)


@contextmanager
def weights_put_back(model: torch.nn.Module) -> Iterator[None]:
    """Give a model its own weights and buffers back at the end, whatever type and device they are cast to inside."""
    tensors = [*model.parameters(), *model.buffers()]
    own = [tensor.data for tensor in tensors]
    try:
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
