"""Train the compact constituency parser that ships in `contextcir/parser/`.

```bash
python datasets_scripts/train_parser.py --gum $CIR_DATA_ROOT/gum_const --output_dir contextcir/parser --bf16
```

Idea: noun phrases come from a benepar chart parser (Kitaev and Klein, 2018: a label for every span, the best tree by
CKY) that reads characters instead of a pretrained language model, so that it fits in a few megabytes. It learns from
the CC BY / CC BY-SA part of the GUM treebank, from the gold trees of the scenes grammar, and from a small grammar of
modification texts, into which real noun phrases of GUM are put. What makes 3,600 trees go further, and how the loss
differs from benepar's own, is told in `contextcir/treebank`. Published are averaged weights.
"""

import copy
import csv
import gzip
import hashlib
import json
import os
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.phrases import chart_parser
from contextcir.phrases.extractor import NounPhraseExtractor, is_concept
from contextcir.scenes import MAX_EDITS, sample_query, sample_trees
from datasets_scripts.treebank.augmentation import Substitution, fragments, like_a_caption
from datasets_scripts.treebank.grammar import ModificationGrammar
from datasets_scripts.treebank.objective import Example, batches, loss_of, new_parser
from datasets_scripts.treebank.scores import evaluate
from datasets_scripts.treebank.trees import leaves, read_tree, to_brackets


@dataclass
class Arguments:
    """Data, size of the parser, and how it is trained."""

    gum: str = HfArg(help="Folder with gum_{train,dev}.ptb.gz and gum_{train,dev}.docs.tsv.")
    output_dir: str = HfArg(default="runs/parser", help="Folder for parser.pt, parser.json and README.md.")
    epochs: int = HfArg(default=30, help="Passes over the trees.")
    scenes_trees: int = HfArg(default=1500, help="Trees of the scenes grammar in an epoch.")
    caption_trees: int = HfArg(default=1500, help="Trees of the modification-text grammar in an epoch.")
    gum_trees: int | None = HfArg(default=None, help="Use the first so many trees of GUM only.")
    dev_trees: int = HfArg(default=500, help="Held-out trees of each of the two grammars.")
    init_from: str | None = HfArg(default=None, help="Go on from this parser.pt; its parser.json lies beside it.")
    max_words: int = HfArg(default=50, help="Longer training sentences are left out.")
    batch_tokens: int = HfArg(default=700, help="Words of a batch.")
    learning_rate: float = HfArg(default=1e-3, help="Highest learning rate.")
    dropout: float = HfArg(default=0.3, help="Dropout.")
    d_model: int = HfArg(default=384, help="Width of the encoder.")
    d_label_hidden: int = HfArg(default=192, help="Width of the hidden layer that scores labels.")
    encoder: Literal["bilstm", "transformer"] = HfArg(default="bilstm", help="Encoder of the words.")
    num_layers: int = HfArg(default=2, help="Layers of the encoder.")
    substitution: float = HfArg(
        default=0.08, help="Probability that a constituent is replaced by another of its kind."
    )
    bf16: bool = HfArg(default=False, help="Train in bfloat16 autocast: faster on CPUs that have it.")
    seed: int = HfArg(default=0, help="Seed of everything.")


def hyperparameters(args):
    """What benepar wants to know of a parser."""
    return {
        "use_pretrained": False,
        "use_chars_lstm": True,
        "use_encoder": True,
        "encoder": args.encoder,
        "predict_tags": True,
        "force_root_constituent": True,
        "tag_loss_scale": 5.0,
        "d_char_emb": 64,
        "char_lstm_input_dropout": args.dropout,
        "morpho_emb_dropout": args.dropout,
        "attention_dropout": args.dropout,
        "relu_dropout": args.dropout / 2,
        "residual_dropout": args.dropout,
        "encoder_max_len": 256,
        "num_layers": args.num_layers,
        "num_heads": 8,
        "d_model": args.d_model,
        "d_kv": args.d_model // 8,
        "d_ff": 2 * args.d_model,
        "d_label_hidden": args.d_label_hidden,
        "d_tag_hidden": args.d_label_hidden,
    }


