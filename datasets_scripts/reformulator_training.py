"""Training of a reformulator: its data, its loss, and its measures on held-out pairs."""

import asyncio
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from contextcir.captions.examples import Example, judge_examples, read_examples, split_examples
from contextcir.captions.gates import MAX_WORDS, text_problem
from contextcir.captions.recipes import load_prompts
from contextcir.captions.reformulator import (
    MAX_NEW_TOKENS,
    RECORD,
    Reformulator,
    base_digest,
    encode_answer,
    encode_prompt,
    longest_input,
    pad_id,
)
from contextcir.captions.schemas import Reformulation
from contextcir.chat.exchange import ChatRequest
from contextcir.chat.prompts import Prompt
from contextcir.runtime.locations import shipped
from contextcir.runtime.provenance import provenance
from contextcir.training.card import hub_name_of, licence_of
from datasets_scripts.train_reformulator import Arguments

CARD_TEMPLATE = "model_cards/reformulator_template.md"
MAX_WRITTEN = 500  # held-out pairs that the model writes changes for
EXAMPLES_SHOWN = 5  # in the card
NOT_RECORDED = ("output_dir", "push_to_hub", "hub_public")


class TokenizedExamples:
    """Examples as tokens, for a [`~transformers.Trainer`]. Only the answer has labels. Examples with more than
    `max_length` tokens are left out, and counted in `too_long`."""

    def __init__(self, examples: Sequence[Example], tokenizer: Any, prompt: Prompt, max_length: int):
        self.rows: list[dict[str, list[int]]] = []
        self.examples: list[Example] = []
        for example in examples:
            asked = encode_prompt(tokenizer, render_prompt(example, prompt))
            answer = encode_answer(tokenizer, example.modification_text)
            if len(asked) + len(answer) <= max_length:
                self.rows.append({"input_ids": asked + answer, "labels": [-100] * len(asked) + answer})
                self.examples.append(example)
        self.too_long = len(examples) - len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        return self.rows[place]


def render_prompt(example: Example, prompt: Prompt) -> str:
    """Return the prompt for an example."""
    return prompt.render(caption_a=example.caption_a, caption_b=example.caption_b)


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Pad rows to the longest, on the right. Returns tensors of shape `(batch_size, longest)`."""

    def padded(name: str, value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=value)

    ids, labels = padded("input_ids", pad), padded("labels", -100)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def words_of(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def word_f1(written: str, expected: str) -> float:
    """Compute the harmonic mean of precision and recall of words, in [0, 1]. Repeated words count repeatedly."""
    one, other = Counter(words_of(written)), Counter(words_of(expected))
    return 2 * (one & other).total() / max(one.total() + other.total(), 1)


async def write_and_compare(
    reformulator: Reformulator, examples: Sequence[Example], prompt: Prompt
) -> tuple[dict[str, float], list[dict[str, str]]]:
    """
    Let a reformulator write changes, at its first attempt, and compare them with held-out texts.

    Returns:
        `tuple[dict[str, float], list[dict[str, str]]]`: In percent `exact_match` and `word_f1` with the held-out texts
        and `usable` (texts that the recipe keeps), and their number `written`; and the pairs of texts.
    """
    requests = [ChatRequest("reformulation", render_prompt(one, prompt), schema=Reformulation) for one in examples]
    outcomes = await asyncio.gather(*map(reformulator.complete, requests))
    totals = {"exact_match": 0.0, "word_f1": 0.0, "usable": 0.0}
    rows = []
    for example, outcome in zip(examples, outcomes, strict=True):
        expected, written = example.modification_text, outcome.text
        problem = text_problem(written, MAX_WORDS["instructcir"], [prompt])
        totals["exact_match"] += words_of(written) == words_of(expected)
        totals["word_f1"] += word_f1(written, expected)
        totals["usable"] += outcome.kind == "answered" and problem is None
        rows.append({"wanted": expected, "written": written})
    means = {name: round(100 * total / len(rows), 2) for name, total in totals.items()}
    return means | {"written": len(rows)}, rows


def build_model(args: Arguments) -> tuple[Any, Any, str]:
    """Return the model with new adapters, its tokenizer, and the digest of the base model's weights."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install contextcir[peft].") from error
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=dtype)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{args.model_name_or_path}: the tokenizer has no end token, so no answer would end.")
    entries, vocab_size = len(tokenizer), model.get_input_embeddings().num_embeddings
    if entries > vocab_size:
        raise ValueError(
            f"{args.model_name_or_path}: the tokenizer has {entries} entries, but the model has {vocab_size} tokens."
            " Use the tokenizer that the model was trained with."
        )
    digest = base_digest(model)
    lora = {"r": args.lora_rank, "lora_alpha": args.lora_alpha, "target_modules": args.lora_target_modules}
    return get_peft_model(model, LoraConfig(**lora, task_type="CAUSAL_LM")), tokenizer, digest


