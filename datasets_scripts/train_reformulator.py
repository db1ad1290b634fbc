"""Fine-tune a causal language model with LoRA to write what changes from one caption to another (InstructCIR).

    python generate_captions.py --recipe instructcir --images photos --num_pairs 2000 --output seed --model gpt-4o
    python datasets_scripts/train_reformulator.py --model_name_or_path Qwen/Qwen3-4B-Instruct-2507 \
        --data seed/pairs.jsonl --output_dir runs/reformulator --bf16
    python generate_captions.py --recipe instructcir --images photos --num_pairs 300000 --output out \
        --reformulator runs/reformulator --model captioner --base_url http://localhost:8000/v1 --free

Seed pairs come from a stronger chat model, as above, or from a supervised data set whose images have captions: JSON
Lines or a dataset with `caption_a`, `caption_b` and `modification_text` (the "GT" variant of arXiv 2504.00812). Rows
that nothing should be learned from are left out and counted: texts that are not 2 to 12 words or speak of images,
captions that are empty or equal, rows that stand twice, prompts that are too long.

The loss is on the answer alone. The output folder holds the adapter, the tokenizer, the prompt, `training.json` and a
card; `hf upload NAME FOLDER` publishes it. Left out: resuming, since a run takes minutes, and several processes.
"""

import asyncio
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed
from transformers.hf_argparser import HfArg

from contextcir.captions import MAX_WORDS, Prompt, load_prompts
from contextcir.captions.examples import Example, judge_examples, read_examples, split_examples
from contextcir.captions.gates import text_problem
from contextcir.captions.reformulator import (
    MAX_NEW_TOKENS,
    RECORD,
    Reformulator,
    encode_answer,
    encode_prompt,
    longest_input,
    pad_id,
    weights_digest,
)
from contextcir.captions.schemas import Reformulation
from contextcir.chat.server import ChatRequest
from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.runtime.provenance import code_commit, versions
from contextcir.training.output_folder import claim_folder

CARD_TEMPLATE = Path(__file__).parent.parent / "model_cards" / "reformulator_template.md"
MAX_WRITTEN = 500  # held-out pairs whose changes are written out and compared
EXAMPLES_SHOWN = 5  # in the card


