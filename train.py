"""Train a ConText-CIR or InstructCIR model, or a baseline, on triplets, from any CLIP or from an earlier model.

    accelerate launch train.py configs/scenes_tiny.yaml
    accelerate launch train.py configs/scenes_tiny.yaml --learning_rate 1e-4 --output_dir runs/slower
    torchrun --nproc_per_node 2 train.py configs/scenes_tiny.yaml --use_cpu
    python train.py --clip_name_or_path openai/clip-vit-base-patch32 --data user/triplets --output_dir runs/mine
    python train.py configs/scenes_tiny.yaml --resume_from_checkpoint true
    python train.py configs/scenes_instructcir.yaml
    python train.py configs/scenes_instructcir_lambda.yaml  # the second stage, on what the first has left

Options come from one YAML file, from flags, or from a file whose options flags override; `--help` lists them all. The
output folder holds the model and its processor, `training.json` (the record of the run, with the history of every
loss part and metric), `trainer_state.json` and a model card rendered from that record.
"""

import dataclasses
import difflib
import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModel, AutoProcessor, HfArgumentParser, set_seed

from contextcir.benchmarks.published import load_benchmark
from contextcir.provenance import git_commit
from contextcir.retrieval.dense import DenseRetriever
from contextcir.trainer import CIRTrainer
from contextcir.training_args import CIRTrainingArguments
from contextcir.triplets import load_triplets, mix_triplets
from contextcir.yaml_options import as_flags, read_yaml
from modeling_baselines import CompositionBaseline
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from modeling_instructcir import InstructCIRModel, InstructCIRProcessor

CARD_TEMPLATES = Path(__file__).parent / "model_cards"
MODELS = {
    "contextcir": (ContextCIRModel, ContextCIRProcessor),
    "instructcir": (InstructCIRModel, InstructCIRProcessor),
    "cir_baseline": (CompositionBaseline, ContextCIRProcessor),
}
CONFIG_FIELDS = {
    "contextcir": (
        "fusion_direction",
        "fusion_class_token",
        "target_encoding",
        "projection_dim",
        "fusion_hidden_size",
        "fusion_num_layers",
        "fusion_num_heads",
        "fusion_intermediate_size",
        "logit_scale_init_value",
    ),
    "instructcir": ("cross_attention", "predictor_text", "predictor_hidden_size", "logit_scale_init_value"),
    "cir_baseline": ("composition", "composer_hidden_size", "logit_scale_init_value"),
}