def training_arguments(args: Arguments) -> TrainingArguments:
    """Return the options of the trainer."""
    names = ["output_dir", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size"]
    names += ["gradient_accumulation_steps", "activation_checkpointing", "bf16", "seed"]
    return TrainingArguments(
        **{name: getattr(args, name) for name in names},
        per_device_eval_batch_size=args.per_device_train_batch_size,
        use_cpu=not torch.accelerator.is_available(),  # otherwise bf16 is refused on CPUs
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),  # it warns on CPUs
        remove_unused_columns=False,
        label_names=["labels"],
    )


def train(args: Arguments, argv: Sequence[str]) -> dict[str, float]:
    """
    Train, measure and save a reformulator. `argv` are the options as given, for the record.

    Returns:
        `dict[str, float]`: `loss_untrained` and `loss` of the held-out pairs, and the scores of [`write_and_compare`].

    Raises:
        ValueError: No example can be used, or too few are short enough.
    """
    set_seed(args.seed)
    prompt = load_prompts("instructcir", args.prompts)["reformulation"]
    read = read_examples(args.data, args.split)
    examples, left_out = judge_examples(read, [prompt])
    if not examples:
        raise ValueError(f"None of the {len(read)} examples of {args.data} can be used: {left_out}.")
    model, tokenizer, digest = build_model(args)
    parts = split_examples(examples, args.held_out, args.seed)
    longest = min(args.max_length, longest_input(model))
    learned, held_out = (TokenizedExamples(part, tokenizer, prompt, longest) for part in parts)
    left_out["too_long"] = learned.too_long + held_out.too_long
    if not learned or not held_out:
        raise ValueError(
            f"{left_out['too_long']} of {len(examples)} examples have more than {longest} tokens, which leaves"
            f" {len(learned)} for training and {len(held_out)} to measure on. Raise max_length, or use a model with"
            " longer inputs."
        )
    print(f"{len(learned):,} examples, and {len(held_out):,} held out. Left out: {left_out}")
    trainer = Trainer(
        model,
        training_arguments(args),
        train_dataset=learned,
        eval_dataset=held_out,
        data_collator=lambda rows: collate(rows, pad_id(tokenizer)),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    metrics = {"loss_untrained": round(before, 4), "loss": round(trainer.evaluate()["eval_loss"], 4)}
    reformulator = Reformulator(model, tokenizer, name="this", digest="")
    scores, written = asyncio.run(write_and_compare(reformulator, held_out.examples[:MAX_WRITTEN], prompt))
    metrics |= scores
    record = {
        "base_model": args.model_name_or_path,
        "base_digest": digest,
        "command": shlex.join(["contextcir", "data", "reformulator", *argv]),
        **provenance(),
        "arguments": {name: value for name, value in asdict(args).items() if name not in NOT_RECORDED},
        "examples": {"learned": len(learned), "held_out": len(held_out), "left_out": left_out},
        "held_out": metrics,
        "written": written[:EXAMPLES_SHOWN],
        "history": trainer.state.log_history,
    }
    save(Path(args.output_dir), model, tokenizer, prompt, record, args.push_to_hub)
    return metrics


def save(
    folder: Path, model: Any, tokenizer: Any, prompt: Prompt, record: dict[str, Any], hub_name: str | None = None
) -> None:
    """Write the adapter, the tokenizer, the prompt, the record and the card, with its name on the Hub if it is
    known."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "reformulation.txt").write_text(f"version: {prompt.version}\n\n{prompt.text}\n", encoding="utf-8")
    saved = load_prompts("instructcir", folder)["reformulation"]
    record = record | {"prompt": {"version": saved.version, "hash": saved.hash}}
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    base = record["base_model"]
    data = ModelCardData(
        base_model=hub_name_of(base),
        license=licence_of(base, online=hub_name is not None) or "other",
        library_name="peft",
        pipeline_tag="text-generation",
        language="en",
        tags=["composed-image-retrieval", "contextcir", "lora"],
    )
    shown = record | {"model_name": hub_name or folder.resolve().name, "max_new_tokens": MAX_NEW_TOKENS}
    template = str(shipped(CARD_TEMPLATE))
    ModelCard.from_template(data, template_path=template, **shown).save(folder / "README.md")
