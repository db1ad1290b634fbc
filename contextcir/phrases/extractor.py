"""Extract the concepts of a modification text: its noun phrases, as exact character spans.

ConText-CIR (section 3) takes at most ten noun phrases from the constituency tree of a text, breadth-first. A phrase
("the dog on the left of the red box") comes before the phrases inside it ("the dog", "the red box"). spaCy splits
texts into words and sentences, and a [`~contextcir.phrases.chart_parser`] gives the trees of all sentences in batches.
Left out: spaCy's own benepar component, which parses one document at a time. Only this file imports spaCy.
"""

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch

from contextcir.phrases.chart_parser import load_parser, piece_limit
from contextcir.phrases.concepts import conjuncts, is_concept, without_command
from contextcir.runtime.digests import weights_digest

logger = logging.getLogger("contextcir")

VERSION = 3  # of the rules in this folder; part of the fingerprint, so that results of older rules are not used again

MAX_SENTENCE_WORDS = 80  # longer sentences are split: the chart is quadratic in the words, the decoding cubic
MAX_WORD_CHARACTERS = 40  # that the parser reads of a word; the span keeps all of them
# Removed, since spaCy refuses lone surrogates, and its tokenizer is quadratic in text without a space
NOT_WORDS = re.compile("[\ud800-\udfff]|\\S{500,}")
TEXTS_PER_PASS = 2000

_PROCESS = os.getpid()  # that has imported this file: others are its forks, or have their own

POSSESSIVES = frozenset(["'s", "’s", "'", "’", "´s", "`s"])
# benepar's own normalisation of words, as in the training of its released parsers
PLAIN_QUOTES = dict.fromkeys("`‘’‹›", "'") | dict.fromkeys("«»“”„", '"') | {"—": "--", "’s": "'s", "n’t": "n't"}


class _Sentence:
    """Up to `MAX_SENTENCE_WORDS` spaCy tokens of one text, with the attributes that benepar reads of a sentence."""

    tree = None

    def __init__(self, tokens: list[Any]):
        self.tokens = tokens
        self.words = [PLAIN_QUOTES.get(token.text, token.text)[:MAX_WORD_CHARACTERS] for token in tokens]
        self.space_after = [bool(token.whitespace_) for token in tokens]

    def pos(self) -> list[tuple[str, str]]:
        return [(word, "UNK") for word in self.words]


