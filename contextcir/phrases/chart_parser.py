"""The constituency parser for noun phrases: benepar's chart parser (Kitaev and Klein, 2018), in a compact form.

The shipped parser in `contextcir/phrases/parser/` (trained by `research/train_parser.py`) reads characters and
needs no pretrained language model. Released benepar models work as well. Only this file imports benepar.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

DEFAULT_PARSER = Path(__file__).parent / "parser" / "parser.pt"


class BiLSTMEncoder(nn.Module):
    """
    Bidirectional LSTM in place of benepar's transformer. It learns more from scratch on a few thousand trees.

    Args:
        d_model (`int`): Input and output width. Each direction gives half of the output.
        num_layers (`int`): Number of bidirectional layers.
        dropout (`float`): Share of features dropped between the layers, the same for all words of a sentence.
    """

    def __init__(self, d_model: int, num_layers: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.LSTM(d_model, d_model // 2, bidirectional=True, batch_first=True) for _ in range(num_layers)
        )
        self.dropout = dropout

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode `x` (`(batch_size, num_words, d_model)`) where `mask` (`(batch_size, num_words)`, bool) is set."""
        lengths = mask.sum(-1).cpu()
        for layer in self.layers:
            packed = nn.utils.rnn.pack_padded_sequence(self._drop(x), lengths, batch_first=True, enforce_sorted=False)
            x, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=mask.shape[1])
        # benepar reads the even features at the word before a boundary and the odd ones at the word after it
        return self._drop(x).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        keep = x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(1 - self.dropout)
        return x * keep / (1 - self.dropout)


def _import_benepar() -> tuple[type[nn.Module], type]:
    try:
        import torch_struct
        from benepar import nkutil, parse_chart
    except ImportError as error:
        raise ImportError(f"Noun phrases need spaCy and benepar ({error}): pip install contextcir[parse]") from error
    torch_struct.TreeCRF.arg_constraints = {}  # without this, torch warns about benepar's decoder
    return parse_chart.ChartParser, nkutil.HParams


