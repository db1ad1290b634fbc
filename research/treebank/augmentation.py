"""Augmentation of trees: substructure substitution (Shi et al., 2021), and the style of captions.

Substitution swaps a constituent for another with the same label. Captions have no capitals and no final stop, misspelt
words, and are often fragments.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from research.treebank.trees import Tree, is_leaf, leaves, map_first_word, map_words, trim_punctuation

OPEN_CLASSES = ("NN", "NNS", "JJ", "NNP", "VB", "VBN", "VBG", "CD", "JJR")  # tags of words that are swapped


class Substitution:
    """Swap constituents for others with the same label and a similar length, and words for others with the same tag.
    All of them come from `trees`."""

    def __init__(self, trees: Sequence[Tree]):
        self.constituents: dict[tuple[str, int], list[Tree]] = defaultdict(list)  # (label, length class) -> trees
        self.words: dict[str, list[str]] = defaultdict(list)  # tag -> words, as often as they occur
        for tree in trees:
            self._collect(tree)

    def _collect(self, tree: Tree) -> None:
        if is_leaf(tree):
            self.words[tree[0]].append(tree[1])
            return
        length = len(leaves(tree))
        if length <= 16:
            self.constituents[tree[0], length.bit_length()].append(tree)
        for child in tree[1]:
            self._collect(child)

    def __call__(self, tree: Tree, rng: random.Random, p_constituent: float = 0.08, p_word: float = 0.06) -> Tree:
        """Return a new tree. `p_constituent` and `p_word` are the probabilities of a swap, in [0, 1]."""
        if is_leaf(tree):
            swap = tree[0] in OPEN_CLASSES and rng.random() < p_word
            return (tree[0], rng.choice(self.words[tree[0]])) if swap else tree
        if rng.random() < p_constituent:
            others = self.constituents.get((tree[0], len(leaves(tree)).bit_length()))
            if others:
                return rng.choice(others)
        return (tree[0], [self(child, rng, p_constituent, p_word) for child in tree[1]])


def misspell(word: str, rng: random.Random) -> str:
    """Swap, drop or double one letter of a word of at least four letters."""
    if len(word) < 4 or not word.isalpha():
        return word
    i = rng.randrange(1, len(word) - 1)
    swapped = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return rng.choice([swapped, word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:]])


def caption_style(tree: Tree, rng: random.Random) -> Tree:
    """Drop the final punctuation and the capitals, each in about a third of the trees, and misspell words in a
    tenth."""
    if rng.random() < 0.1:
        tree = map_words(tree, lambda word: misspell(word, rng) if rng.random() < 0.15 else word)
    if rng.random() < 0.35:
        tree = trim_punctuation(tree)
    draw = rng.random()
    if draw < 0.3:
        return map_words(tree, str.lower)
    return map_first_word(tree, str.lower) if draw < 0.4 else tree


def fragments(tree: Tree) -> list[Tree]:
    """Return the noun phrases, and the verb phrases that can be imperatives, of 2 to 14 words, as trees."""
    if is_leaf(tree):
        return []
    found = [f for child in tree[1] for f in fragments(child)]
    if 2 <= len(leaves(tree)) <= 14:
        if tree[0] == "NP":
            found.append(("ROOT", [tree]))
        elif tree[0] == "VP" and tree[1][0][0] == "VB":
            found.append(("ROOT", [("S", [tree])]))
    return found
