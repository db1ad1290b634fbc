"""How a few thousand trees go further: substructure substitution (Shi et al., 2021: a constituent is swapped for
another of the same label), and looking like a caption (no capitals, no final stop, misspelt words, fragments)."""

from collections import defaultdict

from datasets_scripts.treebank.trees import is_leaf, leaves, map_words, without_final_punctuation


class Substitution:
    """
    Swaps constituents for others of the same label and a similar length, and words for others of the same tag.

    Args:
        trees (`list`): Where others come from.

    Called with a tree, a `random.Random` and the chances, in [0, 1], that a constituent and that a word is swapped, it
    gives a new tree.
    """

    def __init__(self, trees):
        self.constituents = defaultdict(list)  # (label, length class) -> trees
        self.words = defaultdict(list)  # tag -> words, as often as they occur
        for tree in trees:
            self._collect(tree)

    def _collect(self, tree):
        if is_leaf(tree):
            self.words[tree[0]].append(tree[1])
            return
        length = len(leaves(tree))
        if length <= 16:
            self.constituents[tree[0], length.bit_length()].append(tree)
        for child in tree[1]:
            self._collect(child)

    def __call__(self, tree, rng, p_constituent=0.08, p_word=0.06):
        if is_leaf(tree):
            swap = tree[0] in ("NN", "NNS", "JJ", "NNP", "VB", "VBN", "VBG", "CD", "JJR") and rng.random() < p_word
            return (tree[0], rng.choice(self.words[tree[0]])) if swap else tree
        if rng.random() < p_constituent:
            others = self.constituents.get((tree[0], len(leaves(tree)).bit_length()))
            if others:
                return rng.choice(others)
        return (tree[0], [self(child, rng, p_constituent, p_word) for child in tree[1]])


def misspelt(word, rng):
    """Swaps, drops or doubles one letter."""
    if len(word) < 4 or not word.isalpha():
        return word
    i = rng.randrange(1, len(word) - 1)
    return rng.choice(
        [
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
        ]
    )


def like_a_caption(tree, rng):
    """Drops the final punctuation and the capitals, each for a third of the trees, and misspells words in a tenth."""
    if rng.random() < 0.1:
        tree = map_words(tree, lambda word: misspelt(word, rng) if rng.random() < 0.15 else word)
    if rng.random() < 0.35:
        tree = without_final_punctuation(tree)
    draw = rng.random()
    if draw < 0.3:
        tree = map_words(tree, str.lower)
    elif draw < 0.4:
        first = leaves(tree)[0][1]
        tree = map_words(tree, lambda word: word.lower() if word is first else word)
    return tree


def fragments(tree):
    """The noun phrases of 2 to 12 words, and the verb phrases that can stand as imperatives, as trees of their own."""
    if is_leaf(tree):
        return []
    found = [f for child in tree[1] for f in fragments(child)]
    if 2 <= len(leaves(tree)) <= 14:
        if tree[0] == "NP":
            found.append(("ROOT", [tree]))
        elif tree[0] == "VP" and tree[1][0][0] == "VB":
            found.append(("ROOT", [("S", [tree])]))
    return found
