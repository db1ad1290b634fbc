"""Train the compact constituency parser that ships in `contextcir/phrases/parser/`.

    python -m research.train_parser --gum $CIR_DATA_ROOT/gum_const --output_dir contextcir/phrases/parser --bf16

It is a chart parser of benepar (Kitaev and Klein, 2018): it scores a label for every span, and finds the best tree by
CKY. It reads characters instead of the output of a pretrained language model, and so takes only a few megabytes.

It is trained on the CC BY / CC BY-SA part of the GUM treebank, on gold trees of the scenes grammar and of a grammar of
modification texts, which uses noun phrases of GUM, and on captions whose phrases two parsers agree on. GUM has only
3,600 trees, so they are augmented. For the augmentation and the loss, which differs from benepar's, see
`research/treebank`. Averaged weights are saved. `CIR_DATA_ROOT` has the texts of labelled captions, on which the epoch
is chosen.
"""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run


@dataclass
class Arguments:
    """Options of the training."""

    _argument_group_name = "Parser"

    gum: str = HfArg(help="Folder with gum_{train,dev}.ptb.gz and gum_{train,dev}.docs.tsv.")
    output_dir: str = HfArg(default="runs/parser", help="Folder for parser.pt, parser.json and README.md.")
    epochs: int = HfArg(default=30, help="Passes over the trees; 0 only averages and measures init_from.")
    scenes_trees: int = HfArg(default=1500, help="Trees of the scenes grammar in an epoch.")
    caption_trees: int = HfArg(default=1500, help="Trees of the modification-text grammar in an epoch.")
    agreed: str | None = HfArg(default=None, help="Trees of captions, see research/treebank/agreement.py.")
    agreed_trees: int = HfArg(default=2500, help="Number of those in an epoch.")
    gum_trees: int | None = HfArg(default=None, help="Number of GUM trees to use; by default all.")
    dev_trees: int = HfArg(default=500, help="Held-out trees of each of the two grammars.")
    init_from: list[str] | None = HfArg(
        default=None,
        help="Continue from this parser.pt, with its parser.json beside it; from the average of several, such as the"
        " last ones of a series of runs.",
    )
    max_words: int = HfArg(default=50, help="Longer training sentences are left out.")
    batch_tokens: int = HfArg(default=700, help="Words of a batch.")
    learning_rate: float = HfArg(default=1e-3, help="Highest learning rate.")
    dropout: float = HfArg(default=0.3, help="Dropout.")
    d_model: int = HfArg(default=384, help="Width of the encoder.")
    d_label_hidden: int = HfArg(default=192, help="Width of the hidden layer that scores labels.")
    encoder: Literal["bilstm", "transformer"] = HfArg(default="bilstm", help="Encoder of the words.")
    num_layers: int = HfArg(default=2, help="Layers of the encoder.")
    substitution: float = HfArg(default=0.08, help="Probability that a constituent is replaced by one with its label.")
    bf16: bool = HfArg(default=False, help="Train in bfloat16 autocast: faster on CPUs that support it.")
    seed: int = HfArg(default=0, help="Seed of weights and trees.")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Train, save the best epoch by [`quality`], and measure it. Returns the scores of the last epoch."""
    (args,) = CommandParser([Arguments], "python -m research.train_parser", __doc__).parse(argv)
    import torch

    from research.treebank.data import TrainingTrees
    from research.treebank.labelled import read_labelled, score_leaves
    from research.treebank.record import measure_texts, save_parser, with_parser
    from research.treebank.training import initial_parser, train

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    trees = TrainingTrees(args, random.Random(args.seed))
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    history: list[dict[str, Any]] = []
    labelled = read_labelled("dev")
    for line, parser in train(initial_parser(trees, args), trees, args):
        line["labelled_dev"] = score_leaves(with_parser(parser), labelled)
        history.append(line)
        print(json.dumps(line), flush=True)
        if quality(line) >= max(map(quality, history)):
            save_parser(parser, args, argv, history)
    measure_texts(Path(args.output_dir), args.dev_trees)
    return history[-1]


def quality(line: dict[str, Any]) -> float:
    """The score of an epoch that chooses among them: of treebank and labelled captions, both in percent."""
    return line["gum_dev"]["np_f1"] + line["labelled_dev"]["leaf_f1"]


if __name__ == "__main__":
    sys.exit(run(main, "python -m research.train_parser"))
