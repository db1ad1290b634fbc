"""The concepts of a modification text: its noun phrases, as exact character spans.

ConText-CIR (section 3) takes at most ten noun phrases from the constituency tree of a text, breadth-first,
so that a phrase ("the dog on the left of the red box") comes before the phrases inside it ("the dog", "the red box").
Here spaCy cuts the text into words and sentences, and a [`~contextcir.phrases.chart_parser`] gives the trees. spaCy's
own benepar component is left out: it parses a document at a time, and here all sentences go through one batch. This is
the only file that imports spaCy.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from contextcir.phrases.chart_parser import load_parser

VERSION = 2  # of the rules in this file; part of the fingerprint: results cached under older rules are not used again

MAX_SENTENCE_WORDS = 80  # longer sentences are cut: the chart is quadratic in the words, the decoding cubic
MAX_WORD_CHARACTERS = 40  # what the parser reads of a word; the span keeps all of it
# Left out: spaCy refuses lone surrogates, and its tokenizer is quadratic in text without a space.
NO_WORD = re.compile("[\ud800-\udfff]|\\S{500,}")
TEXTS_PER_PASS = 2000

# What names nothing that an image could show: pronouns and existential "there", alone or together ("the other one"),
PRONOUNS = frozenset(
    """a an the i me you he him she her it we us they them myself yourself himself herself itself ourselves themselves
    mine yours his hers ours theirs this that these those who whom whose which what whatever there here something
    anything nothing everything someone anyone everyone somebody anybody nobody everybody none one another other others
    each either neither both all some any many few more most less much else same""".split()
)
# and adverbs that parsers take for nouns when they stand alone ("facing left", but "the left" is a place).
ADVERBS = frozenset(
    """left right instead now then away also too not up down out off only outside inside together apart again must
    should would could can will""".split()
)
POSSESSIVES = frozenset(["'s", "’s", "'", "’", "´s", "`s"])
# benepar's own normalisation of words, which its released parsers were trained with
PLAIN_QUOTES = {
    "`": "'",
    "«": '"',
    "»": '"',
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "‹": "'",
    "›": "'",
    "—": "--",
}
PLAIN_QUOTES |= {"’s": "'s", "n’t": "n't"}


class _Sentence:
    """Up to `MAX_SENTENCE_WORDS` spaCy tokens of one text, with the attributes that benepar reads of a sentence."""

    tree = None

    def __init__(self, tokens):
        self.tokens = tokens
        self.words = [PLAIN_QUOTES.get(token.text, token.text)[:MAX_WORD_CHARACTERS] for token in tokens]
        self.space_after = [bool(token.whitespace_) for token in tokens]

    def leaves(self):
        return self.words

    def pos(self):
        return [(word, "UNK") for word in self.words]


class NounPhraseExtractor:
    """Finds the noun phrases of texts.

    Args:
        parser (`str`, *optional*):
            A benepar name or path, see [`~contextcir.phrases.chart_parser.load_parser`]; by default the shipped one.
        max_phrases (`int`, *optional*, defaults to 10):
            Keep the first so many in breadth-first order (the paper's value).
        leaf_only (`bool`, *optional*, defaults to `False`):
            Keep only noun phrases without a noun phrase inside (the paper's ablation).

    Attributes:
        fingerprint (`str`): Changes with the parser's weights, the options and the rules: a key for caches.

    Example:

    ```python
    >>> NounPhraseExtractor().extract(["Remove the greenery in the background."])
    [[{'text': 'the greenery in the background', 'start': 7, 'end': 37}, ...]]
    ```
    """

    def __init__(self, parser=None, *, max_phrases=10, leaf_only=False):
        if max_phrases < 1:
            raise ValueError(f"max_phrases must be at least 1, got {max_phrases}.")
        self.max_phrases, self.leaf_only = max_phrases, leaf_only
        self.parser = load_parser(parser)
        self._labels = {index: label for label, index in self.parser.label_vocab.items()}

        import spacy

        self._tokenize = spacy.blank("en").tokenizer
        self._sentencizer = spacy.blank("en").add_pipe("sentencizer")
        digest = hashlib.sha256(repr((VERSION, max_phrases, leaf_only)).encode())
        for name, tensor in sorted(self.parser.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:32]

    def extract(self, texts: Sequence[str]) -> list[list[dict]]:
        """The noun phrases of each text.

        Args:
            texts (`Sequence[str]`):
                Any Unicode; empty texts and texts without a phrase are normal and give an empty list.

        Returns:
            `list[list[dict]]`: For each text at most `max_phrases` of `{"text", "start", "end"}`, breadth-first over
            its trees (at the same depth from left to right), where `text == texts[i][start:end]`. No span occurs
            twice.

        Raises:
            TypeError: A text is no string (which one), or `texts` is a single string.
        """
        self._check(texts)
        found = [[] for _ in texts]  # of (depth, start, -end)
        for index, sentence, output in self._parse(texts):
            found[index] += self._spans(texts[index], sentence, output)
        phrases = []
        for text, spans in zip(texts, found, strict=True):
            spans = [(start, -negative_end) for _, start, negative_end in sorted(spans)]
            spans = list(dict.fromkeys(spans))
            if self.leaf_only:
                spans = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
            phrases.append([{"text": text[s:e], "start": s, "end": e} for s, e in spans[: self.max_phrases]])
        return phrases

    def parse(self, texts: Sequence[str]) -> list[list]:
        """The constituency trees of each text (`nltk.Tree`, one for each sentence), to look at."""
        self._check(texts)
        trees = [[] for _ in texts]
        for index, sentence, output in self._parse(texts):
            trees[index].append(output.to_tree(sentence.pos(), self._labels, self.parser.tag_from_index))
        return trees

    def _check(self, texts):
        if isinstance(texts, str):
            raise TypeError("Expected a sequence of texts, got one text; put it into a list.")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"Text {index} is no string but {type(text).__name__}: {text!r}.")

    def _parse(self, texts):
        """Yields `(index of the text, sentence, benepar's compressed output)`, for all texts in few batches."""
        for first in range(0, len(texts), TEXTS_PER_PASS):
            chunk = texts[first : first + TEXTS_PER_PASS]
            numbered = [(first + i, sentence) for i, text in enumerate(chunk) for sentence in self._sentences(text)]
            sentences = [sentence for _, sentence in numbered]
            outputs = self.parser.parse(sentences, return_compressed=True, subbatch_max_tokens=2000)
            yield from ((index, sentence, output) for (index, sentence), output in zip(numbered, outputs, strict=True))

    def _sentences(self, text):
        """Cuts a text into sentences at full stops and line breaks, and long sentences at their punctuation."""
        words = []
        text = NO_WORD.sub(lambda match: " " * len(match.group()), text)  # all other characters keep their places
        for token in self._sentencizer(self._tokenize(text)):
            if words and (token.is_sent_start or "\n" in token.text):
                yield _Sentence(words)
                words = []
            if token.is_space:  # benepar cannot take tokens of white space (its issue 16)
                continue
            if len(words) == MAX_SENTENCE_WORDS:
                cut = max((i + 1 for i, word in enumerate(words) if word.is_punct), default=len(words))
                yield _Sentence(words[:cut])
                words = words[cut:]
            words.append(token)
        if words:
            yield _Sentence(words)

    def _spans(self, text, sentence, output):
        """Yields `(depth, start, -end)` of the noun phrases of one sentence."""
        ends = []  # of the constituents around this one, with their depths
        for start, end, label in zip(
            output.starts.tolist(), output.ends.tolist(), output.labels.tolist(), strict=True
        ):
            while ends and ends[-1][0] <= start:
                ends.pop()
            depth = ends[-1][1] if ends else 0
            for label_of_chain in self._labels[label].split("::") if label else ():
                depth += 1
                if label_of_chain == "NP":
                    span = _trim(text, sentence.tokens[start:end])
                    if span:
                        yield depth, span[0], -span[1]
            ends.append((end, depth))


def _trim(text, tokens):
    """Character span of a phrase without punctuation, space and possessive at its ends; `None` if it is no concept."""
    if tokens[-1].lower_ in POSSESSIVES:
        tokens = tokens[:-1]
    if not tokens:
        return None
    start, end = tokens[0].idx, tokens[-1].idx + len(tokens[-1])
    while start < end and not _is_content(text[start]):
        start += 1
    while start < end and not _is_content(text[end - 1]):
        end -= 1
    return (start, end) if is_concept(text[start:end]) else None


def is_concept(phrase):
    """Whether a phrase may name something: neither pronouns only, nor one adverb, nor without letters and digits."""
    words = phrase.lower().split()
    if all(word in PRONOUNS for word in words) or (len(words) == 1 and words[0] in ADVERBS):
        return False
    return any(character.isalnum() for character in phrase)


def _is_content(character):
    """Letters, digits, symbols and marks that belong to a letter; not punctuation, space or control characters."""
    return unicodedata.category(character)[0] in "LNSM" or character in "#%&"
