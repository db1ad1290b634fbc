"""The loss of a training step, `L_tot = L_cont + lambda * L_cc`, with negatives of all processes and their gradients.
With `grounding_weight`, the divergence of the maps of noun phrases from given ones is added.

Negatives do not cross the micro-batches of gradient accumulation. `grad_cache.py` makes one large batch of a step.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from contextcir.runtime.distributed import gather_with_gradient
from contextcir.training.ema import MovingAverage
from contextcir.training.grad_cache import cached_loss
from contextcir.training.loss_log import LossParts
from contextcir.training.losses import concept_consistency_loss, contrastive_loss, grounding_loss
from contextcir.training.matryoshka import losses_at, name_at
from contextcir.training.sharding import ShardedTraining
from contextcir.training.training_args import CIRTrainingArguments

KEYS = ("target_keys", "reference_keys", "negative_keys")
NOT_MODEL_INPUTS = (*KEYS, "num_truncated_texts", "num_dropped_phrases", "triplet_ids")
ISOLATED = ("phrase_input_ids", "phrase_attention_mask")  # what the model makes the isolated maps of


class Objective(ShardedTraining):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that computes the loss of a step."""

    args: CIRTrainingArguments
    moving_average: MovingAverage | None
    _parts: LossParts

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return L_tot of this process's queries against the targets of all processes. With `grad_cache_chunk`, the
        gradients of all chunks but the last are computed on the way."""
        size = self.args.grad_cache_chunk
        if size and len(inputs["input_ids"]) > size:
            return self._cached_loss(model, inputs, size)
        outputs = self._forward(model, inputs)
        loss, of_maps = self._contrastive_loss(outputs, inputs), self._map_losses(outputs, inputs)
        loss = loss if of_maps is None else loss + of_maps
        return (loss, outputs) if return_outputs else loss

    def _cached_loss(self, model: Any, inputs: dict[str, torch.Tensor], size: int) -> torch.Tensor:
        texts = len(inputs["input_ids"])

        return cached_loss(
            {name: value for name, value in inputs.items() if name not in NOT_MODEL_INPUTS},
            size,
            encode=partial(self._forward, model),
            contrastive=lambda outputs: self._contrastive_loss(outputs, inputs),
            of_maps=lambda outputs, chunk: self._map_losses(outputs, chunk, len(chunk["input_ids"]) / texts),
            backward=lambda loss: self.accelerator.backward(loss / self.current_gradient_accumulation_steps),
            trains_targets=self.moving_average is None,
            without_sync=lambda: self.accelerator.no_sync(model),
        )

    def _contrastive_loss(self, outputs: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        args = self.args
        references: Any = self._reference_embeds(outputs)
        reference_keys = inputs["reference_keys"]
        if args.query_negatives == "all":
            references, reference_keys = gather_with_gradient(references), self.accelerator.gather(reference_keys)
        target_keys = inputs["target_keys"] if args.mask_repeated_targets else None
        batch_size, with_mined = len(outputs.query_embeds), "negative_keys" in inputs
        keys = {
            "target_keys": target_keys,
            "all_target_keys": self.accelerator.gather(inputs["target_keys"]),
            "reference_keys": reference_keys,
            "negative_keys": self.accelerator.gather(inputs["negative_keys"]) if with_mined else None,
        }

        def loss_of(queries: Any, targets: Any, references: Any, mined: Any) -> torch.Tensor:
            return contrastive_loss(
                queries,
                targets,
                references,
                outputs.logit_scale,
                negative_embeds=mined,
                query_negatives=args.query_negatives,
                offset=self.accelerator.process_index * batch_size,
                **keys,
            )

        targets, mined = outputs.target_embeds.tensor_split([batch_size])
        mined = gather_with_gradient(mined) if with_mined else None
        embeds = outputs.query_embeds, gather_with_gradient(targets), references, mined
        if args.matryoshka_dims is None:
            loss = loss_of(*embeds)
        else:
            loss, losses = losses_at(args.matryoshka_dims, loss_of, *embeds)
            for width, one in losses.items():
                self._parts.add(name_at(width, "loss_contrastive"), one)
        self._parts.add("loss_contrastive", loss)
        self._parts.add("temperature", 1 / outputs.logit_scale)
        self._parts.count("truncated_texts", inputs["num_truncated_texts"])
        if args.reads_phrases:
            self._parts.count("dropped_phrases", inputs["num_dropped_phrases"])
        return loss

    def _map_losses(self, outputs: Any, inputs: Mapping[str, torch.Tensor], share: float = 1.0) -> Any:
        """Return the weighted losses on the maps of the noun phrases of texts, which are a share of a batch; `None`
        without such losses."""
        losses = []
        if self.args.reads_phrases:
            phrases = inputs["phrase_sample"].bincount(minlength=len(outputs.query_embeds))
            self._parts.add("num_concepts", phrases.float().mean(), share)
            self._parts.count("captions_without_phrases", (phrases == 0).sum())
        if self.args.cc_weight:
            losses.append(self._cc_weight() * share * self._concept_loss(outputs, inputs, share))
        if self.args.grounding_weight:
            if "phrase_maps" not in inputs:
                raise ValueError(
                    "grounding_weight needs phrase_maps in the batches. Give the collator grounding=True, or set it"
                    " to 0."
                )
            loss = grounding_loss(outputs.context_attentions, inputs["phrase_maps"], len(outputs.query_embeds))
            self._parts.add("loss_grounding", loss, share)
            losses.append(self.args.grounding_weight * share * loss)
        return sum(losses) if losses else None

    def _concept_loss(self, outputs: Any, inputs: Mapping[str, torch.Tensor], share: float = 1.0) -> torch.Tensor:
        """Return L_cc of the texts, which are a share of a batch."""
        parts, texts = self._parts, len(outputs.query_embeds)
        concepts = concept_consistency_loss(
            outputs.context_attentions,
            outputs.isolated_attentions,
            inputs["phrase_sample"],
            texts,
            inputs["phrase_token_mask"],
            slack=self.args.cc_slack,
            form=self.args.cc_form,
        )
        phrases = inputs["phrase_sample"].bincount(minlength=texts)
        parts.add("loss_concept_consistency", concepts.loss, share)
        parts.add("context_entropy", concepts.context_entropy, concepts.num_concepts)
        parts.add("isolated_entropy", concepts.isolated_entropy, concepts.num_concepts)
        parts.add("map_diversity", concepts.map_diversity, (phrases * (phrases - 1)).sum() / 2)  # number of pairs
        return concepts.loss

    def _cc_weight(self) -> float:
        """Return the weight of the concept-consistency loss in this step."""
        rise = self.args.cc_warmup_steps
        steps = rise * self.state.max_steps if rise < 1 else rise
        return self.args.cc_weight * min(1.0, self.state.global_step / steps if steps else 1.0)

    def _forward(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Any:
        left_out = (*NOT_MODEL_INPUTS, "phrase_maps", *(() if self.args.cc_weight else ISOLATED))
        batch: dict[str, Any] = {name: value for name, value in inputs.items() if name not in left_out}
        if self.args.cc_weight:
            batch["isolated_grad"] = self.args.isolated_grad
        if self.moving_average is None or not model.training:
            with self.casting_if_sharded():
                return model(**batch)
        target_index = batch.pop("target_index", None)
        outputs = model(**batch)
        if target_index is None:  # the second pass of GradCache: no gradient goes to targets
            return outputs
        with self.accelerator.autocast():  # which the prepared model applies by itself
            outputs.target_embeds = self.moving_average.embed_targets(batch["pixel_values"], target_index)
        return outputs

    def _reference_embeds(self, outputs: Any) -> torch.Tensor | None:
        """Return embeddings of the reference images, if they are negatives."""
        if self.args.query_negatives == "none":
            return None
        if getattr(outputs, "reference_embeds", None) is None:
            raise ValueError(
                f"{type(self.model).__name__} does not embed reference images alone. Set query_negatives to none."
            )
        return outputs.reference_embeds
