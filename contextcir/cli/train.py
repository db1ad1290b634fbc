"""Train a ConText-CIR or InstructCIR model, or a baseline, on triplets, from any CLIP or from an earlier model.

    accelerate launch -m contextcir.cli.train configs/scenes_tiny.yaml
    accelerate launch -m contextcir.cli.train configs/scenes_tiny.yaml --learning_rate 1e-4 --output_dir runs/slower
    contextcir train --clip_name_or_path openai/clip-vit-base-patch32 --data user/triplets --output_dir runs/mine
    contextcir train configs/scenes_tiny.yaml --resume_from_checkpoint true
    contextcir train configs/scenes_instructcir.yaml
    contextcir train configs/scenes_instructcir_lambda.yaml  # the second stage, on the result of the first

SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and end the run with exit code 75: the same command with
`--resume_from_checkpoint auto`, which begins where there is nothing yet, goes on. A finished run exits with 0.

`--help` lists the options of this library and the most used ones of transformers, `--help_all` all of them.

The output folder holds the model and its processor, `training.json` (the record of the run, with the history of every
loss part and metric), `trainer_state.json` and a model card rendered from that record.
"""

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from contextcir.cli.options import CommandParser
from contextcir.cli.train_arguments import DataArguments, ModelArguments, config_fields, with_paper_values
from contextcir.training.options import OPTIONS


def parser(*kinds: type) -> CommandParser:
    """The parser of this command, with these training arguments."""
    return CommandParser((ModelArguments, DataArguments, *kinds), "contextcir train", __doc__)


def parse_arguments(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, Any]:
    """
    Read the options. Those that are not given have the values of the model's paper.

    Returns:
        `tuple[ModelArguments, DataArguments, CIRTrainingArguments]`

    Raises:
        `ValueError`: Options are unknown or do not fit together.
    """
    if "-h" in argv or "--help" in argv:
        parser(*OPTIONS).parse(["--help"])  # without all of transformers, which takes seconds to import
    from contextcir.training.training_args import CIRTrainingArguments

    if "--help_all" in argv:
        parser(CIRTrainingArguments).parse(["--help"])
    model_args, data_args, args = parser(CIRTrainingArguments).parse(argv, prepare=with_paper_values)
    if args.hub_token:
        raise ValueError("hub_token would be published with the command. Run `hf auth login`, or set HF_TOKEN.")
    if model_args.lora_rank and args.train_only:
        raise ValueError("train_only freezes the adapters as well. Leave out lora_rank.")
    return model_args, data_args, args


def main(argv: Sequence[str]) -> dict[str, float]:
    """Train, evaluate, save and, if asked to, push. Returns the last metrics."""
    from contextcir.training.stop_signals import stop_requests

    with stop_requests() as stop:
        with stop.at_once():  # nothing is trained yet that could be lost
            model_args, data_args, args = parse_arguments(argv)
            trainer, merge_lora = build_trainer(argv, model_args, data_args, args)
        with trainer.claim_output_dir(args.resume_from_checkpoint):
            trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
            with trainer.stopping_with_checkpoint():
                return finish(trainer, merge_lora)


