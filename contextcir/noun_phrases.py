"""The concepts of a modification text: its noun phrases, as exact character spans.

ConText-CIR (section 3) takes at most ten noun phrases from the constituency tree of a text, breadth-first,
so that a phrase ("the dog on the left of the red box") comes before the phrases inside it ("the dog", "the red box").
Here spaCy cuts the text into words and sentences and a benepar chart parser (Kitaev and Klein, 2018) gives the trees.
This is the only file that imports either of them.

By default the parser is the compact one in `contextcir/parser/` (trained by `datasets_scripts/train_parser.py`); any
released benepar model works as well. spaCy's own benepar component is left out: it parses a document at a time, and
here all sentences go through one batch.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from torch import nn

DEFAULT_PARSER = Path(__file__).parent / "parser" / "parser.pt"
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


class BiLSTMEncoder(nn.Module):
    """Stands in for benepar's transformer: trained from scratch on a few thousand trees, recurrence learns more.

    Args:
        d_model (`int`): Input and output width; each direction gets half of the output.
        num_layers (`int`): Number of bidirectional layers.
        dropout (`float`): Share of the features dropped between the layers, the same ones at each word of a sentence.
    """

    def __init__(self, d_model, num_layers, dropout):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.LSTM(d_model, d_model // 2, bidirectional=True, batch_first=True) for _ in range(num_layers)
        )
        self.dropout = dropout

    def forward(self, x, mask):
        """Encode `x` (`(batch_size, num_words, d_model)`) where `mask` (`(batch_size, num_words)`, bool) is set."""
        lengths = mask.sum(-1).cpu()
        for layer in self.layers:
            packed = nn.utils.rnn.pack_padded_sequence(self._drop(x), lengths, batch_first=True, enforce_sorted=False)
            x, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=mask.shape[1])
        # benepar reads the even features at the word before a boundary and the odd ones at the word after it
        return self._drop(x).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)

    def _drop(self, x):
        if not self.training:
            return x
        keep = x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(1 - self.dropout)
        return x * keep / (1 - self.dropout)


def _import_benepar():
    try:
        import benepar  # noqa: F401  (first: it registers itself with spaCy)
        import spacy  # noqa: F401
        import torch_struct
        from benepar import nkutil, parse_chart
    except ImportError as error:
        raise ImportError(f"Noun phrases need spaCy and benepar ({error}): pip install contextcir[parse]") from error
    torch_struct.TreeCRF.arg_constraints = {}  # else torch warns about benepar's decoder, once a process
    return parse_chart.ChartParser, nkutil.HParams


@cache
def _compact_parser_class():
    chart_parser, _ = _import_benepar()

    class CompactParser(chart_parser):
        """benepar's character parser with the same scores for a third of the work.

        Every distinct word of a batch is read once, only real spans are scored (no padding, no `end < start`), and
        the first linear layer of the label scorer is applied to the boundaries between words instead of to their
        differences.
        """

        def encode(self, example):
            return {"words": example.words, "valid_token_mask": [True] * (len(example.words) + 2)}

        def pad_encoded(self, encoded_batch):
            sentences = [encoded["words"] for encoded in encoded_batch]
            distinct = {word: i for i, word in enumerate(dict.fromkeys(chain.from_iterable(sentences)), start=1)}
            chars = self.retokenizer.pad([self.retokenizer(list(distinct), return_tensors="np")], return_tensors="pt")
            ids = [torch.tensor([0, *map(distinct.get, words), len(distinct) + 1]) for words in sentences]
            ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)
            return {"distinct_words": chars, "word_ids": ids, "valid_token_mask": ids >= 0}

        def read(self, batch):
            """Word boundaries `(batch_size, num_words + 1, d_label_hidden)` and tag scores.

            Tag scores are `(batch_size, num_words + 2, num_tags)`: sentence start and stop count as words.
            """
            mask, distinct = batch["valid_token_mask"], batch["distinct_words"]
            vectors = self.char_encoder(distinct["char_ids"], distinct["valid_token_mask"])[
                0
            ]  # start, the words, stop
            words = vectors[batch["word_ids"]] * mask[..., None]  # (batch_size, num_words + 2, d_model / 2)
            words = self.encoder(self.add_timing(self.morpho_emb_dropout(words)), mask)
            words = torch.cat([words[..., 0::2], words[..., 1::2]], -1)  # (batch_size, num_words + 2, d_model)
            half = self.d_model // 2
            boundaries = torch.cat([words[:, :-1, :half], words[:, 1:, half:]], -1)
            return nn.functional.linear(boundaries, self.f_label[0].weight), self.f_tag(words)

        def score(self, boundaries, row, start, end):
            """Label scores `(num_spans, num_labels)` of the spans from word `start` to word `end`, both included.

            The first label, "no constituent", scores 0.
            """
            row = row * boundaries.shape[1]
            boundaries = boundaries.flatten(0, 1)
            hidden = boundaries.index_select(0, row + end + 1) - boundaries.index_select(0, row + start)
            hidden = hidden + self.f_label[0].bias
            for layer in self.f_label[1:]:
                hidden = layer(hidden)
            return nn.functional.pad(hidden, (1, 0))

        def forward(self, batch):
            boundaries, tag_scores = self.read(batch)
            real = batch["valid_token_mask"][:, 2:]  # (batch_size, num_words)
            spans = (real[:, None] & real[:, :, None]).triu()
            scores = self.score(boundaries, *spans.nonzero(as_tuple=True))
            span_scores = scores.new_zeros(*spans.shape, scores.shape[-1])
            span_scores[spans] = scores
            return span_scores, tag_scores

    return CompactParser


def new_parser(tag_vocab, label_vocab, char_vocab, hparams, **kwargs):
    """A benepar `ChartParser` with random weights; `hparams["encoder"] == "bilstm"` replaces its transformer."""
    chart_parser, hparams_class = _import_benepar()
    if hparams["use_chars_lstm"]:
        chart_parser = _compact_parser_class()
    parser = chart_parser(tag_vocab, label_vocab, char_vocab, hparams_class(**hparams), **kwargs)
    if hparams.get("encoder") == "bilstm":
        parser.encoder = BiLSTMEncoder(hparams["d_model"], hparams["num_layers"], hparams["residual_dropout"])
    return parser


def save_parser(parser, path):
    """Write a parser without pretrained encoder as one file, in half precision."""
    state = {name: tensor.half() for name, tensor in parser.state_dict().items()}
    torch.save({"config": parser.config, "state_dict": state}, path)


@contextmanager
def _special_tokens_shim():
    """Lets benepar 0.2 load its released models (T5, BERT) under transformers 5.

    benepar calls `tokenizer.build_inputs_with_special_tokens([-100])` once, to see where the special tokens go;
    transformers 5 has no such method any more (https://github.com/nikitakit/self-attentive-parser/issues/111, open;
    benepar's last release is of 2021). Here it is rebuilt from an encoded word: what stands before it and after it.
    """
    from transformers import PreTrainedTokenizerBase

    def build_inputs_with_special_tokens(self, token_ids):
        encoded = self("a", return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        prefix, suffix = special.index(0), special[::-1].index(0)
        return ids[:prefix] + list(token_ids) + ids[len(ids) - suffix :]

    missing = not hasattr(PreTrainedTokenizerBase, "build_inputs_with_special_tokens")
    if missing:
        PreTrainedTokenizerBase.build_inputs_with_special_tokens = build_inputs_with_special_tokens
    try:
        yield
    finally:
        if missing:
            del PreTrainedTokenizerBase.build_inputs_with_special_tokens


def load_parser(name_or_path=None):
    """Load a benepar parser.

    Args:
        name_or_path (`str` or `os.PathLike`, *optional*): A benepar name (`"benepar_en3"`, when downloaded), a
        released model's folder, or a
            file written by `save_parser`. The parser that ships with the package by default.

    Returns:
        `benepar.parse_chart.ChartParser`: In evaluation mode, in float32.

    Raises:
        FileNotFoundError: There is no such file, folder or downloaded benepar model.
        ValueError: The file holds no parser, or weights that are not finite.
    """
    _import_benepar()
    path = _locate(name_or_path)
    pretrained = {}
    if path.is_dir():
        from transformers import AutoConfig

        config = getattr(AutoConfig.from_pretrained(path), "benepar", None)
        state = torch.load(path / "benepar_model.bin", map_location="cpu", weights_only=True)
        pretrained = {"pretrained_model_path": str(path)}
    else:
        data = torch.load(path, map_location="cpu", weights_only=True)
        config, state = (data.get("config"), data.get("state_dict")) if isinstance(data, dict) else (None, None)
    if not config or not state:
        raise ValueError(
            f"{path} is no benepar parser: expected a configuration with label_vocab and hparams, and weights."
        )
    hparams = {"force_root_constituent": True} | config["hparams"]
    with _special_tokens_shim():
        parser = new_parser(config["tag_vocab"], config["label_vocab"], config["char_vocab"], hparams, **pretrained)
    # position_ids: buffers that BERT-based releases still hold and transformers no longer has
    state = {name: tensor.float() for name, tensor in state.items() if not name.endswith("position_ids")}
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ValueError(f"{path} holds weights that are not finite; train or download it again.")
    parser.load_state_dict(state)
    return parser.eval()


def _locate(name_or_path):
    path = Path(DEFAULT_PARSER if name_or_path is None else name_or_path)
    if path.exists():
        return path
    from benepar.integrations.downloader import locate_model

    try:
        return Path(locate_model(str(name_or_path)))
    except LookupError as error:
        raise FileNotFoundError(
            f"No benepar parser {str(name_or_path)!r}: no such file or folder, and no benepar model of that name is "
            f"installed; benepar.download({str(name_or_path)!r}) gets released ones."
        ) from error


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
        parser (`str`, *optional*): A benepar name or path, see `load_parser`; the shipped parser by default.
        max_phrases (`int`, *optional*, defaults to 10): Keep the first so many in breadth-first order (the paper's
        value). leaf_only (`bool`, *optional*, defaults to `False`): Keep only noun phrases without a noun phrase
        inside (the paper's ablation).

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
            texts (`Sequence[str]`): Any Unicode; empty texts and texts without a phrase are normal and give an empty
            list.

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