@dataclass
class Arguments:
    """What to train on what. The paper gives no values; the defaults are usual ones for LoRA."""

    model_name_or_path: str = HfArg(help="Causal language model, folder or Hub name.")
    data: str = HfArg(help="Seed pairs: a .jsonl file, or a folder or Hub name of a dataset.")
    output_dir: str = HfArg(help="Folder of the adapter.")
    split: str = HfArg(default="train", help="Split, where the seed pairs are a dataset.")
    prompts: str | None = HfArg(default=None, help="Folder with a reformulation.txt of your own.")
    held_out: float = HfArg(default=0.05, help="Share of the pairs of captions to measure on.")
    max_length: int = HfArg(default=1024, help="Most tokens of a prompt with its answer.")
    lora_rank: int = HfArg(default=16, help="Rank of the adapters.")
    lora_alpha: int = HfArg(default=32, help="Scale of the adapters (over the rank).")
    lora_target_modules: str = HfArg(
        default="all-linear", help="Layers that get an adapter: all-linear, or a pattern of names."
    )
    learning_rate: float = HfArg(default=2e-4, help="At its highest, after a warm-up; cosine to 0.")
    num_train_epochs: float = HfArg(default=3.0, help="Passes over the data.")
    max_steps: int = HfArg(default=-1, help="Steps of the optimiser, if not whole passes.")
    per_device_train_batch_size: int = HfArg(default=8, help="Examples of a batch.")
    gradient_accumulation_steps: int = HfArg(default=1, help="Batches of a step.")
    gradient_checkpointing: bool = HfArg(default=False, help="Whether to save memory at half the speed.")
    bf16: bool = HfArg(default=False, help="Whether the model's own weights rest in bfloat16.")
    seed: int = HfArg(default=0, help="Of the split, the adapters and the order.")

    def __post_init__(self):
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}.")
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, got {self.lora_rank}.")
        for name in ("learning_rate", "num_train_epochs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(f"max_steps must be at least 1, or -1 for whole passes, got {self.max_steps}.")


class Lessons:
    """
    Examples as tokens, for a [`~transformers.Trainer`]: the prompt is read, and the answer is what is learned.

    Args:
        examples (`Sequence[Example]`): To learn from.
        tokenizer: Of the model.
        prompt (`Prompt`): Of the reformulation.
        max_length (`int`): What is longer is not among them.
    """

    def __init__(self, examples: Sequence[Example], tokenizer, prompt: Prompt, max_length: int):
        self.rows: list[dict[str, list[int]]] = []
        self.examples: list[Example] = []
        for example in examples:
            asked = encode_prompt(tokenizer, question(example, prompt))
            answer = encode_answer(tokenizer, example.modification_text)
            if len(asked) + len(answer) <= max_length:
                self.rows.append({"input_ids": asked + answer, "labels": [-100] * len(asked) + answer})
                self.examples.append(example)
        self.too_long = len(examples) - len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        return self.rows[place]


def question(example: Example, prompt: Prompt) -> str:
    """What a reformulator is asked about an example, in the words of the recipe."""
    return prompt.render(caption_a=example.caption_a, caption_b=example.caption_b)


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Rows of one length, of shape `(batch_size, longest)`; nothing is learned from what fills them."""
    longest = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": filled("input_ids", pad), "labels": filled("labels", -100), "attention_mask": mask}


def word_f1(written: str, wanted: str) -> float:
    """Harmonic mean of precision and recall of the words of a text, each as often as it stands there, in [0, 1]."""
    found, expected = (Counter(re.findall(r"\w+", text.casefold())) for text in (written, wanted))
    common = (found & expected).total()
    return 2 * common / max(found.total() + expected.total(), 1)


async def write_out(
    reformulator: Reformulator, examples: Sequence[Example], prompt: Prompt
) -> tuple[dict[str, float], list[dict[str, str]]]:
    """
    Let it write, at the first attempt, and compare.

    Returns:
        `tuple[dict[str, float], list[dict[str, str]]]`: In percent `exact_match` and `word_f1` with the text that was
        held out, and `usable` (what the recipe would keep); and what was written, beside what was wanted.
    """
    requests = [ChatRequest("reformulation", question(one, prompt), schema=Reformulation) for one in examples]
    outcomes = await asyncio.gather(*map(reformulator.complete, requests))
    totals, rows = Counter(), []
    for example, outcome in zip(examples, outcomes, strict=True):
        score = word_f1(outcome.text, example.modification_text)
        problem = text_problem(outcome.text, MAX_WORDS["instructcir"], [prompt])
        totals["exact_match"] += re.findall(r"\w+", outcome.text.casefold()) == re.findall(
            r"\w+", example.modification_text.casefold()
        )
        totals["word_f1"] += score
        totals["usable"] += outcome.kind == "answered" and problem is None
        rows.append({"wanted": example.modification_text, "written": outcome.text})
    means = {name: round(100 * totals[name] / len(rows), 2) for name in ("exact_match", "word_f1", "usable")}
    return means | {"written": len(rows)}, rows


def build_model(args: Arguments):
    """The model with new adapters, its tokenizer, and the digest of the weights that rest."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install contextcir[peft].") from error
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=dtype)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{args.model_name_or_path}: the tokenizer has no end token, and no answer would end.")
    entries, vocab_size = len(tokenizer), model.get_input_embeddings().num_embeddings
    if entries > vocab_size:
        raise ValueError(
            f"{args.model_name_or_path}: the tokenizer has {entries} entries, the model knows {vocab_size} tokens."
            " Take the tokenizer that the model was trained with."
        )
    digest = weights_digest(model)
    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        target_modules=args.lora_target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config), tokenizer, digest


