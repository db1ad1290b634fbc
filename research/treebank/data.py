"""The trees that the parser is trained and measured on."""

import gzip
import random
from collections import Counter
from itertools import islice
from pathlib import Path

from contextcir.scenes import sample_trees
from research.train_parser import Arguments
from research.treebank.augmentation import Substitution, caption_style, fragments
from research.treebank.grammar import ModificationGrammar
from research.treebank.objective import Example, batches
from research.treebank.trees import Tree, leaves, read_tree, to_brackets


class TrainingTrees:
    """A mixture of GUM, scenes, modification texts and captions that two parsers agree on, augmented again in every
    epoch. `held_out` maps names in the record to trees to measure on, which do not depend on `rng`."""

    def __init__(self, args: Arguments, rng: random.Random):
        self.args, self.rng = args, rng
        self.gum = read_treebank(args.gum, "train")[: args.gum_trees]
        self.agreed = read_lines(Path(args.agreed)) if args.agreed else []  # brackets: an epoch takes a few
        self.substitute = Substitution(self.gum)
        self.fragments = [fragment for tree in self.gum for fragment in fragments(tree)]
        short = [f[1][0] for f in self.fragments if f[1][0][0] == "NP" and len(leaves(f)) <= 6]
        plain = [to_brackets(tree) for tree in short if not {word for _, word in leaves(tree)} & set("()[]<>")]
        self.grammar = ModificationGrammar(plain)
        self.captions = [self.grammar.sample(rng) for _ in range(1000)]
        self.held_out = {
            "gum_dev": read_treebank(args.gum, "dev"),
            "captions_dev": [self.grammar.sample(random.Random(f"dev {i}")) for i in range(args.dev_trees)],
        }
        if args.scenes_trees:
            self.held_out["scenes_dev"] = scenes_trees(args.dev_trees, 2)

    def vocabulary(self) -> tuple[list[Tree], set[str]]:
        """Return trees that contain every tag and label, and the characters of the parser."""
        counts = Counter(char for tree in self.gum for _, word in leaves(tree) for char in word)
        chars = {char for char, count in counts.items() if count >= 3} | {chr(code) for code in range(33, 127)}
        return self.gum + scenes_trees(self.args.scenes_trees, 1) + self.captions, chars

    def epoch(self, number: int) -> list[list[Example]]:
        """Return the batches of an epoch."""
        args, rng = self.args, self.rng
        trees = [caption_style(self.substitute(tree, rng, args.substitution), rng) for tree in self.gum]
        pieces = rng.sample(self.fragments, len(self.gum) // 4)
        trees += [caption_style(self.substitute(tree, rng, 0.02), rng) for tree in pieces]
        trees += [caption_style(self.grammar.sample(rng), rng) for _ in range(args.caption_trees)]
        agreed = map(read_tree, rng.sample(self.agreed, min(args.agreed_trees, len(self.agreed))))
        trees += [caption_style(self.substitute(tree, rng, 0.02), rng) for tree in agreed]
        trees += [caption_style(tree, rng) for tree in scenes_trees(args.scenes_trees, 1000 + number)]
        examples = [Example(tree) for tree in trees]
        return batches([e for e in examples if len(e.words) <= args.max_words], args.batch_tokens, rng)


def read_treebank(folder: str, part: str) -> list[Tree]:
    """Read `gum_<part>.ptb.gz`."""
    return [read_tree(line) for line in read_lines(Path(folder) / f"gum_{part}.ptb.gz")]


def read_lines(path: Path) -> list[str]:
    """Read the lines of a compressed file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return lines.readlines()


def scenes_trees(count: int, seed: int) -> list[Tree]:
    """Sample trees of the scenes grammar."""
    return [read_tree(text) for text in islice(sample_trees(count, seed), count)] if count else []
