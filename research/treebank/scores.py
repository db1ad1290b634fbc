"""Scores of a parser: precision, recall and F1 of brackets, and tag accuracy."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from research.treebank.objective import Example
from research.treebank.trees import PUNCTUATION, Tree


def np_brackets(tags: Sequence[str], spans: Iterable[tuple[int, int, str]]) -> set[tuple[int, int]]:
    """Return the NP brackets of a sentence, as positions among its words other than punctuation."""
    position = [0]
    for tag in tags:
        position.append(position[-1] + (tag not in PUNCTUATION))
    brackets = {(position[s], position[e]) for s, e, label in spans if "NP" in label.split("::")}
    return {(s, e) for s, e in brackets if e > s}


def evaluate(parser: Any, trees: Sequence[Tree]) -> dict[str, float]:
    """Compute F1, precision and recall of [`np_brackets`], F1 of all labels, and tag accuracy, in percent."""
    examples = [Example(tree) for tree in trees]
    label_from_index = {index: label for label, index in parser.label_vocab.items()}
    tag_from_index = {index: tag for tag, index in parser.tag_vocab.items()}
    counts: Counter[str] = Counter()
    outputs = parser.parse(examples, return_compressed=True, subbatch_max_tokens=2000)
    for example, output in zip(examples, outputs, strict=True):
        predicted = [
            (int(s), int(e), label_from_index[int(i)])
            for s, e, i in zip(output.starts, output.ends, output.labels, strict=True)
            if i
        ]
        gold_np, predicted_np = np_brackets(example.tags, example.spans), np_brackets(example.tags, predicted)
        counts["np_hit"] += len(gold_np & predicted_np)
        counts["np_gold"] += len(gold_np)
        counts["np_predicted"] += len(predicted_np)
        counts["hit"] += len(set(example.spans) & set(predicted))
        counts["gold"] += len(example.spans)
        counts["predicted"] += len(predicted)
        counts["tags"] += sum(tag_from_index[int(i)] == tag for i, tag in zip(output.tags, example.tags, strict=True))
        counts["words"] += len(example.words)
    scores = {
        "np_f1": 2 * counts["np_hit"] / max(counts["np_gold"] + counts["np_predicted"], 1),
        "np_precision": counts["np_hit"] / max(counts["np_predicted"], 1),
        "np_recall": counts["np_hit"] / max(counts["np_gold"], 1),
        "all_labels_f1": 2 * counts["hit"] / max(counts["gold"] + counts["predicted"], 1),
        "tag_accuracy": counts["tags"] / max(counts["words"], 1),
    }
    return {name: round(100 * value, 2) for name, value in scores.items()} | {"trees": len(trees)}