@cache
def _compact_parser_class() -> type[nn.Module]:
    parser_class: Any = _import_benepar()[0]

    class CompactParser(parser_class):
        """
        benepar's character parser with equal scores in a third of the time.

        Each distinct word of a batch is encoded once. Only valid spans are scored (no padding, no `end < start`). The
        first linear layer of the label scorer is applied to the boundaries between words, not to their differences.
        """

        def encode(self, example):
            return {"words": example.words, "valid_token_mask": [True] * (len(example.words) + 2)}

        def pad_encoded(self, encoded_batch):
            sentences = [encoded["words"] for encoded in encoded_batch]
            distinct = {word: i for i, word in enumerate(dict.fromkeys(chain.from_iterable(sentences)), start=1)}
            chars = self.retokenizer.pad([self.retokenizer(list(distinct), return_tensors="np")], return_tensors="pt")
            rows = [torch.tensor([0, *map(distinct.get, words), len(distinct) + 1]) for words in sentences]
            ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
            return {"distinct_words": chars, "word_ids": ids, "valid_token_mask": ids >= 0}

        def read(self, batch):
            """
            Compute word boundaries, `(batch_size, num_words + 1, d_label_hidden)`, and tag scores, `(batch_size,
            num_words + 2, num_tags)`. For tags, the start and stop of a sentence count as words.
            """
            mask, distinct = batch["valid_token_mask"], batch["distinct_words"]
            # start, the words, stop
            vectors = self.char_encoder(distinct["char_ids"], distinct["valid_token_mask"])[0]
            words = vectors[batch["word_ids"]] * mask[..., None]  # (batch_size, num_words + 2, d_model / 2)
            words = self.encoder(self.add_timing(self.morpho_emb_dropout(words)), mask)
            words = torch.cat([words[..., 0::2], words[..., 1::2]], -1)  # (batch_size, num_words + 2, d_model)
            half = self.d_model // 2
            boundaries = torch.cat([words[:, :-1, :half], words[:, 1:, half:]], -1)
            return nn.functional.linear(boundaries, self.f_label[0].weight), self.f_tag(words)

        def score(self, boundaries, row, start, end):
            """
            Compute label scores, `(num_spans, num_labels)`, of the spans from word `start` to word `end` (inclusive)
            of the sentences `row`. The first label, "no constituent", scores 0.
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


def new_parser(
    tag_vocab: Mapping[str, int],
    label_vocab: Mapping[str, int],
    char_vocab: Mapping[str, int] | None,
    hparams: Mapping[str, Any],
    **kwargs: Any,
) -> Any:
    """Return a benepar `ChartParser` with random weights. `hparams["encoder"] == "bilstm"` replaces its
    transformer."""
    parser_class, hparams_class = _import_benepar()
    if hparams["use_chars_lstm"]:
        parser_class = _compact_parser_class()
    parser = parser_class(tag_vocab, label_vocab, char_vocab, hparams_class(**hparams), **kwargs)
    if hparams.get("encoder") == "bilstm":
        parser.encoder = BiLSTMEncoder(hparams["d_model"], hparams["num_layers"], hparams["residual_dropout"])
    return parser


def piece_limit(parser: Any) -> int | None:
    """Return the most sub-words of a sentence that a parser with a pretrained encoder reads, such as 512. Others have
    no limit."""
    if parser.char_encoder is not None or not hasattr(parser.retokenizer, "tokenizer"):
        return None
    return int(parser.retokenizer.tokenizer.model_max_length)


def save_parser(parser: Any, path: str | os.PathLike) -> None:
    """Write a parser without pretrained encoder to one file, in half precision."""
    state = {name: tensor.half() for name, tensor in parser.state_dict().items()}
    torch.save({"config": parser.config, "state_dict": state}, path)


@contextmanager
def _special_tokens_shim() -> Iterator[None]:
    """
    Let benepar 0.2 load its released models (T5, BERT) under transformers 5.

    benepar calls `tokenizer.build_inputs_with_special_tokens([-100])` once, to find the places of the special tokens.
    transformers 5 has removed that method (https://github.com/nikitakit/self-attentive-parser/issues/111, open; the
    last release of benepar is from 2021). It is rebuilt here from the special tokens around an encoded word.
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


def load_parser(name_or_path: str | os.PathLike | None = None) -> Any:
    """
    Load a benepar parser.

    Args:
        name_or_path (`str` or `os.PathLike`, *optional*): Name of a downloaded benepar model (`"benepar_en3"`), the
            folder of a released model, or a file of [`save_parser`]. By default the shipped parser.

    Returns:
        `benepar.parse_chart.ChartParser`: In evaluation mode and float32.

    Raises:
        `FileNotFoundError`: There is no such file, folder or downloaded benepar model.
        `ValueError`: The file holds no parser, or weights that are not finite.
    """
    _import_benepar()
    path = _locate(DEFAULT_PARSER if name_or_path is None else name_or_path)
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
            f"{path} is not a benepar parser: expected a configuration with label_vocab and hparams, and weights."
        )
    hparams = {"force_root_constituent": True} | config["hparams"]
    with _special_tokens_shim():
        parser = new_parser(config["tag_vocab"], config["label_vocab"], config["char_vocab"], hparams, **pretrained)
    # BERT-based releases hold buffers named position_ids, which transformers has removed
    state = {name: tensor.float() for name, tensor in state.items() if not name.endswith("position_ids")}
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ValueError(f"{path} holds weights that are not finite; train or download it again.")
    parser.load_state_dict(state)
    return parser.eval()


def _locate(name_or_path: str | os.PathLike) -> Path:
    path = Path(name_or_path)
    if path.exists():
        return path
    from benepar.integrations.downloader import locate_model

    try:
        return Path(locate_model(str(name_or_path)))
    except LookupError as error:
        raise FileNotFoundError(
            f"There is no file or folder {str(name_or_path)!r}, and no downloaded benepar model of that name. Check"
            f" the path, or call benepar.download({str(name_or_path)!r})."
        ) from error
