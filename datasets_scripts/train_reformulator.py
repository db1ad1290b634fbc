"""Fine-tune a causal language model with LoRA to write the change from one caption to another (InstructCIR).

    contextcir data reformulator --model_name_or_path Qwen/Qwen3-4B-Instruct-2507 --data seed/pairs.jsonl \\
        --output_dir runs/reformulator --bf16

The seed pairs come from a stronger chat model, and the adapter then writes the changes of a large run:

    contextcir generate --recipe instructcir --images photos --num_pairs 2000 --output seed --model gpt-4o
    contextcir generate --recipe instructcir --images photos --num_pairs 300000 --output out \\
        --reformulator runs/reformulator --model captioner --base_url http://localhost:8000/v1 --free

They may also come from a supervised data set whose images have captions (the "GT" variant of arXiv 2504.00812): JSON
Lines or a dataset with `caption_a`, `caption_b` and `modification_text`. Unsuitable rows are left out and counted:
texts that do not have 2 to 12 words or that mention images, empty or equal captions, repeated rows, and long prompts.

Only the answer contributes to the loss. The output folder holds the adapter, the tokenizer, the prompt, the record
`training.json` and a card; `--push_to_hub` publishes these. Left out: resuming, since a run takes minutes, and several
processes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.runtime.leaving import leave_with

PUBLISHED = (
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "reformulation.txt",
    "training.json",
)


@dataclass
class Arguments:
    """Options of the training. The paper gives no values; the defaults are common ones for LoRA."""

    _argument_group_name = "Reformulator"

    model_name_or_path: str = HfArg(help="Causal language model: folder or Hub name.")
    data: str = HfArg(help="Seed pairs: a .jsonl file, or folder or Hub name of a dataset.")
    output_dir: str = HfArg(help="Folder of the adapter.")
    split: str = HfArg(default="train", help="Split of the dataset of seed pairs.")
    prompts: str | None = HfArg(default=None, help="Folder with your own reformulation.txt.")
    held_out: float = HfArg(default=0.05, help="Share of the pairs of captions to measure on.")
    max_length: int = HfArg(default=1024, help="Most tokens of a prompt and its answer.")
    lora_rank: int = HfArg(default=16, help="Rank of the adapters.")
    lora_alpha: int = HfArg(default=32, help="Scale of the adapters (divided by the rank).")
    lora_target_modules: str = HfArg(
        default="all-linear", help="Layers with an adapter: all-linear, or a pattern of names."
    )
    learning_rate: float = HfArg(default=2e-4, help="Highest learning rate: warm-up, then cosine to 0.")
    num_train_epochs: float = HfArg(default=3.0, help="Passes over the data.")
    max_steps: int = HfArg(default=-1, help="Steps; from 1 on it replaces num_train_epochs.")
    per_device_train_batch_size: int = HfArg(default=8, help="Examples of a batch.")
    gradient_accumulation_steps: int = HfArg(default=1, help="Batches of a step.")
    activation_checkpointing: bool = HfArg(default=False, help="Save memory at about half the speed.")
    bf16: bool = HfArg(default=False, help="Load the base model in bfloat16.")
    seed: int = HfArg(default=0, help="Seed of the split, the adapters and the order.")
    push_to_hub: str | None = HfArg(default=None, help="Hub name to publish under (private).")
    hub_public: bool = HfArg(default=False, help="Publish for everybody to see.")

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


def main(argv: Sequence[str]) -> dict[str, float]:
    """Train, measure and save. Returns the measures on the held-out pairs."""
    (args,) = CommandParser([Arguments], "contextcir data reformulator", __doc__).parse(argv)
    from contextcir.training.output_folder import claim_folder
    from datasets_scripts.reformulator_training import train

    with claim_folder(args.output_dir):
        metrics = train(args, argv)
    print(f"{json.dumps(metrics)}\nWritten: {Path(args.output_dir)}")
    if args.push_to_hub:
        from contextcir.data.hub import publish_folder

        publish_folder(args.output_dir, args.push_to_hub, files=PUBLISHED, public=args.hub_public)
    return metrics


if __name__ == "__main__":
    leave_with(lambda: run(main, "contextcir data reformulator"))
