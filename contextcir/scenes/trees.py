"""Constituency trees with their text, character spans and the denotations of their noun phrases."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from contextcir.scenes.world import Cell, Thing


@dataclass(frozen=True)
class Denotation:
    """The referent of a noun phrase in the reference image; empty if there is none, as in "add a star"."""

    things: tuple[Thing, ...] = ()
    cells: tuple[Cell, ...] = ()
    background: bool = False


NOTHING = Denotation()


@dataclass(frozen=True)
class Leaf:
    """A word with its Penn Treebank tag."""

    tag: str
    word: str


@dataclass(frozen=True)
class Node:
    """A constituent."""

    label: str
    children: tuple[Node | Leaf, ...]
    denotes: Denotation = NOTHING

    def ptb(self) -> str:
        """Return the bracketed form: `(NP (DT the) (NN star))`."""
        inner = (f"({c.tag} {c.word})" if isinstance(c, Leaf) else c.ptb() for c in self.children)
        return f"({self.label} {' '.join(inner)})"

    def leaves(self) -> Iterator[Leaf]:
        """Iterate over the words from left to right."""
        for child in self.children:
            if isinstance(child, Leaf):
                yield child
            else:
                yield from child.leaves()


def node(label: str, *children: Node | str, denotes: Denotation = NOTHING) -> Node:
    """Build a constituent. A string child is a tag and a word: `node("NP", "DT the", "NN star")`."""
    return Node(label, tuple(Leaf(*c.split(" ")) if isinstance(c, str) else c for c in children), denotes)


@dataclass(frozen=True)
class NounPhrase:
    """A noun phrase `text[start:end]` of a text and its denotation. `is_leaf`: it contains no other noun phrase."""

    text: str
    start: int
    end: int
    denotes: Denotation = field(default=NOTHING, compare=False)
    is_leaf: bool = True


NO_SPACE_BEFORE = {",", ".", ";", ":"}


def realise(sentences: Sequence[Node]) -> tuple[str, list[NounPhrase]]:
    """Return the text of some sentences and its noun phrases, breadth first within each sentence.

    The breadth-first order is that of section 4.3 of the ConText-CIR paper: a phrase comes before the phrases inside
    it.
    """
    text = ""
    phrases: list[NounPhrase] = []
    for sentence in sentences:
        spans: dict[int, tuple[int, int]] = {}  # id of a leaf -> its characters
        for leaf in sentence.leaves():
            if text and leaf.word not in NO_SPACE_BEFORE:
                text += " "
            spans[id(leaf)] = (len(text), len(text) + len(leaf.word))
            text += leaf.word
        phrases += [_noun_phrase(found, spans, text) for found in _breadth_first(sentence) if found.label == "NP"]
    return text, phrases


def _breadth_first(root: Node) -> Iterator[Node]:
    queue = deque([root])
    while queue:
        current = queue.popleft()
        yield current
        queue.extend(child for child in current.children if isinstance(child, Node))


def _noun_phrase(found: Node, spans: dict[int, tuple[int, int]], text: str) -> NounPhrase:
    leaves = list(found.leaves())
    start, end = spans[id(leaves[0])][0], spans[id(leaves[-1])][1]
    has_inner = any(below.label == "NP" for below in _breadth_first(found) if below is not found)
    return NounPhrase(text[start:end], start, end, found.denotes, not has_inner)