def build_trainer(argv: Sequence[str], model_args: ModelArguments, data_args: DataArguments, args: Any) -> Any:
    """The trainer, and what merges LoRA adapters into its model, if there are any."""
    from transformers import set_seed
    from transformers.utils import logging

    from contextcir.cli.train_model import add_lora, build_model
    from contextcir.data.negatives import NEGATIVE_IDS, load_negatives
    from contextcir.data.streamed_triplets import mix_streams, stream_triplets
    from contextcir.data.triplets import PHRASE_MAPS, load_triplets, mix_triplets
    from contextcir.runtime.locations import locate, shipped
    from contextcir.training.trainer import CIRTrainer

    set_seed(args.seed)  # before the new layers are drawn
    model, processor = build_model(model_args)
    if model.config.model_type == "instructcir" and args.ema_momentum is None and args.train_only is None:
        logging.get_logger(__name__).warning(
            "Targets come from the model itself; the paper's come from its moving average: --ema_momentum 0.996."
        )
    merge_lora = add_lora(model, model_args) if model_args.lora_rank else None

    named = [args.batch_by, args.family_by, NEGATIVE_IDS if args.hard_negatives else None]
    named += [PHRASE_MAPS] if args.grounding_weight else []
    load = partial(
        stream_triplets if data_args.streaming else load_triplets,
        config_name=data_args.data_config,
        revision=data_args.data_revision,
        require_noun_phrases=args.reads_phrases,
    )
    names = [locate(name) for name in data_args.data or ()]
    with args.main_process_first(desc="reading the triplets"):  # the others read the cache
        columns = [name for name in named if name]
        loaded = [load(name, data_args.train_split, columns=columns) for name in names]
        negatives = load_negatives(names, revision=data_args.data_revision) if args.hard_negatives else None
        if data_args.streaming:
            train_dataset = mix_streams(loaded, data_args.data_weights, seed=args.seed)
        else:
            train_dataset = mix_triplets(loaded, data_args.data_weights or [1.0] * len(loaded), seed=args.seed)
        eval_dataset = load(names[0], data_args.eval_split) if data_args.eval_split else None
        if data_args.streaming and eval_dataset is not None:
            eval_dataset = list(eval_dataset)  # evaluation needs its length
        evaluator = build_evaluator(data_args, args, processor)
    trainer = CIRTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        evaluator=evaluator,
        negatives=negatives,
        card_template=shipped(f"model_cards/{model.config.model_type}_template.md"),
        run_info=describe_run(argv, model_args, data_args, model),
    )
    return trainer, merge_lora


def finish(trainer: Any, merge_lora: Callable[[], None] | None) -> dict[str, float]:
    """Save and evaluate a trained model, write its record and card, and push it if asked to."""
    args = trainer.args
    if merge_lora is not None:
        trainer.weights_are_final()
        merge_lora()
    # Before the evaluation: a bad image there must not lose the model. Pushed once everything is written.
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    metrics = trainer.evaluate() if trainer.eval_dataset is not None or trainer.evaluator is not None else {}
    trainer.save_state()
    if trainer.is_world_process_zero():
        with open(os.path.join(args.output_dir, "training.json"), "w", encoding="utf-8") as file:
            json.dump(trainer.record(), file, indent=2, ensure_ascii=False)
        trainer.create_model_card()
        print(f"Model, training.json and card: {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def build_evaluator(data: DataArguments, args, processor) -> Callable | None:
    """Model -> metrics on the benchmark."""
    if data.benchmark is None:
        return None
    import torch

    from contextcir.benchmarks.published import load_published
    from contextcir.cli.train_evaluator import BenchmarkEvaluator
    from contextcir.runtime.locations import locate

    benchmark = load_published(locate(data.benchmark), data.benchmark_split)
    if data.benchmark_max_queries is not None:
        benchmark = benchmark.restricted_to(benchmark.queries[: data.benchmark_max_queries])
    autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    options = {"autocast": autocast, "batch_size": args.per_device_eval_batch_size}
    return BenchmarkEvaluator(benchmark, processor, widths=(args.matryoshka_dims or ())[1:], **options)


def describe_run(argv: Sequence[str], model_args: ModelArguments, data_args: DataArguments, model) -> dict[str, Any]:
    """What the trainer does not know: command, commit, data and base model."""
    from contextcir.runtime.provenance import code_commit

    lora = {name: getattr(model_args, name) for name in ("lora_rank", "lora_alpha", "lora_target_modules")}
    return {
        "command": shlex.join(["contextcir", "train", *argv]),
        "commit": code_commit(),
        "data": {"names": data_args.data, **{k: v for k, v in asdict(data_args).items() if k != "data"}},
        "model": {
            "base_model": model_args.clip_name_or_path or model_args.model_name_or_path,
            "config": {name: getattr(model.config, name) for name in config_fields(model.config.model_type)},
            "lora": lora if model_args.lora_rank else None,
        },
    }


if __name__ == "__main__":
    from contextcir.cli.main import script

    script("train")
