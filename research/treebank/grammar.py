"""A grammar of modification texts, read from `modification_grammar.txt` and `modification_words.txt`."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from research.treebank.trees import Tree, is_leaf, map_first_word, map_words, read_tree


class ModificationGrammar:
    """Sample trees of modification texts. `noun_phrases` are bracketed trees that replace `<GUM>`."""

    def __init__(self, noun_phrases: Sequence[str]):
        self.alternatives: dict[str, list[str]] = defaultdict(list, GUM=list(noun_phrases))
        self.weights: dict[str, list[int]] = defaultdict(list, GUM=[1] * len(noun_phrases))
        for name in ("modification_grammar.txt", "modification_words.txt"):
            self._read(Path(__file__).with_name(name))
        nouns = self.alternatives["noun"]
        self._add_words("nouns", [noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s") for noun in nouns])

    def _read(self, path: Path) -> None:
        symbol = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"\w+:$", line):
                symbol = line[:-1]
            elif rule := re.fullmatch(r"  (\d+)(?: (\(.*|<.*))?", line):
                self.alternatives[symbol].append(rule.group(2) or "")
                self.weights[symbol].append(int(rule.group(1)))
            elif line.startswith("  "):
                self._add_words(symbol, line.split())

    def _add_words(self, symbol: str, words: Sequence[str]) -> None:
        """Add words, and compounds such as `tennis/NN_ball/NN`."""
        if symbol.startswith("compound"):
            words = [re.sub(r"([^_]+)/(\w+?)(?:_|$)", r"(\2 \1) ", word).strip() for word in words]
        self.alternatives[symbol] += words
        self.weights[symbol] += [1] * len(words)

    def sample(self, rng: random.Random) -> Tree:
        """Draw one tree. Half of the trees have no capitals."""

        def expand(match: re.Match[str]) -> str:
            symbol = match.group(1)
            return re.sub(r"<([\w$]+)>", expand, rng.choices(self.alternatives[symbol], self.weights[symbol])[0])

        text = re.sub(r"<(\w+)>", expand, "(ROOT <TEXT>)")
        text = re.sub(r"\(JJ (\w+)-(\w+)\)", r"(ADJP (JJ \1) (HYPH -) (JJ \2))", text)
        text = re.sub(r"\(DT a\)(?=[ (]+[\w$]+ (?:\([\w$]+ )*[aeiou])", "(DT an)", text)
        if rng.random() < 0.4:  # "Remove the dog, Add a cat"
            text = re.sub(r"(?<=\(, ,\) )\(VP \(VB \w", lambda match: match.group().upper(), text)
        tree = flatten(read_tree(text))
        if rng.random() < 0.5:
            return map_first_word(tree, lambda word: word[:1].upper() + word[1:])
        return map_words(tree, str.lower)


def flatten(tree: Tree) -> Tree:
    """Return the tree without phrases directly in the only child of one with the same label."""
    if is_leaf(tree):
        return tree
    children = [flatten(child) for child in tree[1]]
    return children[0] if len(children) == 1 and children[0][0] == tree[0] else (tree[0], children)
