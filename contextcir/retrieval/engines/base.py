"""The contract of a vector index, and the recall that every approximate one must report."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from contextcir.retrieval.filters import Where, scalar
from contextcir.retrieval.index import nonfinite_row

LOWEST_RECALL = 0.95  # recall@10 below which an approximate index is refused
CANDIDATES = 100  # that an approximate search scores exactly, at least: a rough score may have the best in tenth place
TIED = 1e-6  # scores that differ less are those of equal images, of which any may be found
Found = list[list[tuple[str, float]]]  # for each query: ids with scores, best first
Facts = Mapping[str, Sequence[Any]]  # column -> one value for each vector


@runtime_checkable
class VectorIndex(Protocol):
    """
    Vectors with ids and facts, to search by dot product.

    Vectors are float32 of shape `(rows, dim)`. Ids are unique: adding one that is there replaces it, with its facts.
    Any number of threads and processes may search while one adds.
    """

    @property
    def engine(self) -> str:
        """`str`: Name of the engine, such as `exact`."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """`dict`: What opens the index again, as JSON, without secrets."""
        ...

    @property
    def exact(self) -> bool:
        """Whether the search finds the true best rows."""
        ...

    def __len__(self) -> int:
        """Number of vectors."""
        ...

    def size_in_bytes(self) -> int:
        """Bytes that the vectors, and what makes their search fast, take in memory or on disk."""
        ...

    def digests(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Id -> digest of vector and facts ([`row_digests`]), of all vectors, or of those of `ids` that are there."""
        ...

    def add(self, ids: Sequence[str], vectors: torch.Tensor, facts: Facts | None = None) -> None:
        """
        Add vectors, or replace those whose ids are there.

        Args:
            ids (`Sequence[str]`): Unique.
            vectors (`torch.Tensor` of shape `(len(ids), dim)`): float32.
            facts (`Mapping[str, Sequence]`, *optional*): Column -> one value for each id, to filter by.

        Raises:
            `ValueError`: As [`check_vectors`] and [`check_facts`] say.
        """
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Remove vectors. Raises a `ValueError` that names an id that is not there; then nothing is removed."""
        ...

    def build(self) -> None:
        """Make the search fast, after vectors have been added. An exact index has nothing to do."""
        ...

    def search(self, queries: torch.Tensor, k: int, where: Where = ()) -> Found:
        """
        Find the vectors with the highest dot products.

        Args:
            queries (`torch.Tensor` of shape `(num_queries, dim)`): float32.
            k (`int`): Number of ids for each query; fewer if there are not as many.
            where (`Sequence[Condition]`): Conditions on the facts. Filters come first: `k` of those that fulfil them.

        Returns:
            `list[list[tuple[str, float]]]`: For each query, ids and their dot products, best first.

        Raises:
            `ValueError`: As [`check_queries`] says, or there is no such column.
        """
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...


def check_vectors(ids: Sequence[str], vectors: torch.Tensor, dim: int | None = None) -> None:
    """
    Check vectors before they are added.

    Raises:
        `ValueError`: Numbers of ids and vectors differ, an id occurs twice, or a vector (named by its row and id) has
            the wrong dimension, is not finite, or is zero.
    """
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise ValueError(f"Got {len(ids)} ids and vectors of shape {tuple(vectors.shape)}, expected one for each id.")
    if dim is not None and len(ids) and vectors.shape[1] != dim:
        raise ValueError(f"Got vectors of dimension {vectors.shape[1]} (row 0, {ids[0]!r}), expected {dim}.")
    seen: set[str] = set()
    for row, id_ in enumerate(ids):
        if id_ in seen:
            raise ValueError(f"Row {row}: the id {id_!r} occurs twice.")
        seen.add(id_)
    if not len(ids):
        return
    if (bad := nonfinite_row(vectors)) is not None:
        raise ValueError(f"Row {bad} ({ids[bad]!r}) holds NaN or infinity.")
    zero = (vectors.abs().amax(dim=1) == 0).nonzero()
    if len(zero):
        row = int(zero[0])
        raise ValueError(f"Row {row} ({ids[row]!r}) is zero: it has no direction to search by.")


def check_facts(ids: Sequence[str], facts: Facts | None) -> dict[str, list[Any]]:
    """
    Check facts before they are added.

    Returns:
        `dict[str, list]`: The facts, with `None` for numbers that are not finite.

    Raises:
        `ValueError`: A column has not one value for each id, or a value (named by its row and id) is neither text nor
            number nor truth value nor `None`.
    """
    checked: dict[str, list[Any]] = {}
    for column, values in (facts or {}).items():
        if len(values) != len(ids):
            raise ValueError(f"Got {len(values)} values of {column!r} for {len(ids)} ids, expected one for each.")
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, (str, int, float)):
                raise ValueError(
                    f"Row {row} ({ids[row]!r}): {column!r} is of type {type(value).__name__}, expected a text, a"
                    " number, a truth value or None."
                )
        checked[column] = [scalar(value) for value in values]
    return checked


def check_queries(queries: torch.Tensor, k: int, dim: int | None = None) -> None:
    """Raise a `ValueError` if `k` is below 1, or if queries have another shape or dimension than expected, or hold NaN
    or infinity (the row is named)."""
    if k < 1:
        raise ValueError(f"Got k={k}, expected at least 1.")
    if queries.ndim == 3:
        raise ValueError(
            f"Got queries in {queries.shape[1]} parts, whose similarities are multiplied; this engine takes one vector"
            " for each query. Search exactly."
        )
    if queries.ndim != 2 or (dim is not None and queries.shape[1] != dim):
        raise ValueError(f"Got queries of shape {tuple(queries.shape)}, expected (num_queries, {dim or 'dim'}).")
    if len(queries) and (bad := nonfinite_row(queries)) is not None:
        raise ValueError(f"Query {bad} holds NaN or infinity. Check the model's weights and the precision it ran in.")


def row_digests(vectors: torch.Tensor, facts: Facts) -> list[str]:
    """Digests of vectors with their facts, 16 hex digits for each: whoever stores one knows later what it has."""
    found = []
    for row, vector in enumerate(vectors.float().cpu().numpy()):
        own = {column: values[row] for column, values in facts.items() if values[row] is not None}
        text = json.dumps(own, sort_keys=True).encode() if own else b""
        found.append(hashlib.blake2b(vector.tobytes() + text, digest_size=8).hexdigest())
    return found


def best_first(some: Iterable[tuple[str, float]], k: int) -> list[tuple[str, float]]:
    """The first `k` of ids with scores, best first; of equal scores, by id."""
    return sorted(some, key=lambda one: (-one[1], one[0]))[:k]


@dataclass(frozen=True)
class RecallReport:
    """
    What an approximate index finds of the true best rows.

    Args:
        recall (`float`): Mean share of the true ten best that are among the ten found, in [0, 1].
        num_probes (`int`): Number of queries.
    """

    recall: float
    num_probes: int

    def __str__(self) -> str:
        return f"recall@10 {self.recall:.3f} against exact search, on {self.num_probes} composed queries"


def measure_recall(index: VectorIndex, exact: VectorIndex, probes: torch.Tensor, k: int = 10) -> RecallReport:
    """Compare an index with an exact one on probes, `(num_probes, dim)`. Of images with equal scores at the `k`-th
    place, such as copies of one picture, any may be found."""
    shares = []
    for found, true in zip(index.search(probes, k), exact.search(probes, 2 * k), strict=True):
        best = true[:k]
        good = {id_ for id_, score in true if score >= best[-1][1] - TIED} if best else set()
        shares.append(sum(id_ in good for id_, _ in found[:k]) / max(1, len(best)))
    return RecallReport(sum(shares) / max(1, len(shares)), len(shares))


def require_recall(report: RecallReport, lowest: float = LOWEST_RECALL) -> None:
    """Raise a `ValueError` if an index finds too little."""
    if report.recall < lowest:
        raise ValueError(
            f"The index has {report}; at least {lowest} was expected. Search more of it, or accept it with"
            " --lowest_recall."
        )
