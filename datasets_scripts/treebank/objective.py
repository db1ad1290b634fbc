"""The loss of the parser: cross-entropy for each span instead of the margin over trees of benepar ("local" training,
Teng and Zhang, 2018: as good, and no chart in the training step), and tags as a second task."""

from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

from contextcir.phrases import chart_parser
from datasets_scripts.treebank.trees import labelled_spans, leaves


class Example:
    """What benepar's `parse` wants of a sentence."""

    tree = None

    def __init__(self, tree):
        self.tags, self.words = map(list, zip(*leaves(tree), strict=True))
        self.space_after = [True] * len(self.words)
        self.spans = labelled_spans(tree)


def new_parser(trees, chars, hparams):
    """A parser with random weights for the tags and labels of `trees` and the characters `chars`."""
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
    nn.init.constant_(parser.f_label[-1].bias, -6.0)  # most spans are no constituents: begin there
    return parser


def gold_labels(parser, example):
    """Label ids `(num_words, num_words)` at [first word, last word], tag ids `(num_words + 2,)`; -100: none."""
    n = len(example.words)
    chart = torch.full((n, n), -100).tril(-1)
    for start, end, label in example.spans:
        while label not in parser.label_vocab:  # a rare unary chain: its inner part
            label = label.partition("::")[2]
        chart[start, end - 1] = parser.label_vocab[label]
    return chart, torch.tensor([-100, *(parser.tag_vocab.get(tag, 0) for tag in example.tags), -100])


def batches(examples, max_tokens, rng):
    """Sentences of similar length together, about `max_tokens` words a batch, in random order."""
    order = sorted(examples, key=lambda example: len(example.words) + rng.uniform(-2, 2))
    found, batch = [], []
    for example in order:
        if batch and (len(batch) + 1) * len(example.words) > max_tokens:
            found.append(batch)
            batch = []
        batch.append(example)
    found.append(batch)
    rng.shuffle(found)
    return found


def loss_of(parser, batch):
    """Cross-entropy of every span's label plus half of that of the tags, in nats a word, 0-dim; `batch` is a list of
    [`Example`]."""
    charts, tags = zip(*[gold_labels(parser, example) for example in batch], strict=True)
    size = max(map(len, charts))
    labels = torch.stack([F.pad(chart, (0, size - len(chart)) * 2, value=-100) for chart in charts])
    tags = nn.utils.rnn.pad_sequence(tags, batch_first=True, padding_value=-100)
    boundaries, tag_scores = parser.read(parser.pad_encoded([parser.encode(example) for example in batch]))
    scores = parser.score(boundaries, *(labels != -100).nonzero(as_tuple=True))  # (num_spans, num_labels)
    span_loss = F.cross_entropy(scores.float(), labels[labels != -100], reduction="sum")
    tag_loss = F.cross_entropy(tag_scores.float().flatten(0, 1), tags.flatten(), ignore_index=-100, reduction="sum")
    return (span_loss + 0.5 * tag_loss) / (tags != -100).sum()
