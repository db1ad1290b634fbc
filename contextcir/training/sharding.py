"""Training whose weights, gradients and optimizer are cut over all processes: FSDP2, as asked for by
`configs/accelerate/fsdp2.yaml`.

A module that is sharded on its own is gathered at each of its calls, so all processes must call it equally often. How
often the text encoder is called depends on the texts. So a model names such modules (`sharding_units`): the layers of
its image encoder. All else is gathered once a step. Weights travel and are summed in float32, and are cast under
`bf16` as they are without FSDP.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, StateDictType, fully_shard
from transformers import Trainer


class ShardedTraining(Trainer):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that trains and saves a model that is cut over
    processes."""

    is_fsdp_enabled: bool
    _scalars: dict[str, float] = {}  # the parameters that are one number, as of the last save of a sharded model

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator as in transformers, and check that it shards as this library can."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        asked = parse_flag_from_env("ACCELERATE_USE_FSDP") and state.use_distributed
        if asked and not self.is_fsdp_enabled and state.device.type == "cpu":
            # accelerate would train with DDP on a CPU, without a word.
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**(self.args.fsdp_plugin_args or {}))
            PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True
        if self.is_fsdp_enabled:
            check_plugin(state.fsdp_plugin)
            state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()

    def check_whole_model(self, args: Any) -> None:
        """Refuse what needs the whole model on every process where it is sharded, with a `ValueError`."""
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            return
        needed = [name for name in ("ema_momentum", "grad_cache_chunk") if getattr(args, name) is not None]
        needed += ["torch_compile"] if args.torch_compile else []
        needed += ["lora_rank"] if hasattr(self.model, "lora_scale") else []
        if needed:
            raise ValueError(f"{needed[0]} needs the whole model on every process: leave out DeepSpeed and FSDP.")

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_fsdp_enabled:
            return super()._prepare_for_training(*args, **kwargs)
        if not isinstance(self.model, FSDPModule):
            self._scalars = self.scalars()
        with sharded(self.model, self.accelerator.state.fsdp_plugin.reshard_after_forward):
            return super()._prepare_for_training(*args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute the gradients of a micro-batch. The temperature is held at its bound where it is kept: in its
        shard."""
        if self.is_fsdp_enabled and hasattr(self.model, "hold_logit_scale"):
            self.model.hold_logit_scale()
        return super().training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def casting_if_sharded(self) -> Any:
        """Return the context of a call of the model, which accelerate lets cast by itself under DDP only."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else nullcontext()

    def with_whole_model(self) -> Any:
        """Return a context in which each process has the whole model: they need not call it equally often."""
        if not isinstance(self.model, FSDPModule):
            return nullcontext()
        return gathered(self.model, self.accelerator.state.fsdp_plugin.reshard_after_forward)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a model as in transformers, and a sharded one as a whole beside its shards."""
        if not isinstance(self.model, FSDPModule):
            super().save_model(output_dir, _internal_call)
            return
        state = self.accelerator.get_state_dict(self.model)  # empty but on the main process
        for name in state.keys() & self._scalars.keys():
            state[name] = state[name].reshape(())  # as files have it
            self._scalars[name] = state[name].item()
        with named_as_before(self.model):
            self._save(output_dir or self.args.output_dir, state_dict=state)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def scalars(self) -> dict[str, float]:
        """Return the parameters that are one number. Of a sharded model, as they were when it was last saved."""
        if isinstance(self.model, FSDPModule):
            return self._scalars
        return {name: p.item() for name, p in self.model.named_parameters() if p.dim() == 0}


def check_plugin(plugin: FullyShardedDataParallelPlugin) -> None:
    """Refuse settings of FSDP with which the models here would hang, or train something else, with a `ValueError`."""
    wrong = {
        "fsdp_version": (plugin.fsdp_version, 2),
        "fsdp_auto_wrap_policy": (getattr(plugin.auto_wrap_policy, "__name__", plugin.auto_wrap_policy), None),
        "fsdp_state_dict_type": (plugin.state_dict_type, StateDictType.SHARDED_STATE_DICT),
        "fsdp_cpu_ram_efficient_loading": (plugin.cpu_ram_efficient_loading, False),
        "fsdp_activation_checkpointing": (plugin.activation_checkpointing, False),
        "fsdp_ignored_modules": (plugin.ignored_modules, None),
    }
    problems = [f"{name}={got} instead of {want}" for name, (got, want) in wrong.items() if got != want]
    if problems:
        raise ValueError(
            f"FSDP with {', '.join(problems)} is not supported. Take the settings of configs/accelerate/fsdp2.yaml;"
            " --activation_checkpointing is an option of the run."
        )


@contextmanager
def sharded(model: Any, reshard_after_forward: bool) -> Iterator[None]:
    """
    Prepare a model in whose context accelerate shards it.

    Its `sharding_units` are sharded here. Parameters that are one number get a dimension, without which FSDP2 refuses
    them. And accelerate, which would shard the token embeddings on their own, finds none.
    """
    if isinstance(model, FSDPModule):
        yield
        return
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 0:
                module.register_parameter(name, nn.Parameter(parameter.detach()[None], parameter.requires_grad))
    for unit in getattr(model, "sharding_units", list)():
        fully_shard(unit, reshard_after_forward=reshard_after_forward)
    model.get_input_embeddings = lambda: None
    try:
        yield
    finally:
        del model.get_input_embeddings


def own_class(model: Any) -> type:
    """Return the class of a model, which FSDP2 replaces by a subclass."""
    return type(model).__bases__[1] if isinstance(model, FSDPModule) else type(model)


@contextmanager
def named_as_before(model: Any) -> Iterator[None]:
    """Give a sharded model its own class, by which it is saved with its own code and name."""
    now = type(model)
    model.__class__ = own_class(model)
    try:
        yield
    finally:
        model.__class__ = now


@contextmanager
def gathered(model: Any, reshard_after_forward: bool) -> Iterator[None]:
    """Hold a sharded model whole on every process. Inside, no call of it waits for other processes."""
    model._get_fsdp_state()._lazy_init()  # as its first call would do
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            if module is not model:
                module.set_reshard_after_forward(reshard_after_forward, recurse=False)
            module.reshard()