class NounPhraseExtractor:
    """
    Extractor of the noun phrases of texts.

    Args:
        parser (`str` or `os.PathLike`, *optional*):
            A benepar name or path, see [`~contextcir.phrases.chart_parser.load_parser`]; by default the shipped one.
        max_phrases (`int`, *optional*, defaults to 10):
            Number of phrases kept for each text, the first in breadth-first order (the paper's value).
        leaf_only (`bool`, *optional*, defaults to `False`):
            Keep only noun phrases without a noun phrase inside (the paper's ablation).
        concepts_only (`bool`, *optional*, defaults to `True`):
            Leave out noun phrases that name nothing in an image: pronouns, the picture itself ("the target photo"),
            and amounts ("a pair"), see [`~contextcir.phrases.concepts.is_concept`]. With `False` all are kept that
            have a letter or digit.

    Attributes:
        fingerprint (`str`): A key for caches. It changes with the parser's weights, the options and the rules.
        description (`str`): The parser with the digest of its weights, and the options, for the card of a data set.
        num_skipped (`int`): Number of texts so far with a sentence of more sub-words than the parser reads. A warning
            names each, and its other sentences have their phrases.

    A process that was forked parses with one thread, as in `Dataset.map(num_proc=2)`: the thread pool of its parent,
    which PyTorch would wait for, does not exist there.

    Raises:
        `ValueError`: `max_phrases` is less than 1, or as [`~contextcir.phrases.chart_parser.load_parser`].

    Example:

    ```python
    >>> NounPhraseExtractor().extract(["Remove the greenery in the background."])
    [[{'text': 'the greenery in the background', 'start': 7, 'end': 37}, ...]]
    ```
    """

    def __init__(
        self,
        parser: str | os.PathLike | None = None,
        *,
        max_phrases: int = 10,
        leaf_only: bool = False,
        concepts_only: bool = True,
    ):
        if max_phrases < 1:
            raise ValueError(f"Got max_phrases={max_phrases}, expected at least 1.")
        self.max_phrases, self.leaf_only, self.concepts_only = max_phrases, leaf_only, concepts_only
        self.parser = load_parser(parser)
        self._labels = {index: label for label, index in self.parser.label_vocab.items()}

        import spacy
        from spacy.pipeline import Sentencizer

        self._tokenize, self._split_sentences = spacy.blank("en").tokenizer, Sentencizer()
        digest = weights_digest(self.parser)
        parts = (VERSION, max_phrases, leaf_only, concepts_only, digest)
        self.fingerprint = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        name = "the parser that ships with contextcir" if parser is None else os.path.basename(os.fspath(parser))
        kind = "without a phrase inside" if leaf_only else "breadth-first"
        kind += "" if concepts_only else ", also those that are no concepts"
        self.description = (
            f"{name} (weights {digest}), at most {max_phrases} phrases of a text, {kind}, rules {VERSION}"
        )
        self.num_skipped = 0

    def extract(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """
        Extract the noun phrases of each text.

        Args:
            texts (`Sequence[str]`): Any Unicode. Texts may be empty or have no noun phrase.

        Returns:
            `list[list[dict]]`: For each text at most `max_phrases` of `{"text", "start", "end"}`, where `text ==
            texts[i][start:end]`, without duplicates. They are ordered breadth-first over the trees of the text, and
            from left to right at equal depth.

        Raises:
            `TypeError`: An item is not a string (its index is named), or `texts` is a single string.
        """
        found: list[list[tuple[int, int, int]]] = [[] for _ in texts]  # (depth, start, -end)
        for index, sentence, output in self._parse(texts):
            found[index] += self._spans(texts[index], sentence, output)
        phrases = []
        for text, spans_with_depth in zip(texts, found, strict=True):
            spans = list(dict.fromkeys((start, -negative_end) for _, start, negative_end in sorted(spans_with_depth)))
            if self.leaf_only:
                spans = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
            phrases.append([{"text": text[s:e], "start": s, "end": e} for s, e in spans[: self.max_phrases]])
        return phrases

    def parse(self, texts: Sequence[str]) -> list[list[Any]]:
        """Return the constituency trees of each text, one `nltk.Tree` for each sentence. Arguments and errors as for
        [`~NounPhraseExtractor.extract`]."""
        trees: list[list[Any]] = [[] for _ in texts]
        for index, sentence, output in self._parse(texts):
            trees[index].append(output.to_tree(sentence.pos(), self._labels, self.parser.tag_from_index))
        return trees

    def _parse(self, texts: Sequence[str]) -> Iterator[tuple[int, _Sentence, Any]]:
        """Yield `(index of the text, sentence, benepar's compressed output)` for all texts, parsed in batches."""
        if isinstance(texts, str):
            raise TypeError(f"Got one text ({texts[:40]!r}), expected a sequence of texts. Put it into a list.")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"Text {index} is {text!r} ({type(text).__name__}), expected a string.")
        if os.getpid() != _PROCESS:
            torch.set_num_threads(1)
        for first in range(0, len(texts), TEXTS_PER_PASS):
            chunk = texts[first : first + TEXTS_PER_PASS]
            numbered = [(first + i, sentence) for i, text in enumerate(chunk) for sentence in self._sentences(text)]
            numbered = self._without_long(numbered, texts)
            sentences = [sentence for _, sentence in numbered]
            outputs = self.parser.parse(sentences, return_compressed=True, subbatch_max_tokens=2000)
            yield from ((index, sentence, output) for (index, sentence), output in zip(numbered, outputs, strict=True))

    def _without_long(self, numbered: list[tuple[int, _Sentence]], texts: Sequence[str]) -> list:
        """Leave out sentences of more sub-words than the parser reads, and name their texts."""
        limit = piece_limit(self.parser)
        if limit is None:
            return numbered
        kept, skipped = [], set()
        for index, sentence in numbered:
            try:
                # No word has more sub-words than bytes, and a mark of its beginning: most sentences need no look.
                if sum(len(word.encode()) + 1 for word in sentence.words) + 2 > limit:
                    self.parser.encode(sentence)
                kept.append((index, sentence))
            except ValueError as error:
                if index not in skipped:
                    logger.warning(f"Text {index} ({texts[index][:40]!r}) has a sentence that is skipped: {error}.")
                skipped.add(index)
        self.num_skipped += len(skipped)
        return kept

    def _sentences(self, text: str) -> Iterator[_Sentence]:
        """Split a text into sentences at full stops and line breaks, and long sentences at their punctuation."""
        words: list[Any] = []
        text = NOT_WORDS.sub(lambda match: " " * len(match.group()), text)  # all other characters keep their positions
        for token in self._split_sentences(self._tokenize(text)):
            if words and (token.is_sent_start or "\n" in token.text):
                yield _Sentence(words)
                words = []
            if token.is_space:  # benepar cannot process white space as tokens (its issue 16)
                continue
            if len(words) == MAX_SENTENCE_WORDS:
                cut = max((i + 1 for i, word in enumerate(words) if word.is_punct), default=len(words))
                yield _Sentence(words[:cut])
                words = words[cut:]
            words.append(token)
        if words:
            yield _Sentence(words)

    def _spans(self, text: str, sentence: _Sentence, output: Any) -> Iterator[tuple[int, int, int]]:
        """Yield `(depth, start, -end)` of the noun phrases of one sentence."""
        words = [token.lower_ for token in sentence.tokens]
        for depth, start, end in self._phrases(output):
            span = _trimmed(text, sentence.tokens[without_command(words, start, end) : end])
            if span and (not self.concepts_only or is_concept(text[slice(*span)])):
                yield depth, span[0], -span[1]

    def _phrases(self, output: Any) -> Iterator[tuple[int, int, int]]:
        """Yield `(depth, first word, end)` of the noun phrases of a tree, and of the conjuncts of flat ones."""
        spans = list(zip(output.starts.tolist(), output.ends.tolist(), output.labels.tolist(), strict=True))
        around: list[tuple[int, int]] = []  # (end, depth) of the constituents around this one
        for place, (start, end, label) in enumerate(spans):
            while around and around[-1][0] <= start:
                around.pop()
            depth = around[-1][1] if around else 0
            names = self._labels[label].split("::") if label else []
            for name in names:
                depth += 1
                if name == "NP":
                    yield depth, start, end
            around.append((end, depth))
            if names and names[-1] == "NP" and output.tags is not None and end - start > 2:
                if not any("NP" in self._labels[inner].split("::") for inner in _labels_inside(spans, place)):
                    tags = [self.parser.tag_from_index[int(tag)] for tag in output.tags[start:end]]
                    yield from ((depth + 1, start + first, start + last) for first, last in conjuncts(tags))


def _labels_inside(spans: Sequence[tuple[int, int, int]], place: int) -> Iterator[int]:
    """Yield the labels of the constituents inside one. Spans are ordered by their starts, outer ones first."""
    end = spans[place][1]
    return (label for _, _, label in takewhile(lambda span: span[0] < end, spans[place + 1 :]))


def _trimmed(text: str, tokens: list[Any]) -> tuple[int, int] | None:
    """Return the span of a phrase without punctuation, space and possessive at its ends, or `None` if it has no letter
    or digit."""
    if tokens and tokens[-1].lower_ in POSSESSIVES:
        tokens = tokens[:-1]
    if not tokens:
        return None
    start, end = tokens[0].idx, tokens[-1].idx + len(tokens[-1])
    while start < end and not _is_content(text[start]):
        start += 1
    while start < end and not _is_content(text[end - 1]):
        end -= 1
    return (start, end) if any(character.isalnum() for character in text[start:end]) else None


def _is_content(character: str) -> bool:
    """Letters, digits, symbols and combining marks are content; punctuation, space and control characters are not."""
    return unicodedata.category(character)[0] in "LNSM" or character in "#%&"
