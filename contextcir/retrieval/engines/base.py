"""The contract of a vector index, and the recall that every approximate one must report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from contextcir.retrieval.filters import Where
from contextcir.retrieval.index import nonfinite_row

LOWEST_RECALL = 0.95  # recall@10 below which an approximate index is refused
NUM_PROBES = 200
Found = list[list[tuple[str, float]]]  # for each query: ids with scores, best first


@runtime_checkable
class VectorIndex(Protocol):
    """
    Vectors with ids and facts, to search by dot product.

    Vectors are float32 of shape `(rows, dim)`. Ids are unique: adding one that is there replaces it.
    """

    @property
    def exact(self) -> bool:
        """Whether the search finds the true best rows."""
        ...

    def __len__(self) -> int:
        """Number of vectors."""
        ...

    def add(self, ids: Sequence[str], vectors: torch.Tensor, facts: Mapping[str, Sequence[Any]] | None = None) -> None:
        """
        Add vectors, or replace those whose ids are there.

        Args:
            ids (`Sequence[str]`): Unique.
            vectors (`torch.Tensor` of shape `(len(ids), dim)`): float32.
            facts (`Mapping[str, Sequence]`, *optional*): Column -> one value for each id, to filter by.

        Raises:
            `ValueError`: As [`check_vectors`] says.
        """
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Remove vectors. Raises a `ValueError` that names an id that is not there."""
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

        Raises:
            `ValueError`: Dimensions differ, `k` is below 1, or there is no such column.
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
    if dim is not None and vectors.shape[1] != dim:
        raise ValueError(f"Got vectors of dimension {vectors.shape[1]} (row 0, {ids[0]!r}), expected {dim}.")
    seen: set[str] = set()
    for row, id_ in enumerate(ids):
        if id_ in seen:
            raise ValueError(f"Row {row}: the id {id_!r} occurs twice.")
        seen.add(id_)
    if (bad := nonfinite_row(vectors)) is not None:
        raise ValueError(f"Row {bad} ({ids[bad]!r}) holds NaN or infinity.")
    zero = (vectors.abs().amax(dim=1) == 0).nonzero() if len(vectors) else vectors
    if len(zero):
        row = int(zero[0])
        raise ValueError(f"Row {row} ({ids[row]!r}) is zero: it has no direction to search by.")


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
    """Compare an index with an exact one on probes, `(num_probes, dim)`."""
    shares = []
    for found, true in zip(index.search(probes, k), exact.search(probes, k), strict=True):
        best = {id_ for id_, _ in true}
        shares.append(len(best & {id_ for id_, _ in found}) / max(1, len(best)))
    return RecallReport(sum(shares) / max(1, len(shares)), len(shares))


def require_recall(report: RecallReport, lowest: float = LOWEST_RECALL) -> None:
    """Raise a `ValueError` if an index finds too little."""
    if report.recall < lowest:
        raise ValueError(
            f"The index has {report}; at least {lowest} was expected. Search more of it, or accept it with"
            " --lowest_recall."
        )
