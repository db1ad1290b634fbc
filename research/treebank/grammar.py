"""A grammar of modification texts, read from `modification_grammar.txt`."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from research.treebank.trees import Tree, map_first_word, map_words, read_tree


class ModificationGrammar:
    """Sample trees of modification texts. `noun_phrases` are bracketed trees that replace `<GUM>`."""

    def __init__(self, noun_phrases: Sequence[str]):
        path = Path(__file__).with_name("modification_grammar.txt")
        self.alternatives: dict[str, list[str]] = defaultdict(list, GUM=list(noun_phrases))
        self.weights: dict[str, list[int]] = defaultdict(list, GUM=[1] * len(noun_phrases))
        symbol = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"\w+:$", line):
                symbol = line[:-1]
            elif line.startswith("  ") and symbol.isupper():
                weight, text = line.split(maxsplit=1)
                self.alternatives[symbol].append(text)
                self.weights[symbol].append(int(weight))
            elif line.startswith("  "):
                self.alternatives[symbol] += line.split()
                self.weights[symbol] += [1] * len(line.split())
        nouns = self.alternatives["noun"]
        plurals = [noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s") for noun in nouns]
        self.alternatives["nouns"], self.weights["nouns"] = plurals, [1] * len(plurals)

    def sample(self, rng: random.Random) -> Tree:
        """Draw one tree. Half of the trees have no capitals."""

        def expand(match: re.Match[str]) -> str:
            symbol = match.group(1)
            return re.sub(r"<(\w+)>", expand, rng.choices(self.alternatives[symbol], self.weights[symbol])[0])

        text = re.sub(r"<(\w+)>", expand, "(ROOT <TEXT>)")
        text = re.sub(r"\(JJ (\w+)-(\w+)\)", r"(ADJP (JJ \1) (HYPH -) (JJ \2))", text)
        tree = read_tree(text)
        if rng.random() < 0.5:
            return map_first_word(tree, lambda word: word[:1].upper() + word[1:])
        return map_words(tree, str.lower)
