"""Options of `contextcir train`: the model to start from, and the data. Others are in `contextcir/training`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.options import as_flags

# Defaults of other models than ConText-CIR, whose values are the defaults of the training arguments.
PAPERS: dict[str, dict[str, Any]] = {
    "instructcir": {  # arXiv 2504.00812, section IV-A; equation 2 is the whole loss, over target images alone
        "learning_rate": 2e-6,
        "weight_decay": 0.1,
        "per_device_train_batch_size": 32,
        "cc_weight": 0,
        "query_negatives": "none",
    },
    "cir_baseline": {"cc_weight": 0},
}


@dataclass
class ModelArguments:
    """The model to start from. Fields of its config apply to a start from CLIP; the model has defaults for them."""

    _argument_group_name = "Model"

    clip_name_or_path: str | None = HfArg(default=None, help="CLIP model to start from, folder or Hub name.")
    model_name_or_path: str | None = HfArg(default=None, help="Model to go on from, folder or Hub name.")
    model: Literal["contextcir", "instructcir", "cir_baseline"] | None = HfArg(
        default=None, help="What to make of a CLIP model: contextcir (default), instructcir or cir_baseline."
    )
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of either on the Hub.")
    allow_pickle: bool = HfArg(
        default=False, help="Read .bin files where there are no safetensors. Only of models that you trust."
    )
    attn_implementation: Literal["sdpa", "eager"] = HfArg(default="sdpa", help="Attention of the encoders.")
    fusion_direction: Literal["text_to_image", "image_to_text"] | None = HfArg(
        default=None, help="Which tokens query which: text_to_image (default) or image_to_text."
    )
    target_encoding: Literal["fusion", "clip"] | None = HfArg(
        default=None, help="Gallery images as f(I, '') (fusion, default) or by CLIP's projection (clip)."
    )
    fusion_class_token: bool | None = HfArg(
        default=None, help="Whether the fusion sees the image's class token; it does by default."
    )
    pool_image_tokens: bool | None = HfArg(
        default=None,
        help="Whether the pooling reads the image's own tokens beside the rows of the fusion; it does not by default.",
    )
    projection_dim: int | None = HfArg(default=None, help="Size of the embeddings; CLIP's by default.")
    fusion_hidden_size: int | None = HfArg(default=None, help="Width of the fusion.")
    fusion_num_layers: int | None = HfArg(default=None, help="Cross-attention blocks of the fusion.")
    fusion_num_heads: int | None = HfArg(default=None, help="Attention heads of the fusion.")
    fusion_intermediate_size: int | None = HfArg(default=None, help="Feed-forward width of the fusion.")
    cross_attention: bool | None = HfArg(
        default=None, help="Whether InstructCIR's image encoder reads the text; it does by default."
    )
    predictor_text: bool | None = HfArg(
        default=None, help="Whether InstructCIR's predictor reads the text; it does by default."
    )
    predictor_hidden_size: int | None = HfArg(default=None, help="Width of InstructCIR's predictor.")
    composition: Literal["combiner", "tirg"] | None = HfArg(
        default=None, help="Which baseline: CLIP4Cir's combiner (default) or TIRG's gate."
    )
    composer_hidden_size: int | None = HfArg(default=None, help="Width of the baseline's hidden layers.")
    image_fit: Literal["crop", "padding", "squash"] | None = HfArg(
        default=None,
        help="How an image becomes a square: its middle (crop, default), all with bars (padding) or squash. Kept in "
        "the model.",
    )
    logit_scale_init_value: float | None = HfArg(
        default=None, help="Logarithm of the inverse temperature at the start; CLIP's config by default."
    )
    lora_rank: int = HfArg(
        default=0, help="Rank of LoRA adapters in both encoders, whose own weights are then frozen; 0 disables LoRA."
    )
    lora_alpha: int = HfArg(default=32, help="Scale of the adapters (over the rank).")
    lora_target_modules: str = HfArg(
        default=r"(text_model|vision_model)\..*\.(q_proj|v_proj)",
        help="Pattern of the linear layers that get an adapter.",
    )

    def __post_init__(self):
        if (self.clip_name_or_path is None) == (self.model_name_or_path is None):
            raise ValueError("Give either clip_name_or_path or model_name_or_path.")
        given = [*(["model"] if self.model else []), *self.config_fields]
        if self.model_name_or_path and given:
            raise ValueError(f"{', '.join(given)}: given by the config of {self.model_name_or_path}. Leave them out.")
        self.model = self.model or "contextcir"
        foreign = [name for name in self.config_fields if name not in config_fields(self.model)]
        if foreign:
            raise ValueError(f"{', '.join(foreign)}: {self.model} has {', '.join(config_fields(self.model))}.")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must not be negative, got {self.lora_rank}.")

    @property
    def config_fields(self) -> dict[str, Any]:
        """Those fields of a model's config that are given."""
        names = dict.fromkeys(name for model in models() for name in config_fields(model))
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class DataArguments:
    """Triplets to train on and, for evaluation, triplets (losses) and a benchmark (retrieval metrics)."""

    _argument_group_name = "Data"

    data: list[str] | None = HfArg(
        default=None,
        help="Triplets: Hub name, folder of Parquet files, or image folder with metadata; several are mixed.",
    )
    data_weights: list[float] | None = HfArg(
        default=None,
        help="How often each of several data sets is seen in an epoch, by default once; with streaming, their shares"
        " of the rows.",
    )
    streaming: bool = HfArg(
        default=False,
        help="Read the triplets while training, without a copy on this disk: Hub, Parquet or WebDataset files. Needs"
        " max_steps.",
    )
    data_config: str | None = HfArg(default=None, help="Configuration of the data sets on the Hub.")
    data_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the data on the Hub.")
    train_split: str = HfArg(default="train", help="Split to train on, such as 'train[:1000]'.")
    eval_split: str | None = HfArg(default=None, help="Split of the (first) triplets whose losses are evaluated.")
    benchmark: str | None = HfArg(default=None, help="Benchmark (folder or Hub name) whose metrics are evaluated.")
    benchmark_split: str = HfArg(default="validation", help="Split of the benchmark.")
    benchmark_max_queries: int | None = HfArg(
        default=None, help="Evaluate on its first queries only, against the whole gallery."
    )

    def __post_init__(self):
        if not self.data:
            raise ValueError("data is missing: a Hub name or a folder of triplets.")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(f"There are {len(self.data_weights)} data_weights for {len(self.data)} data sets.")
        if self.benchmark_max_queries is not None and self.benchmark_max_queries < 1:
            raise ValueError(f"benchmark_max_queries must be at least 1, got {self.benchmark_max_queries}.")


@cache
def models() -> dict[str, tuple[Any, Any]]:
    """`dict`: The class and the processor of each model that can be trained, by its `model_type`."""
    from modeling_contextcir import (
        CompositionBaseline,
        ContextCIRModel,
        ContextCIRProcessor,
        InstructCIRModel,
        InstructCIRProcessor,
    )

    return {
        "contextcir": (ContextCIRModel, ContextCIRProcessor),
        "instructcir": (InstructCIRModel, InstructCIRProcessor),
        "cir_baseline": (CompositionBaseline, ContextCIRProcessor),
    }


def config_fields(model: str) -> list[str]:
    """The fields of a model's config that a start from CLIP may set."""
    fields = models()[model][0].config_class.__annotations__
    return [name for name in fields if not name.endswith(("_config", "_ids", "_dims"))]


def with_paper_values(argv: Sequence[str]) -> list[str]:
    """Put the values of the model's paper in front of the flags, which override them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    model = parser.parse_known_args(argv)[0].model
    return [*as_flags(PAPERS.get(model, {})), *argv]
