"""Evaluation of triplets: losses of a whole set, the same on any number of processes, and retrieval metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from contextcir.training.losses import concept_losses, contrastive_loss


class TripletEvaluation(Trainer):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that evaluates the model."""

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
        return self.accelerator.prepare(loader)

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

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Add the losses of the evaluation set, in the order of its rows, and the evaluator's metrics."""
        kwargs |= {"metric_key_prefix": metric_key_prefix, "prediction_loss_only": False}
        output = super().evaluation_loop(dataloader, description, **kwargs)
        metrics = {} if output.predictions is None else self._losses(output.predictions, output.label_ids)
        if self.evaluator is not None:
            self.model.eval()
            with torch.no_grad(), self.accelerator.autocast():
                metrics |= self.evaluator(self.model)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _losses(self, predictions: Sequence[np.ndarray], keys: np.ndarray) -> dict[str, Any]:
        consistency, scale, *embeds = map(torch.from_numpy, predictions)
        target_keys, reference_keys = torch.from_numpy(keys).unbind(1)
        contrastive = 0.0
        for start in range(0, len(scale), self.args.eval_batch_size):
            rows = slice(start, start + self.args.eval_batch_size)
            queries, targets, *references = (embed[rows] for embed in embeds)
            loss = contrastive_loss(
                queries,
                targets,
                references[0] if references else None,
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
