"""Constituency trees as nested tuples: `(label, [children])`, and `(tag, word)` for a leaf."""

import re

PUNCTUATION = {",", ":", ".", "``", "''", "-LRB-", "-RRB-"}
BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"'}


def read_tree(text):
    """One bracketed tree -> nested (label, children), without function tags and traces, words as in plain text."""
    stack = [("", [])]
    tokens = re.findall(r"\(|\)|[^\s()]+", text)
    for previous, token in zip(["", *tokens], tokens, strict=False):
        if token == "(":
            stack.append(["", []])
        elif token == ")":
            label, children = stack.pop()
            label = label if label.startswith("-") else re.split(r"[-=|]", label)[0]
            if children and label != "-NONE-":
                stack[-1][1].append((label, children))
        elif previous == "(":
            stack[-1][0] = token
        else:
            stack[-1] = [stack[-1][0], BRACKETS.get(token, token)]
    return stack[0][1][0]


def is_leaf(tree):
    """Whether a tree is `(tag, word)`."""
    return isinstance(tree[1], str)


def leaves(tree):
    """All (tag, word) pairs of a tree, in order."""
    return [tree] if is_leaf(tree) else [leaf for child in tree[1] for leaf in leaves(child)]


def labelled_spans(tree, start=0):
    """`[(start, end, "S::VP")]`: closed-open word positions, unary chains joined as benepar does, without the root."""
    chain = []
    while not is_leaf(tree):
        if tree[0] not in ("ROOT", "TOP", ""):
            chain.append(tree[0])
        if len(tree[1]) > 1:
            break
        tree = tree[1][0]
    if is_leaf(tree):
        return [(start, start + 1, "::".join(chain))] if chain else []
    spans, end = [], start
    for child in tree[1]:
        spans += labelled_spans(child, end)
        end += len(leaves(child))
    return [(start, end, "::".join(chain)), *spans] if chain else spans


def map_words(tree, function):
    """The same tree with `function(word)` in the place of each word."""
    return (tree[0], function(tree[1])) if is_leaf(tree) else (tree[0], [map_words(c, function) for c in tree[1]])


def without_final_punctuation(tree):
    """The same tree without the punctuation at its end, unless there is nothing else."""
    if is_leaf(tree):
        return tree
    children = list(tree[1])
    while len(children) > 1 and children[-1][0] in PUNCTUATION:
        children.pop()
    return (tree[0], [*children[:-1], without_final_punctuation(children[-1])])


def to_brackets(tree):
    """One bracketed tree, which [`read_tree`] reads again."""
    return f"({tree[0]} {tree[1]})" if is_leaf(tree) else f"({tree[0]} {' '.join(map(to_brackets, tree[1]))})"


def capitalized(tree):
    """The same tree with a capital at its beginning."""
    first = leaves(tree)[0][1]
    return map_words(tree, lambda word: word[:1].upper() + word[1:] if word is first else word)
