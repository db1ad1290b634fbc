"""Groups of weights: which of them decay, and at which rate the encoders learn.

Decay keeps the weights of layers small. The temperature, the class token, position embeddings, a seed, norms and
biases are no such weights: pulled to zero, they only lose what they have learned. So CLIP (section 2.5) decays "all
weights that are not gains or biases". transformers leaves out norms and biases alone.
"""

import os
import re

import torch
from torch import nn
from transformers import Trainer

from contextcir.training.training_args import CIRTrainingArguments

_IN_ENCODER = re.compile(r"(^|\.)(text_model|vision_model)\.")


class GroupedWeights(Trainer):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that groups the weights for the optimizer."""

    args: CIRTrainingArguments

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the weights that decay."""
        names = super().get_decay_parameter_names(model)
        if self.args.weight_decay_of == "transformers":
            return names
        layers = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        weights = dict(model.named_parameters())
        return [
            name
            for name in names
            if name in layers or (weights[name].squeeze().dim() > 1 and "position_embedding" not in name)
        ]

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """Create the optimizer as in transformers. With `encoder_learning_rate`, the weights of the encoders are in
        groups of their own, after the others."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        rate = self.args.encoder_learning_rate
        if rate is not None and is_new:
            encoders = {weight for name, weight in self.model.named_parameters() if _IN_ENCODER.search(name)}
            for group in list(optimizer.param_groups):
                own = [weight for weight in group["params"] if weight in encoders]
                group["params"] = [weight for weight in group["params"] if weight not in encoders]
                optimizer.add_param_group({**group, "params": own, "lr": rate})
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint):
        path = os.path.join(checkpoint or "", "optimizer.pt")
        if checkpoint is not None and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            groups = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["param_groups"]
            before, now = ([len(group["params"]) for group in some] for some in (groups, self.optimizer.param_groups))
            if before != now:
                raise ValueError(
                    f"{checkpoint} has groups of {before} weights in its optimizer, this run has {now}. Resume with"
                    " the encoder_learning_rate and the weight_decay_of of that run, which was transformers before"
                    " there was a choice."
                )
        super()._load_optimizer_and_scheduler(checkpoint)