@dataclass
class ModelArguments:
    """What to start from. Fields of the config apply to a start from CLIP; left out, they are the model's defaults."""

    clip_name_or_path: str | None = field(
        default=None, metadata={"help": "CLIP model to start from, folder or Hub name."}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Model to go on from, folder or Hub name."})
    model: Literal["contextcir", "instructcir", "cir_baseline"] | None = field(
        default=None,
        metadata={"help": "What to make of a CLIP model: contextcir (default), instructcir or cir_baseline."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of either on the Hub."})
    attn_implementation: Literal["sdpa", "eager"] = field(
        default="sdpa", metadata={"help": "Attention of the encoders."}
    )
    fusion_direction: Literal["text_to_image", "image_to_text"] | None = field(
        default=None, metadata={"help": "Which tokens query which: text_to_image (default) or image_to_text."}
    )
    target_encoding: Literal["fusion", "clip"] | None = field(
        default=None, metadata={"help": "Gallery images as f(I, '') (fusion, default) or by CLIP's projection (clip)."}
    )
    fusion_class_token: bool | None = field(
        default=None, metadata={"help": "Whether the fusion sees the image's class token; it does by default."}
    )
    projection_dim: int | None = field(default=None, metadata={"help": "Size of the embeddings; CLIP's by default."})
    fusion_hidden_size: int | None = field(default=None, metadata={"help": "Width of the fusion."})
    fusion_num_layers: int | None = field(default=None, metadata={"help": "Cross-attention blocks of the fusion."})
    fusion_num_heads: int | None = field(default=None, metadata={"help": "Attention heads of the fusion."})
    fusion_intermediate_size: int | None = field(default=None, metadata={"help": "Feed-forward width of the fusion."})
    cross_attention: bool | None = field(
        default=None, metadata={"help": "Whether InstructCIR's image encoder reads the text; it does by default."}
    )
    predictor_text: bool | None = field(
        default=None, metadata={"help": "Whether InstructCIR's predictor reads the text; it does by default."}
    )
    predictor_hidden_size: int | None = field(default=None, metadata={"help": "Width of InstructCIR's predictor."})
    composition: Literal["combiner", "tirg"] | None = field(
        default=None, metadata={"help": "Which baseline: CLIP4Cir's combiner (default) or TIRG's gate."}
    )
    composer_hidden_size: int | None = field(default=None, metadata={"help": "Width of the baseline's hidden layers."})
    logit_scale_init_value: float | None = field(
        default=None, metadata={"help": "Logarithm of the inverse temperature at the start; CLIP's config by default."}
    )
    lora_rank: int = field(
        default=0,
        metadata={
            "help": "Rank of LoRA adapters in both encoders, whose own weights then rest; 0 trains these instead."
        },
    )
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapters (over the rank)."})
    lora_target_modules: str = field(
        default=r"(text_model|vision_model)\..*\.(q_proj|v_proj)",
        metadata={"help": "Pattern of the linear layers that get an adapter."},
    )

    def __post_init__(self):
        if (self.clip_name_or_path is None) == (self.model_name_or_path is None):
            raise ValueError("Give either clip_name_or_path or model_name_or_path.")
        given = [*(["model"] if self.model else []), *self.config_fields]
        if self.model_name_or_path and given:
            raise ValueError(f"{', '.join(given)}: given by the config of {self.model_name_or_path}. Leave them out.")
        self.model = self.model or "contextcir"
        foreign = [name for name in self.config_fields if name not in CONFIG_FIELDS[self.model]]
        if foreign:
            raise ValueError(f"{', '.join(foreign)}: {self.model} has {', '.join(CONFIG_FIELDS[self.model])}.")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must not be negative, got {self.lora_rank}.")

    @property
    def config_fields(self) -> dict[str, Any]:
        """Those fields of a model's config that are given."""
        names = dict.fromkeys(name for fields in CONFIG_FIELDS.values() for name in fields)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class DataArguments:
    """Triplets to train on and, for evaluation, triplets (losses) and a benchmark (retrieval metrics)."""

    data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Triplets: Hub name, folder of Parquet files, or image folder with metadata; several are mixed."
        },
    )
    data_weights: list[float] | None = field(
        default=None, metadata={"help": "How often each of several data sets is seen in an epoch; by default once."}
    )
    data_config: str | None = field(default=None, metadata={"help": "Configuration of the data sets on the Hub."})
    data_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the data on the Hub."})
    train_split: str = field(default="train", metadata={"help": "Split to train on, such as 'train[:1000]'."})
    eval_split: str | None = field(
        default=None, metadata={"help": "Split of the (first) triplets whose losses are evaluated."}
    )
    benchmark: str | None = field(
        default=None, metadata={"help": "Benchmark (folder or Hub name) whose metrics are evaluated."}
    )
    benchmark_split: str = field(default="validation", metadata={"help": "Split of the benchmark."})
    benchmark_max_queries: int | None = field(
        default=None, metadata={"help": "Evaluate on its first queries only, against the whole gallery."}
    )

    def __post_init__(self):
        if not self.data:
            raise ValueError("data is missing: a Hub name or a folder of triplets.")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(f"There are {len(self.data_weights)} data_weights for {len(self.data)} data sets.")
        if self.benchmark_max_queries is not None and self.benchmark_max_queries < 1:
            raise ValueError(f"benchmark_max_queries must be at least 1, got {self.benchmark_max_queries}.")


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, CIRTrainingArguments]:
    """Flags, or a YAML file followed by flags that override it. Unknown options in either are a `ValueError`."""
    kinds = (ModelArguments, DataArguments, CIRTrainingArguments)
    parser = HfArgumentParser(kinds, allow_abbrev=False, description=__doc__.split("\n")[0])
    if argv and argv[0].endswith((".yaml", ".yml")):
        options = read_yaml(argv[0])
        known = [option.name for kind in kinds for option in dataclasses.fields(kind) if option.init]
        if unknown := [str(name) for name in options if name not in known]:
            similar = "".join(difflib.get_close_matches(unknown[0], known, n=1))
            raise ValueError(
                f"{argv[0]}: there is no option {unknown[0]!r}." + (f" Did you mean {similar}?" if similar else "")
            )
        argv = [*as_flags(options), *argv[1:]]
    model_args, data_args, args = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    if args.hub_token:
        raise ValueError("hub_token would be published with the command. Run `hf auth login`, or set HF_TOKEN.")
    if model_args.lora_rank and args.train_only:
        raise ValueError("train_only lets the adapters rest as well. Leave out lora_rank.")
    return model_args, data_args, args


def build_model(args: ModelArguments):
    """Model (float32) and processor from CLIP or from an earlier model."""
    options = {"attn_implementation": args.attn_implementation, "dtype": torch.float32}
    revision = {"revision": args.model_revision} if args.model_revision else {}
    if args.model_name_or_path:
        name = args.model_name_or_path
        model = AutoModel.from_pretrained(name, **options, **revision)
        if model.config.model_type not in MODELS:
            raise ValueError(
                f"{name} is a {type(model).__name__}. To start from a CLIP model, give clip_name_or_path."
            )
        processor = AutoProcessor.from_pretrained(name, **revision)
    else:
        name = args.clip_name_or_path
        model_class, processor_class = MODELS[args.model]
        model = model_class.from_clip_pretrained(name, **options, **revision, **args.config_fields)
        processor = processor_class.from_pretrained(name, **revision)
    entries, vocab_size = len(processor.tokenizer), model.config.text_config.vocab_size
    if entries > vocab_size:
        raise ValueError(
            f"{name}: the tokenizer has {entries} entries, the text encoder knows {vocab_size} tokens. Take the"
            " tokenizer that the model was trained with."
        )
    return model, processor


