"""Constituency trees that know their text, their character spans and what their noun phrases denote."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from contextcir.scenes.world import Thing


@dataclass(frozen=True)
class Denotation:
    """What a noun phrase points at in the reference image; empty for what is not there (yet), as in "add a star"."""

    things: tuple[Thing, ...] = ()
    cells: tuple[tuple[int, int], ...] = ()
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
        """The bracketed form: `(NP (DT the) (NN star))`."""
        inner = (f"({c.tag} {c.word})" if isinstance(c, Leaf) else c.ptb() for c in self.children)
        return f"({self.label} {' '.join(inner)})"

    def leaves(self) -> Iterator[Leaf]:
        """The words from left to right."""
        for child in self.children:
            if isinstance(child, Leaf):
                yield child
            else:
                yield from child.leaves()


def node(label: str, *children: Node | str, denotes: Denotation = NOTHING) -> Node:
    """Build a constituent; a string child holds words with their tags: `node("NP", "DT the", "NN star")`."""
    return Node(label, tuple(Leaf(*c.split(" ")) if isinstance(c, str) else c for c in children), denotes)


@dataclass(frozen=True)
class NounPhrase:
    """A noun phrase of a text: `text[start:end]`, what it denotes, and whether it holds no other noun phrase."""

    text: str
    start: int
    end: int
    denotes: Denotation = field(default=NOTHING, compare=False)
    is_leaf: bool = True


GLUED = {",", ".", ";", ":"}  # punctuation that takes no space before it


def realise(sentences: Sequence[Node]) -> tuple[str, list[NounPhrase]]:
    """The text of some sentences and its noun phrases, breadth first within each sentence.

    The breadth-first order is that of section 4.3 of the paper: branches come before the leaves inside them.
    """
    text = ""
    phrases: list[NounPhrase] = []
    for sentence in sentences:
        spans: dict[int, tuple[int, int]] = {}  # id of a leaf -> its characters
        for leaf in sentence.leaves():
            if text and leaf.word not in GLUED:
                text += " "
            spans[id(leaf)] = (len(text), len(text) + len(leaf.word))
            text += leaf.word
        phrases += [_noun_phrase(found, spans, text) for found in _breadth_first(sentence) if found.label == "NP"]
    return text, phrases


def _breadth_first(root: Node) -> Iterator[Node]:
    waiting = deque([root])
    while waiting:
        current = waiting.popleft()
        yield current
        waiting.extend(child for child in current.children if isinstance(child, Node))


def _noun_phrase(found: Node, spans: dict[int, tuple[int, int]], text: str) -> NounPhrase:
    leaves = list(found.leaves())
    start, end = spans[id(leaves[0])][0], spans[id(leaves[-1])][1]
    inner = any(below.label == "NP" for below in _breadth_first(found) if below is not found)
    return NounPhrase(text[start:end], start, end, found.denotes, not inner)
