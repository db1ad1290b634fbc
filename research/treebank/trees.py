"""Constituency trees as nested tuples: `(label, [children])`, and `(tag, word)` for a leaf."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

Tree: TypeAlias = tuple[str, Any]

PUNCTUATION = {",", ":", ".", "``", "''", "-LRB-", "-RRB-"}
BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"'}


def read_tree(text: str) -> Tree:
    """Read one bracketed tree. Function tags and traces are removed, and words are written as in plain text."""
    stack: list[Any] = [("", [])]
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


def is_leaf(tree: Tree) -> bool:
    """Whether a tree is `(tag, word)`."""
    return isinstance(tree[1], str)


def leaves(tree: Tree) -> list[Tree]:
    """Return all `(tag, word)` pairs of a tree, in order."""
    return [tree] if is_leaf(tree) else [leaf for child in tree[1] for leaf in leaves(child)]


def labelled_spans(tree: Tree, start: int = 0) -> list[tuple[int, int, str]]:
    """Return all `(start, end, label)`, with `start <= word < end`. Labels of a unary chain are joined as in benepar
    (`S::VP`), and the root is left out."""
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


def map_words(tree: Tree, function: Callable[[str], str]) -> Tree:
    """Return the tree with each word replaced by `function(word)`."""
    return (tree[0], function(tree[1])) if is_leaf(tree) else (tree[0], [map_words(c, function) for c in tree[1]])


def map_first_word(tree: Tree, function: Callable[[str], str]) -> Tree:
    """Return the tree with its first word replaced by `function(word)`."""
    first = leaves(tree)[0][1]
    return map_words(tree, lambda word: function(word) if word is first else word)


def trim_punctuation(tree: Tree) -> Tree:
    """Return the tree without the punctuation at its end. A tree of punctuation only keeps its first mark."""
    if is_leaf(tree):
        return tree
    children = list(tree[1])
    while len(children) > 1 and children[-1][0] in PUNCTUATION:
        children.pop()
    return (tree[0], [*children[:-1], trim_punctuation(children[-1])])


def to_brackets(tree: Tree) -> str:
    """Write one bracketed tree, as [`read_tree`] reads it."""
    return f"({tree[0]} {tree[1]})" if is_leaf(tree) else f"({tree[0]} {' '.join(map(to_brackets, tree[1]))})"