def add_lora(model, args: ModelArguments) -> Callable[[], None]:
    """
    Puts LoRA adapters into the encoders, in place; all outside the encoders trains in full.

    Checkpoints of the run hold the adapters beside the resting weights. The returned function merges them, so that the
    model that is saved in the end is a plain one that loads without peft.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ImportError("lora_rank needs peft: pip install contextcir[peft].") from error
    config = LoraConfig(r=args.lora_rank, lora_alpha=args.lora_alpha, target_modules=args.lora_target_modules)
    trained = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(("text_model.", "vision_model."))
    ]
    adapted = LoraModel(model, config, "default")
    for parameter in trained:
        parameter.requires_grad_(True)
    return adapted.merge_and_unload


def build_evaluator(data: DataArguments, args: CIRTrainingArguments, processor) -> Callable | None:
    """Model -> metrics on the benchmark."""
    if data.benchmark is None:
        return None
    benchmark = load_benchmark(data.benchmark, data.benchmark_split)
    if data.benchmark_max_queries is not None:
        benchmark = benchmark.restricted_to(benchmark.queries[: data.benchmark_max_queries])
    autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None

    def evaluate(model) -> dict[str, float]:
        retriever = DenseRetriever.from_model(
            model, processor, autocast=autocast, batch_size=args.per_device_eval_batch_size
        )
        ranking = retriever.search(
            benchmark.queries, benchmark.gallery, benchmark.k, exclude_reference=benchmark.exclude_reference
        )
        return benchmark.evaluate(ranking)

    return evaluate


def describe_run(argv: list[str], model_args: ModelArguments, data_args: DataArguments, model) -> dict[str, Any]:
    """What the trainer cannot know: command, commit, data and base model."""
    lora = {name: getattr(model_args, name) for name in ("lora_rank", "lora_alpha", "lora_target_modules")}
    return {
        "command": shlex.join(["train.py", *argv]),
        "commit": git_commit(Path(__file__).parent),
        "data": {"names": data_args.data, **{k: v for k, v in dataclasses.asdict(data_args).items() if k != "data"}},
        "model": {
            "base_model": model_args.clip_name_or_path or model_args.model_name_or_path,
            "config": {name: getattr(model.config, name) for name in CONFIG_FIELDS[model.config.model_type]},
            "lora": lora if model_args.lora_rank else None,
        },
    }


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Trains, evaluates, saves and, if asked to, pushes. Returns the last metrics."""
    argv = sys.argv[1:] if argv is None else argv
    model_args, data_args, args = parse_arguments(argv)
    set_seed(args.seed)  # before the new layers are drawn
    model, processor = build_model(model_args)
    run_info = describe_run(argv, model_args, data_args, model)
    merge_lora = add_lora(model, model_args) if model_args.lora_rank else None

    load = partial(
        load_triplets,
        config_name=data_args.data_config,
        revision=data_args.data_revision,
        require_noun_phrases=args.cc_weight > 0,
    )
    with args.main_process_first(desc="reading the triplets"):  # the others read the cache
        loaded = [load(name, data_args.train_split) for name in data_args.data]
        train_dataset = mix_triplets(loaded, data_args.data_weights or [1.0] * len(loaded), seed=args.seed)
        eval_dataset = load(data_args.data[0], data_args.eval_split) if data_args.eval_split else None
        evaluator = build_evaluator(data_args, args, processor)

    trainer = CIRTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        evaluator=evaluator,
        card_template=CARD_TEMPLATES / f"{model.config.model_type}_template.md",
        run_info=run_info,
    )
    with trainer.claim_output_dir(bool(args.resume_from_checkpoint)):
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        if args.publish_moving_average:
            trainer.moving_average.copy_to(model)
        if merge_lora is not None:
            merge_lora()
        # Before the evaluation: a bad image there must not take the model along. Pushed once everything is written.
        trainer.save_model(_internal_call=True)
        trainer.save_state()
        metrics = trainer.evaluate() if eval_dataset is not None or evaluator is not None else {}
        trainer.save_state()
        if trainer.is_world_process_zero():
            path = os.path.join(args.output_dir, "training.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(trainer.record(), file, indent=2, ensure_ascii=False)
            trainer.create_model_card()
            print(f"Model, training.json and card: {args.output_dir}")
        if args.push_to_hub:
            trainer.push_to_hub()
    return metrics


if __name__ == "__main__":
    main()
