"""A small grammar of modification texts, as `modification_grammar.txt` has it."""

import re
from collections import defaultdict
from pathlib import Path

from datasets_scripts.treebank.trees import capitalized, map_words, read_tree


class ModificationGrammar:
    """
    Samples trees of modification texts from `modification_grammar.txt`.

    Args:
        noun_phrases (`list[str]`): Bracketed trees, one of which stands for each `<GUM>`.
    """

    def __init__(self, noun_phrases):
        path = Path(__file__).with_name("modification_grammar.txt")
        self.alternatives, self.weights = defaultdict(list), defaultdict(list)
        self.alternatives["GUM"], self.weights["GUM"] = noun_phrases, [1] * len(noun_phrases)
        for line in path.read_text().splitlines():
            if re.match(r"\w+:$", line):
                symbol = line[:-1]
            elif line.startswith("  ") and symbol.isupper():
                weight, text = line.split(maxsplit=1)
                self.alternatives[symbol].append(text)
                self.weights[symbol].append(int(weight))
            elif line.startswith("  "):
                self.alternatives[symbol] += line.split()
                self.weights[symbol] += [1] * len(line.split())
        plurals = [
            word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s") for word in self.alternatives["noun"]
        ]
        self.alternatives["nouns"], self.weights["nouns"] = plurals, [1] * len(plurals)

    def sample(self, rng):
        """One tree, drawn with a `random.Random`; in half of the cases without capitals."""

        def expand(match):
            symbol = match.group(1)
            return re.sub(r"<(\w+)>", expand, rng.choices(self.alternatives[symbol], self.weights[symbol])[0])

        text = re.sub(r"<(\w+)>", expand, "(ROOT <TEXT>)")
        text = re.sub(r"\(JJ (\w+)-(\w+)\)", r"(ADJP (JJ \1) (HYPH -) (JJ \2))", text)
        tree = read_tree(text)
        if rng.random() < 0.5:
            return capitalized(tree)
        return map_words(tree, str.lower)