def write_card(output_dir):
    """Render `README.md` from `parser.json` and the template in `cards/`."""
    record = json.loads((output_dir / "parser.json").read_text())
    best, runs = record["best"], [record]
    while runs[0].get("initial_run"):
        runs.insert(0, runs[0]["initial_run"])
    columns = ("np_f1", "np_precision", "np_recall", "all_labels_f1", "tag_accuracy")
    row = "| {0} ({trees} trees) | " + " | ".join(f"{{{name}:.1f}}" for name in columns) + " |"
    names = [name for name in ("gum_dev", "scenes_dev", "captions_dev") if name in best]
    card = (
        (Path(__file__).parent / "cards" / "parser.md")
        .read_text()
        .format(
            parameters=record["parameters"],
            megabytes=record["bytes"] / 1e6,
            epochs=sum(run["best"]["epoch"] for run in runs),
            rows="\n".join(row.format(name, **best[name]) for name in names),
            commands="\n".join("    " + run["command"] for run in runs),
            seed=record["arguments"]["seed"],
            cpu_minutes=sum(run["best"]["cpu_minutes"] for run in runs),
            sha256=record["sha256"],
            span_f1=record["scenes_texts"]["span_f1"],
            texts=record["scenes_texts"]["texts"],
            speed=", ".join(f"{rate} {name}" for name, rate in record["captions_per_second"].items()),
            documents="\n".join("| " + " | ".join(map(str, line)) + " |" for line in record["documents"]),
        )
    )
    (output_dir / "README.md").write_text(card)