def training_arguments(args: Arguments) -> TrainingArguments:
    """Those of transformers."""
    names = ("output_dir", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size")
    names += ("gradient_accumulation_steps", "gradient_checkpointing", "bf16", "seed")
    return TrainingArguments(
        **{name: getattr(args, name) for name in names},
        per_device_eval_batch_size=args.per_device_train_batch_size,
        use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused there
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),  # which warns where there is none
        remove_unused_columns=False,
        label_names=["labels"],
    )


def write_folder(folder: Path, model, tokenizer, prompt: Prompt, record: dict[str, Any]) -> None:
    """All that asking the model takes, the record and the card."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "reformulation.txt").write_text(f"version: {prompt.version}\n\n{prompt.text}\n", encoding="utf-8")
    saved = load_prompts("instructcir", folder)["reformulation"]
    record = record | {"prompt": {"version": saved.version, "hash": saved.hash}}
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    base = None if Path(record["base_model"]).exists() else record["base_model"]
    data = ModelCardData(
        base_model=base, library_name="peft", language="en", tags=["composed-image-retrieval", "contextcir", "lora"]
    )
    shown = record | {"model_name": folder.resolve().name, "max_new_tokens": MAX_NEW_TOKENS}
    ModelCard.from_template(data, template_path=str(CARD_TEMPLATE), **shown).save(folder / "README.md")


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Trains, measures and saves. Returns what was measured on the held-out pairs."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data reformulator", __doc__).parse(argv)
    folder = Path(args.output_dir)
    with claim_folder(folder):
        set_seed(args.seed)
        prompt = load_prompts("instructcir", args.prompts)["reformulation"]
        read = read_examples(args.data, args.split)
        examples, left_out = judge_examples(read, [prompt])
        if not examples:
            raise ValueError(f"None of the {len(read)} examples of {args.data} can be learned from: {left_out}.")
        model, tokenizer, digest = build_model(args)
        parts = split_examples(examples, args.held_out, args.seed)
        longest = min(args.max_length, longest_input(model))
        train, held_out = (Lessons(part, tokenizer, prompt, longest) for part in parts)
        if not train or not held_out:
            raise ValueError(
                f"{train.too_long + held_out.too_long} of {len(examples)} examples have more than {longest} tokens:"
                f" {len(train)} are left to learn from and {len(held_out)} to measure on. Raise max_length, or take a"
                " model that reads more."
            )
        left_out["too_long"] = train.too_long + held_out.too_long
        print(f"{len(train):,} examples, and {len(held_out):,} held out. Left out: {left_out}")
        trainer = Trainer(
            model,
            training_arguments(args),
            train_dataset=train,
            eval_dataset=held_out,
            data_collator=lambda rows: collate(rows, pad_id(tokenizer)),
        )
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        metrics = {"loss_untrained": round(before, 4), "loss": round(trainer.evaluate()["eval_loss"], 4)}
        reformulator = Reformulator(model, tokenizer, name="this", digest="")
        scores, written = asyncio.run(write_out(reformulator, held_out.examples[:MAX_WRITTEN], prompt))
        metrics |= scores
        record = {
            "base_model": args.model_name_or_path,
            "base_digest": digest,
            "command": shlex.join(["datasets_scripts/train_reformulator.py", *argv]),
            "commit": code_commit(),
            "versions": versions(),
            "arguments": {name: value for name, value in asdict(args).items() if name != "output_dir"},
            "examples": {"learned": len(train), "held_out": len(held_out), "left_out": left_out},
            "held_out": metrics,
            "written": written[:EXAMPLES_SHOWN],
            "history": trainer.state.log_history,
        }
        write_folder(folder, model, tokenizer, prompt, record)
    print(f"{json.dumps(metrics)}\nWritten: {folder}")
    return metrics


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data reformulator"))
