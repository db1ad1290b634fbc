"""Exact search over rows in memory or of a stored gallery. The default up to about a million images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch

from contextcir.retrieval.engines.base import Facts, Found, check_facts, check_vectors, row_digests
from contextcir.retrieval.filters import Where, matches
from contextcir.retrieval.index import PIECE, Rows, gather, search

REMEMBERED = 16  # filters whose rows are kept: one that was used is likely to be used again


@dataclass(frozen=True)
class State:
    """
    What an index holds. It is replaced whole, so that a search sees one state.

    Args:
        ids (`list[str]`): Unique.
        rows (*optional*): Their vectors, `(len(ids), dim)`; `None` if nothing has been added.
        facts (`dict[str, list]`): Column -> one value for each id.
    """

    ids: list[str]
    rows: Rows | None
    facts: Mapping[str, Sequence[Any]]
    allowed: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def matching(self, where: Where) -> torch.Tensor | None:
        """The rows that fulfil conditions, `(len(ids),)` bool; `None` without conditions."""
        if not where:
            return None
        key = tuple(where)
        if (known := self.allowed.get(key)) is None:
            known = matches(self.facts, where, len(self.ids))
            if len(self.allowed) >= REMEMBERED:
                self.allowed.clear()
            self.allowed[key] = known
        return known


class ExactIndex:
    """
    Compare each query with every row.

    Args:
        ids (`Sequence[str]`, *optional*): Ids of the first rows.
        rows (*optional*): Their vectors, `(len(ids), dim)`: a tensor, or the rows of a stored gallery, which are read
            a piece at a time.
        facts (`Mapping[str, Sequence]`, *optional*): Column -> one value for each id.
    """

    engine = "exact"
    settings: dict[str, Any] = {}  # nothing is to be opened again

    def __init__(self, ids: Sequence[str] = (), rows: Rows | None = None, facts: Facts | None = None):
        self.state = State(list(ids), rows, facts or {})
        self._lock = Lock()

    @property
    def exact(self) -> bool:
        """`bool`: `True`."""
        return True

    def __len__(self) -> int:
        return len(self.state.ids)

    def size_in_bytes(self) -> int:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.size_in_bytes`]. Rows of a gallery are on disk."""
        rows = self.state.rows
        return 0 if rows is None else len(rows) * rows[0:1].nbytes

    def digests(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.digests`]."""
        state, found, wanted = self.state, dict[str, str](), None if ids is None else set(ids)
        places = [place for place, id_ in enumerate(state.ids) if wanted is None or id_ in wanted]
        for start in range(0, len(places), PIECE):
            assert state.rows is not None
            some = places[start : start + PIECE]
            own = [state.ids[place] for place in some]
            facts = check_facts(own, {name: [values[place] for place in some] for name, values in state.facts.items()})
            found.update(zip(own, row_digests(gather(state.rows, torch.tensor(some)), facts), strict=True))
        return found

    def add(self, ids: Sequence[str], vectors: torch.Tensor, facts: Facts | None = None) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.add`]."""
        given = check_facts(ids, facts)
        with self._lock:
            rows = self.state.rows
            check_vectors(ids, vectors, None if rows is None else rows.shape[1])
            if not len(ids):
                return
            old = self._without(set(ids))
            before = vectors.new_empty(0, vectors.shape[1]) if old.rows is None else _whole(old.rows)
            both = {
                column: [*old.facts.get(column, [None] * len(old.ids)), *given.get(column, [None] * len(ids))]
                for column in {**old.facts, **given}
            }
            self.state = State([*old.ids, *ids], torch.cat([before, vectors]), both)

    def remove(self, ids: Sequence[str]) -> None:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.remove`]."""
        with self._lock:
            if missing := set(ids).difference(self.state.ids):
                raise ValueError(f"There is no vector {min(missing)!r}.")
            self.state = self._without(set(ids))

    def _without(self, ids: set[str]) -> State:
        state = self.state
        if state.rows is None or ids.isdisjoint(state.ids):
            return state
        left = [row for row, id_ in enumerate(state.ids) if id_ not in ids]
        facts = {column: [values[row] for row in left] for column, values in state.facts.items()}
        return State([state.ids[row] for row in left], _whole(state.rows)[left], facts)

    def build(self) -> None:
        """Nothing to do."""

    def search(self, queries: torch.Tensor, k: int, where: Where = ()) -> Found:
        """See [`~contextcir.retrieval.engines.base.VectorIndex.search`]. Queries may have parts, `(num_queries, parts,
        dim)`, see [`~contextcir.retrieval.index.similarity`]."""
        state = self.state
        if k < 1:
            raise ValueError(f"Got k={k}, expected at least 1.")
        allowed = state.matching(where)
        if state.rows is None or not state.ids:
            return [[] for _ in queries]
        scores, places = search(queries, state.rows, k, allowed=allowed)
        return [
            [(state.ids[place], score) for place, score in zip(some, values, strict=True) if place >= 0]
            for some, values in zip(places.tolist(), scores.tolist(), strict=True)
        ]

    def close(self) -> None:
        """Nothing to do."""


def _whole(rows: Rows) -> torch.Tensor:
    return torch.as_tensor(rows[0 : len(rows)])
