"""The loss of the parser: cross-entropy of the label of every span, and of the tags as a second task.

benepar's own loss is a margin over whole trees. Cross-entropy of single spans ("local" training, Teng and Zhang, 2018)
reaches the same accuracy without a chart in the training step.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from contextcir.phrases import chart_parser
from research.treebank.trees import Tree, labelled_spans, leaves


class Example:
    """A sentence, with the attributes that benepar's `parse` needs."""

    tree = None

    def __init__(self, tree: Tree):
        self.tags, self.words = map(list, zip(*leaves(tree), strict=True))
        self.space_after = [True] * len(self.words)
        self.spans = labelled_spans(tree)


def new_parser(trees: Sequence[Tree], chars: Iterable[str], hparams: dict[str, Any]) -> Any:
    """Return a parser with random weights for the tags and labels of `trees` and the characters `chars`."""
    label_counts = Counter(label for tree in trees for *_, label in labelled_spans(tree))
    labels = {label for label, count in label_counts.items() if count >= 3 or "::" not in label}
    tags = sorted({tag for tree in trees for tag, _ in leaves(tree)})
    char_vocab = {char: index for index, char in enumerate(["\0", "\1", "\2", "\3", "\4", *sorted(chars)])}
    parser = chart_parser.new_parser(
        {tag: index for index, tag in enumerate(["UNK", *tags])},
        {label: index for index, label in enumerate(["", *sorted(labels)])},
        char_vocab,
        hparams,
    )
    nn.init.constant_(parser.f_label[-1].bias, -6.0)  # most spans are no constituents
    return parser


def gold_labels(parser: Any, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """Return label ids `(num_words, num_words)` at [first word, last word] and tag ids `(num_words + 2,)`. Places
    without a label hold -100."""
    n = len(example.words)
    chart = torch.full((n, n), -100).tril(-1)
    for start, end, label in example.spans:
        while label not in parser.label_vocab:  # a rare unary chain: use its inner part
            label = label.partition("::")[2]
        chart[start, end - 1] = parser.label_vocab[label]
    return chart, torch.tensor([-100, *(parser.tag_vocab.get(tag, 0) for tag in example.tags), -100])


def batches(examples: Sequence[Example], max_tokens: int, rng: random.Random) -> list[list[Example]]:
    """Group sentences of similar length into batches of about `max_tokens` words, in random order."""
    order = sorted(examples, key=lambda example: len(example.words) + rng.uniform(-2, 2))
    found: list[list[Example]] = []
    batch: list[Example] = []
    for example in order:
        if batch and (len(batch) + 1) * len(example.words) > max_tokens:
            found.append(batch)
            batch = []
        batch.append(example)
    found.append(batch)
    rng.shuffle(found)
    return found


def parser_loss(parser: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Compute the cross-entropy of the labels of all spans plus half of that of the tags, in nats a word, 0-dim."""
    gold = [gold_labels(parser, example) for example in batch]
    size = max(len(chart) for chart, _ in gold)
    labels = torch.stack([F.pad(chart, (0, size - len(chart)) * 2, value=-100) for chart, _ in gold])
    tag_ids = nn.utils.rnn.pad_sequence([tags for _, tags in gold], batch_first=True, padding_value=-100)
    boundaries, tag_scores = parser.read(parser.pad_encoded([parser.encode(example) for example in batch]))
    scores = parser.score(boundaries, *(labels != -100).nonzero(as_tuple=True))  # (num_spans, num_labels)
    span_loss = F.cross_entropy(scores.float(), labels[labels != -100], reduction="sum")
    tag_loss = F.cross_entropy(tag_scores.float().flatten(0, 1), tag_ids.flatten(), ignore_index=-100, reduction="sum")
    return (span_loss + 0.5 * tag_loss) / (tag_ids != -100).sum()
