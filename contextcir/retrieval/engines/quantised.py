"""Exact search's small sisters: one byte, or one bit, for each dimension, and the true scores of the best.

The codes are made from the rows of a gallery, with ranges that are measured on it. They are all that a search reads of
every row. The best of them are then scored with their true rows.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from contextcir.retrieval.engines.base import CANDIDATES, Facts, Found, best_first
from contextcir.retrieval.engines.exact import ExactIndex, State
from contextcir.retrieval.filters import Where
from contextcir.retrieval.index import PIECE, Rows, gather, search, similarity
from contextcir.retrieval.store.files import to_json, write_whole

LEVELS = 255
PLACES = 2 ** torch.arange(8, dtype=torch.uint8)  # of the bits of a byte
# Byte -> its eight bits as -1 or 1, lowest bit first, packed in one number: (256,), int64
SIGNS = ((torch.arange(256, dtype=torch.uint8)[:, None] & PLACES > 0).to(torch.int8) * 2 - 1).view(torch.int64)[:, 0]


class Codes(Protocol):
    """
    Rows in few bits. A row is a linear function of its code, so that queries are changed instead of rows: the score of
    a row is the dot product of [`Codes.prepare`]d query and code.

    Attributes:
        shape (`tuple[int, int]`): Number of rows, and one dimension more than theirs, a constant.
        tensors (`dict[str, torch.Tensor]`): What they consist of.
    """

    tensors: dict[str, torch.Tensor]
    shape: tuple[int, int]
    ndim: int

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> torch.Tensor: ...

    def gather(self, places: torch.Tensor, /) -> torch.Tensor: ...

    def prepare(self, queries: torch.Tensor) -> torch.Tensor:
        """Queries, `(..., dim)`, to be compared with codes: `(..., dim + 1)`."""
        ...


class Int8Codes:
    """
    One byte for each dimension: a place in the range of that dimension.

    Args:
        codes (`torch.Tensor` of shape `(rows, dim)`): uint8.
        low (`torch.Tensor` of shape `(dim,)`): Lowest value of each dimension, code 0.
        step (`torch.Tensor` of shape `(dim,)`): Difference from one code to the next.
    """

    ndim = 2

    def __init__(self, codes: torch.Tensor, low: torch.Tensor, step: torch.Tensor):
        self.codes, self.low, self.step = codes, low, step
        self.tensors = {"codes": codes, "low": low, "step": step}
        self.shape = (len(codes), len(low) + 1)

    @classmethod
    def make(cls, rows: Rows) -> "Int8Codes":
        """Measure the ranges of rows, `(rows, dim)`, and encode them. Reads them twice, a piece at a time."""
        low = torch.full((rows.shape[1],), torch.inf)
        high = -low
        for _, piece in _pieces(rows):
            low, high = torch.minimum(low, piece.amin(dim=0)), torch.maximum(high, piece.amax(dim=0))
        step = ((high - low) / LEVELS).clamp_min(torch.finfo().tiny)  # all rows may have the same value
        codes = torch.empty(len(rows), rows.shape[1], dtype=torch.uint8)
        for place, piece in _pieces(rows):
            codes[place] = ((piece - low) / step).round().clamp(0, LEVELS).to(torch.uint8)
        return cls(codes, low, step)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> torch.Tensor:
        return _with_constant(self.codes[rows], self.shape[1])

    def gather(self, places: torch.Tensor, /) -> torch.Tensor:
        """Codes at some places."""
        return _with_constant(self.codes[places], self.shape[1])

    def prepare(self, queries: torch.Tensor) -> torch.Tensor:
        """See [`Codes.prepare`]."""
        return torch.cat([queries * self.step, (queries * self.low).sum(dim=-1, keepdim=True)], dim=-1)


class BinaryCodes:
    """
    One bit for each dimension: whether it is above the mean of the gallery. It stands for the mean, plus or minus the
    mean deviation. The mean is far from zero in most galleries: the bare sign would say little.

    Args:
        bits (`torch.Tensor` of shape `(rows, ceil(dim / 8))`): uint8, lowest bit first.
        mean (`torch.Tensor` of shape `(dim,)`): Of each dimension.
        deviation (`torch.Tensor` of shape `(dim,)`): Mean distance from the mean.
    """

    ndim = 2

    def __init__(self, bits: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor):
        self.bits, self.mean, self.deviation = bits, mean, deviation
        self.tensors = {"bits": bits, "mean": mean, "deviation": deviation}
        self.shape = (len(bits), len(mean) + 1)

    @classmethod
    def make(cls, rows: Rows) -> "BinaryCodes":
        """Measure the means of rows, `(rows, dim)`, and encode them. Reads them three times, a piece at a time."""
        size, dim = len(rows), rows.shape[1]
        mean = sum((piece.sum(dim=0) for _, piece in _pieces(rows)), torch.zeros(dim)) / size
        deviation = sum(((piece - mean).abs().sum(dim=0) for _, piece in _pieces(rows)), torch.zeros(dim)) / size
        bits = torch.empty(size, -(-dim // 8), dtype=torch.uint8)
        for place, piece in _pieces(rows):
            above = torch.nn.functional.pad((piece > mean).to(torch.uint8), (0, -dim % 8))
            bits[place] = (above.unflatten(1, (-1, 8)) * PLACES).sum(dim=2, dtype=torch.uint8)
        return cls(bits, mean, deviation)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> torch.Tensor:
        return self._signs(self.bits[rows])

    def gather(self, places: torch.Tensor, /) -> torch.Tensor:
        """Codes at some places."""
        return self._signs(self.bits[places])

    def _signs(self, bits: torch.Tensor) -> torch.Tensor:
        return _with_constant(SIGNS[bits.int()].view(torch.int8)[..., : self.shape[1] - 1], self.shape[1])

    def prepare(self, queries: torch.Tensor) -> torch.Tensor:
        """See [`Codes.prepare`]."""
        return torch.cat([queries * self.deviation, (queries * self.mean).sum(dim=-1, keepdim=True)], dim=-1)


PRECISIONS: dict[str, tuple[type[Int8Codes] | type[BinaryCodes], int]] = {  # -> codes, candidates for each result
    "int8": (Int8Codes, 2),
    "binary": (BinaryCodes, 16),
}


class QuantisedIndex(ExactIndex):
    """
    Compare each query with the code of every row, and the best of them with their true rows.

    Args:
        precision (`str`): `int8` or `binary`.
        ids, rows, facts (*optional*): As for [`~contextcir.retrieval.engines.exact.ExactIndex`]. The rows stay where
            they are, such as on disk.
        rescore (`int`, *optional*): Candidates for each result: 2 for `int8`, 16 for `binary`. At least 100 in all.

    Whenever vectors are added or removed, all are encoded again: by [`QuantisedIndex.build`], or by the next search.
    """

    def __init__(
        self,
        precision: str,
        ids: Sequence[str] = (),
        rows: Rows | None = None,
        facts: Facts | None = None,
        *,
        rescore: int | None = None,
    ):
        if precision not in PRECISIONS or (rescore is not None and rescore < 1):
            raise ValueError(
                f"Got {precision!r} and rescore={rescore}, expected {' or '.join(PRECISIONS)}, at least 1."
            )
        super().__init__(ids, rows, facts)
        self.precision, self.rescore = precision, rescore or PRECISIONS[precision][1]
        self._coded: tuple[State | None, Codes | None] = None, None

    @property
    def engine(self) -> str:  # type: ignore[override]
        """`str`: The precision."""
        return self.precision

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        """See [`~contextcir.retrieval.engines.base.VectorIndex.settings`]."""
        return {"rescore": self.rescore}

    @property
    def exact(self) -> bool:
        """`bool`: `False`."""
        return False

    def size_in_bytes(self) -> int:
        """Bytes of the codes in memory; 0 before they are made."""
        codes = self._coded[1]
        return sum(tensor.nbytes for tensor in codes.tensors.values()) if codes else 0

    def build(self) -> None:
        """Encode the rows, unless they are."""
        if len(self):
            self._codes(self.state)

    def search(self, queries: torch.Tensor, k: int, where: Where = ()) -> Found:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.search`], with scores by the true rows. Queries may
        have parts, `(num_queries, parts, dim)`, see [`~contextcir.retrieval.index.similarity`]."""
        state = self.state
        if k < 1:
            raise ValueError(f"Got k={k}, expected at least 1.")
        allowed = state.matching(where)
        if state.rows is None or not state.ids:
            return [[] for _ in queries]
        if queries.shape[-1] != state.rows.shape[1]:
            raise ValueError(f"Got queries of shape {tuple(queries.shape)}, expected dimension {state.rows.shape[1]}.")
        codes, candidates = self._codes(state), max(k * self.rescore, CANDIDATES)
        _, places = search(codes.prepare(queries.float()), codes, candidates, allowed=allowed)
        found = []
        for query, some in zip(queries.float(), places, strict=True):
            some = some[some >= 0]
            scores = similarity(query[None], gather(state.rows, some))[0]
            ids = [state.ids[place] for place in some.tolist()]
            found.append(best_first(zip(ids, scores.tolist(), strict=True), k))
        return found

    def _codes(self, state: State) -> Codes:
        coded, codes = self._coded
        if coded is not state or codes is None:
            assert state.rows is not None
            codes = PRECISIONS[self.precision][0].make(state.rows)
            self._coded = state, codes
        return codes

    def save(self, path: Path, content: str) -> None:
        """
        Write the codes, whole or not at all.

        Args:
            path (`Path`): The file, in safetensors.
            content (`str`): What they were made from, such as the digest of a gallery.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self._codes(self.state).tensors.items()}
        header = {"content": content, "precision": self.precision}
        write_whole(path, save(tensors, metadata={"codes": to_json(header).decode()}))

    def load(self, path: Path, content: str) -> None:
        """Map codes into memory. Raises a `ValueError` if they are missing or damaged, or were not made from
        `content`."""
        try:
            with safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["codes"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}). Build the index again.") from error
        kind, rows = PRECISIONS[self.precision][0], self.state.rows
        if rows is None or not len(rows) or header != {"content": content, "precision": self.precision}:
            raise ValueError(f"{path} was not made from the rows that are there. Build the index again.")
        like = kind.make(torch.as_tensor(rows[0:1])).tensors
        wanted = {name: ((len(rows),) * (one.ndim - 1) + one.shape[-1:], one.dtype) for name, one in like.items()}
        if {name: (tuple(one.shape), one.dtype) for name, one in tensors.items()} != wanted:
            raise ValueError(f"{path} holds other tensors than expected. Build the index again.")
        self._coded = self.state, kind(**tensors)


def _pieces(rows: Rows) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, len(rows), PIECE):
        place = slice(start, min(start + PIECE, len(rows)))
        yield place, torch.as_tensor(rows[place]).float()


def _with_constant(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Codes in float32, and a last dimension of ones, which the constant of a query is multiplied with."""
    found = torch.empty(*codes.shape[:-1], width)
    found[..., :-1], found[..., -1] = codes, 1
    return found
