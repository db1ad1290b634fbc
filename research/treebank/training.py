"""The training loop of the parser."""

import copy
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from contextcir.phrases import chart_parser
from research.train_parser import Arguments
from research.treebank.data import TrainingTrees
from research.treebank.objective import new_parser, parser_loss
from research.treebank.scores import evaluate


def hyperparameters(args: Arguments) -> dict[str, Any]:
    """Return benepar's hyperparameters."""
    dropouts = ("char_lstm_input_dropout", "morpho_emb_dropout", "attention_dropout", "residual_dropout")
    return {
        **dict.fromkeys(dropouts, args.dropout),
        "relu_dropout": args.dropout / 2,
        "use_pretrained": False,
        "use_chars_lstm": True,
        "use_encoder": True,
        "encoder": args.encoder,
        "predict_tags": True,
        "force_root_constituent": True,
        "tag_loss_scale": 5.0,
        "d_char_emb": 64,
        "encoder_max_len": 256,
        "num_layers": args.num_layers,
        "num_heads": 8,
        "d_model": args.d_model,
        "d_kv": args.d_model // 8,
        "d_ff": 2 * args.d_model,
        "d_label_hidden": args.d_label_hidden,
        "d_tag_hidden": args.d_label_hidden,
    }


def initial_parser(trees: TrainingTrees, args: Arguments) -> Any:
    """Return a new parser, or one with the averaged weights and the vocabularies of `args.init_from`."""
    if args.init_from is None:
        return new_parser(*trees.vocabulary(), hyperparameters(args))
    initial, *others = map(chart_parser.load_parser, args.init_from)
    for place, other in enumerate(others, start=2):
        with torch.no_grad():
            torch._foreach_lerp_(list(initial.parameters()), list(other.parameters()), 1 / place)
    vocabularies = initial.tag_vocab, initial.label_vocab, initial.char_vocab
    parser = chart_parser.new_parser(*vocabularies, hyperparameters(args))
    parser.load_state_dict(initial.state_dict())
    return parser


def train(parser: Any, trees: TrainingTrees, args: Arguments) -> Iterator[tuple[dict[str, Any], Any]]:
    """Train a parser. Yields, after each epoch, its line of the record and the parser with averaged weights."""
    if not args.epochs:
        line = {"epoch": 0, "loss": None, "cpu_minutes": 0}
        yield line | {name: evaluate(parser.eval(), held_out) for name, held_out in trees.held_out.items()}, parser
        return
    average = copy.deepcopy(parser)
    optimizer = torch.optim.AdamW(parser.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=1e-2)
    total = args.epochs * len(trees.epoch(0))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / min(100, total / 10), max(0.02, 1 - step / total))
    )
    step, began = 0, time.process_time()
    for epoch in range(args.epochs):
        parser.train()
        losses = []
        for batch in trees.epoch(epoch):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                loss = parser_loss(parser, batch)
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
        yield line | {name: evaluate(average, held_out) for name, held_out in trees.held_out.items()}, average
