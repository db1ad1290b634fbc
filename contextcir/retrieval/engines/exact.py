"""Exact search over rows in memory or of a stored gallery. The default up to about a million images."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch

from contextcir.retrieval.engines.base import Found, check_vectors
from contextcir.retrieval.filters import Where, matches
from contextcir.retrieval.index import Rows, search


class ExactIndex:
    """
    Compare each query with every row.

    Args:
        ids (`Sequence[str]`, *optional*): Ids of the first rows.
        rows (*optional*): Their vectors, `(len(ids), dim)`: a tensor, or the rows of a stored gallery, which are read
            a piece at a time.
        facts (`Mapping[str, Sequence]`, *optional*): Column -> one value for each id.
    """

    exact = True

    def __init__(
        self, ids: Sequence[str] = (), rows: Rows | None = None, facts: Mapping[str, Sequence[Any]] | None = None
    ):
        self.ids, self.rows = list(ids), rows
        self.facts: dict[str, list[Any]] = {name: list(values) for name, values in (facts or {}).items()}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str], vectors: torch.Tensor, facts: Mapping[str, Sequence[Any]] | None = None) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.add`]."""
        check_vectors(ids, vectors, self.rows.shape[1] if self.rows is not None and len(self) else None)
        with self._lock:
            self._leave_out(set(ids))
            before = len(self.ids)
            kept = vectors.new_empty(0, vectors.shape[1]) if self.rows is None else self.rows[0:before]
            columns = {*self.facts, *(facts or {})}
            for name in columns:
                old = self.facts.get(name) or [None] * before
                self.facts[name] = [*old, *((facts or {}).get(name) or [None] * len(ids))]
            self.ids, self.rows = [*self.ids, *ids], torch.cat([torch.as_tensor(kept), vectors])

    def remove(self, ids: Sequence[str]) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.remove`]."""
        with self._lock:
            if missing := set(ids) - set(self.ids):
                raise ValueError(f"There is no vector {sorted(missing)[0]!r}.")
            self._leave_out(set(ids))

    def _leave_out(self, ids: set[str]) -> None:
        if self.rows is None or ids.isdisjoint(self.ids):
            return
        left = [row for row, id_ in enumerate(self.ids) if id_ not in ids]
        self.facts = {name: [values[row] for row in left] for name, values in self.facts.items()}
        self.rows = torch.as_tensor(self.rows[0 : len(self.ids)])[left]
        self.ids = [self.ids[row] for row in left]

    def build(self) -> None:
        """Nothing to do."""

    def search(self, queries: torch.Tensor, k: int, where: Where = ()) -> Found:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.search`]. Queries may have parts, `(num_queries, parts,
        dim)`, see [`~contextcir.retrieval.index.similarity`]."""
        with self._lock:
            ids, rows, facts = self.ids, self.rows, self.facts
        if k < 1:
            raise ValueError(f"Got k={k}, expected at least 1.")
        allowed = matches(facts, where, len(ids)) if where else None
        if rows is None or not ids:
            return [[] for _ in queries]
        scores, places = search(queries, rows, k, allowed=allowed)
        return [
            [(ids[place], score) for place, score in zip(some, values, strict=True) if place >= 0]
            for some, values in zip(places.tolist(), scores.tolist(), strict=True)
        ]

    def close(self) -> None:
        """Nothing to do."""
