"""Options and loading that `index`, `search`, `serve` and `gallery` share: which model embeds, and on which device."""

import os
from dataclasses import dataclass
from typing import Any, Literal

from transformers.hf_argparser import HfArg


@dataclass
class ModelChoice:
    """The model that embeds."""

    _argument_group_name = "Model"

    model: str | None = HfArg(default=None, help="Folder of a run or Hub name; by default the gallery's own model.")
    batch_size: int = HfArg(default=64, help="Images that are embedded at a time.")
    num_workers: int | None = HfArg(
        default=None, help="Processes that read images (default: 0 on a CPU, which means threads; up to 8 on a GPU)."
    )
    autocast: Literal["no", "bf16", "fp16"] = HfArg(default="no", help="Precision to embed in.")

    def __post_init__(self):
        if self.batch_size < 1 or (self.num_workers or 0) < 0:
            raise ValueError(
                f"Got batch_size {self.batch_size} and num_workers {self.num_workers}, expected at least 1 and 0."
            )

    def retriever(self, name: str) -> Any:
        """Load the model `name`: a [`~contextcir.retrieval.dense.DenseRetriever`] on this process's device."""
        import torch

        from contextcir.cli.loading import load_model
        from contextcir.retrieval.dense import DenseRetriever

        device = own_device()
        workers = self.num_workers
        if workers is None:
            workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
        autocast = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.autocast]
        model, processor = load_model(self.model or name, device)
        return DenseRetriever.from_model(
            model, processor, autocast=autocast, batch_size=self.batch_size, num_workers=workers
        )


def own_device() -> Any:
    """The accelerator of this process (`LOCAL_RANK`), or the CPU. Processes need not know of each other: a group of
    processes would wait for one that has died."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    kind = accelerator.type
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count())