def documents_of(gum):
    """`[part, genre, licence, documents, trees]` for each genre, from `gum_{train,dev}.docs.tsv`."""
    found = {}
    for part in ("train", "dev"):
        with open(Path(gum) / f"gum_{part}.docs.tsv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file, delimiter="\t"):
                counts = found.setdefault((part, line["genre"], line["licence"]), [0, 0])
                counts[0] += 1
                counts[1] += int(line["trees"])
    return [[*key, *counts] for key, counts in found.items()]


def evaluate_texts(extractor, queries):
    """Character spans found in raw texts against the gold ones (both without pronouns), in per cent."""
    hit = gold = found = 0
    for query, phrases in zip(queries, extractor.extract([query.text for query in queries]), strict=True):
        spans = {(phrase["start"], phrase["end"]) for phrase in phrases}
        expected = {(p.start, p.end) for p in query.noun_phrases if is_concept(p.text)}
        hit, gold, found = hit + len(spans & expected), gold + len(expected), found + len(spans)
    return {"span_f1": round(200 * hit / max(gold + found, 1), 2), "texts": len(queries)}


def captions_per_second(extractor, texts):
    """Of CPU time, with the threads that torch is set to."""
    extractor.extract(texts[:100])
    began = time.process_time()
    extractor.extract(texts)
    return round(len(texts) / (time.process_time() - began))


def measure(output_dir, num_texts=500):
    """Adds to `parser.json` what needs raw texts: span scores and speed; then renders the card."""
    record = json.loads((output_dir / "parser.json").read_text())
    extractor = NounPhraseExtractor(output_dir / "parser.pt", max_phrases=1000)
    rng = random.Random("texts")
    queries = [sample_query(rng, rng.randint(1, MAX_EDITS)) for _ in range(num_texts)]
    record["scenes_texts"] = evaluate_texts(extractor, queries)
    record["captions_per_second"] = {"scenes": captions_per_second(extractor, [query.text for query in queries])}
    cirr = Path(os.environ.get("CIR_DATA_ROOT", ".")) / "cirr" / "captions" / "cap.rc2.val.json"
    if cirr.exists():
        captions = [row["caption"] for row in json.loads(cirr.read_text())]
        record["captions_per_second"]["CIRR val"] = captions_per_second(extractor, captions[:2000])
    (output_dir / "parser.json").write_text(json.dumps(record, indent=1) + "\n")
    write_card(output_dir)


def write_record(parser, args, argv, history):
    """`parser.pt` and `parser.json`: how it came about; the last line of `history` is the best."""
    output_dir = Path(args.output_dir)
    chart_parser.save_parser(parser, output_dir / "parser.pt")
    weights = (output_dir / "parser.pt").read_bytes()
    command = shlex.join(["contextcir", "data", "parser", *argv])
    if os.environ.get("CIR_DATA_ROOT"):
        command = command.replace(os.environ["CIR_DATA_ROOT"].rstrip("/"), "$CIR_DATA_ROOT")
    record = {
        "command": command,
        "arguments": {name: value for name, value in vars(args).items() if name not in ("gum", "output_dir")},
        "documents": documents_of(args.gum),
        "parameters": sum(p.numel() for p in parser.parameters()),
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "best": history[-1],
        "history": history,
        "initial_run": None,
    }
    if args.init_from is not None:
        record["initial_run"] = json.loads(Path(args.init_from).with_suffix(".json").read_text())
    (output_dir / "parser.json").write_text(json.dumps(record, indent=1) + "\n")


class Mixture:
    """The trees of training, mixed anew every epoch, and those held out, by the names that the record gives them."""

    def __init__(self, args, rng):
        self.args, self.rng = args, rng
        self.gum = _read_treebank(args.gum, "train")[: args.gum_trees]
        self.substitute = Substitution(self.gum)
        self.fragments = [fragment for tree in self.gum for fragment in fragments(tree)]
        short = [f[1][0] for f in self.fragments if f[1][0][0] == "NP" and len(leaves(f)) <= 6]
        short = [to_brackets(tree) for tree in short if not {word for _, word in leaves(tree)} & set("()[]<>")]
        self.grammar = ModificationGrammar(short)
        self.captions = [self.grammar.sample(rng) for _ in range(1000)]
        self.held_out = {
            "gum_dev": _read_treebank(args.gum, "dev"),
            "captions_dev": [self.grammar.sample(random.Random(f"dev {i}")) for i in range(args.dev_trees)],
        }
        if args.scenes_trees:
            self.held_out["scenes_dev"] = _scenes_trees(args.dev_trees, 2)

    def vocabulary(self):
        """Trees that have every tag and label, and the characters that a parser should know."""
        counts = Counter(char for tree in self.gum for _, word in leaves(tree) for char in word)
        chars = {char for char, count in counts.items() if count >= 3} | {chr(code) for code in range(33, 127)}
        return self.gum + _scenes_trees(self.args.scenes_trees, 1) + self.captions, chars

    def epoch(self, number):
        """The batches of an epoch."""
        args, rng = self.args, self.rng
        trees = [like_a_caption(self.substitute(tree, rng, args.substitution), rng) for tree in self.gum]
        pieces = rng.sample(self.fragments, len(self.gum) // 4)
        trees += [like_a_caption(self.substitute(tree, rng, 0.02), rng) for tree in pieces]
        trees += [like_a_caption(self.grammar.sample(rng), rng) for _ in range(args.caption_trees)]
        trees += [like_a_caption(tree, rng) for tree in _scenes_trees(args.scenes_trees, 1000 + number)]
        examples = [Example(tree) for tree in trees]
        return batches([e for e in examples if len(e.words) <= args.max_words], args.batch_tokens, rng)


def _read_treebank(folder, part):
    with gzip.open(Path(folder) / f"gum_{part}.ptb.gz", "rt", encoding="utf-8") as lines:
        return [read_tree(line) for line in lines]


def _scenes_trees(count, seed):
    return [read_tree(text) for text in islice(sample_trees(count, seed), count)] if count else []


def initial_parser(mixture, args):
    """A new parser, or one with the weights and vocabularies of an earlier run."""
    if args.init_from is None:
        return new_parser(*mixture.vocabulary(), hyperparameters(args))
    initial = chart_parser.load_parser(args.init_from)
    vocabularies = initial.tag_vocab, initial.label_vocab, initial.char_vocab
    parser = chart_parser.new_parser(*vocabularies, hyperparameters(args))
    parser.load_state_dict(initial.state_dict())
    return parser


def train(parser, mixture, args):
    """Yields, after each epoch, its line of the record and the averaged parser."""
    average = copy.deepcopy(parser)
    optimizer = torch.optim.AdamW(parser.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=1e-2)
    total = args.epochs * len(mixture.epoch(0))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / min(100, total / 10), max(0.02, 1 - step / total))
    )
    step, began = 0, time.process_time()
    for epoch in range(args.epochs):
        parser.train()
        losses = []
        for batch in mixture.epoch(epoch):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                loss = loss_of(parser, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parser.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            decay = min(0.996, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(parser.parameters()), 1 - decay)
            losses.append(loss.item())
        minutes = round((time.process_time() - began) / 60, 2)
        line = {"epoch": epoch + 1, "loss": round(sum(losses) / len(losses), 4), "cpu_minutes": minutes}
        yield line | {name: evaluate(average, trees) for name, trees in mixture.held_out.items()}, average


def main(argv: Sequence[str] | None = None):
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data parser", __doc__).parse(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    mixture = Mixture(args, random.Random(args.seed))
    history = []
    for line, parser in train(initial_parser(mixture, args), mixture, args):
        history.append(line)
        print(json.dumps(line), flush=True)
        if line["gum_dev"]["np_f1"] >= max(earlier["gum_dev"]["np_f1"] for earlier in history):
            write_record(parser, args, argv, history)
    measure(Path(args.output_dir), args.dev_trees)


if __name__ == "__main__":
    sys.exit(run(main, "contextcir data parser"))
