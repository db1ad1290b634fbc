"""Options and loading that `index`, `search`, `serve` and `gallery` share: which model embeds, and on which device."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from transformers.hf_argparser import HfArg

if TYPE_CHECKING:
    from contextcir.retrieval.identity import Identity

AUTOCAST = {"no": None, "bf16": "bfloat16", "fp16": "float16"}


@dataclass
class ModelChoice:
    """The model that embeds queries. What is not given is as the gallery was made."""

    _argument_group_name = "Model"

    model: str | None = HfArg(default=None, help="Folder of a run or Hub name; by default the gallery's own model.")
    autocast: Literal["no", "bf16", "fp16"] | None = HfArg(
        default=None, help="Precision to embed in (default: the gallery's, or no)."
    )

    truncate_dim: int | None = HfArg(
        default=None, help="Numbers of an embedding that are kept (default: the gallery's, or all)."
    )

    def retriever(self, made_by: "Identity | None" = None) -> Any:
        """Load the model and make a [`~contextcir.retrieval.dense.DenseRetriever`], see [`ModelChoice.load`]."""
        return self.load(made_by)[2]

    def load(self, made_by: "Identity | None" = None) -> tuple[Any, Any, Any]:
        """
        Load the model on this process's device.

        Args:
            made_by ([`~contextcir.retrieval.identity.Identity`], *optional*): Who made the gallery.

        Returns:
            `tuple`: The model, its processor, and the [`~contextcir.retrieval.dense.DenseRetriever`] of both.
        """
        import torch
        from transformers.utils import logging

        from contextcir.cli.loading import load_model
        from contextcir.retrieval.dense import DenseRetriever

        name = self.model or (made_by.model if made_by else None)
        if name is None:
            raise ValueError("Give --model: a folder of a run, or a name on the Hub.")
        logging.disable_progress_bar()
        device = own_device()
        model, processor = load_model(name, device)
        autocast = AUTOCAST[self.autocast] if self.autocast else (made_by.autocast if made_by else None)
        dtype = getattr(torch, autocast) if autocast else None
        options = {"draft_side": made_by.draft_side if made_by else None} | self.reading(processor, device)
        options["truncate_dim"] = self.truncate_dim or (made_by.truncate_dim if made_by else None)
        return model, processor, DenseRetriever.from_model(model, processor, autocast=dtype, **options)

    def reading(self, processor: Any, device: Any) -> dict[str, Any]:
        """Options of the retriever that say how images are read."""
        return {}


@dataclass
class EncoderChoice(ModelChoice):
    """The model that embeds images, and how they are read."""

    batch_size: int = HfArg(default=64, help="Images that are embedded at a time.")
    num_workers: int | None = HfArg(
        default=None, help="Processes that read images (default: 0 on a CPU, which means threads; up to 8 on a GPU)."
    )
    draft: bool = HfArg(
        default=False, help="Decode large JPEG files at a reduced size: faster, and not quite the same embeddings."
    )

    def __post_init__(self):
        if self.batch_size < 1 or (self.num_workers or 0) < 0:
            raise ValueError(
                f"Got batch_size {self.batch_size} and num_workers {self.num_workers}, expected at least 1 and 0."
            )

    def reading(self, processor: Any, device: Any) -> dict[str, Any]:
        """Options of the retriever that say how images are read."""
        from PIL import Image

        from contextcir.retrieval.dense import PixelValues

        workers = self.num_workers
        if workers is None:
            workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
        found: dict[str, Any] = {"batch_size": self.batch_size, "num_workers": workers}
        if self.draft:  # twice the side of the model's input: smooth enough, and little of a large photograph
            found["draft_side"] = 2 * PixelValues(processor)(Image.new("RGB", (64, 64))).shape[-1]
        return found


def own_device() -> Any:
    """The accelerator of this process (`LOCAL_RANK`), or the CPU. Processes need not know of each other: a group of
    processes would wait for one that has died."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count())
