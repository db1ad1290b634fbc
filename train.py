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
import json
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging

from commands.train_arguments import CONFIG_FIELDS, DataArguments, ModelArguments, parse_arguments
from commands.train_model import add_lora, build_model
from contextcir.benchmarks.published import load_benchmark
from contextcir.provenance import git_commit
from contextcir.retrieval.dense import DenseRetriever
from contextcir.trainer import CIRTrainer
from contextcir.training_args import CIRTrainingArguments
from contextcir.triplets import load_triplets, mix_triplets

logger = logging.get_logger(__name__)

CARD_TEMPLATES = Path(__file__).parent / "model_cards"


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
    model_args, data_args, args = parse_arguments(argv, __doc__.split("\n")[0])
    set_seed(args.seed)  # before the new layers are drawn
    model, processor = build_model(model_args)
    run_info = describe_run(argv, model_args, data_args, model)
    if model.config.model_type == "instructcir" and args.ema_momentum is None and args.train_only is None:
        logger.warning("Targets come from the model itself; the paper's come from its average: --ema_momentum 0.996.")
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
