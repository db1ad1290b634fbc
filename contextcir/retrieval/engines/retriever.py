"""Rank with an approximate index, to measure on a benchmark what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from contextcir.retrieval.base import Gallery, Query, Ranking, check_searchable
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.engines.quantised import QuantisedIndex
from contextcir.retrieval.index import Rows
from contextcir.retrieval.ranking import rank


class QuantisedRetriever:
    """
    Rank as a dense retriever does, with the gallery in one byte or one bit for each dimension.

    Args:
        dense ([`~contextcir.retrieval.dense.DenseRetriever`]): Embeds queries and galleries.
        precision (`str`): `int8` or `binary`, see [`~contextcir.retrieval.engines.quantised.QuantisedIndex`].
    """

    def __init__(self, dense: DenseRetriever, precision: str):
        self.dense, self.precision = dense, precision
        self._made: tuple[Rows | None, QuantisedIndex | None] = None, None

    def search(
        self,
        queries: Sequence[Query],
        gallery: Gallery,
        k: int,
        *,
        exclude_reference: bool = False,
        wanted: Mapping[str, str] | None = None,
    ) -> Ranking:
        """
        Rank the gallery with the index. Arguments, results and errors as for
        [`~contextcir.retrieval.base.Retriever.search`], with scores. Candidates, and ranks beyond the `k` found ones,
        are exact.
        """
        check_searchable(queries, gallery)
        if not queries:
            return self.dense.search(queries, gallery, k, exclude_reference=exclude_reference, wanted=wanted)
        rows, embeds = self.dense.gallery_embeds(gallery), self.dense.encode(queries, gallery)
        exact = rank(queries, gallery, embeds, rows, k, exclude_reference, wanted=wanted)
        found = self._index(gallery, rows).search(embeds.cpu(), k + exclude_reference)
        kept = [
            [(id_, score) for id_, score in some if not (exclude_reference and id_ == query.reference_id)][:k]
            for query, some in zip(queries, found, strict=True)
        ]
        ranks = exact.wanted_ranks
        if wanted is not None and ranks is not None:
            places = {query.id: [id_ for id_, _ in some] for query, some in zip(queries, kept, strict=True)}
            ranks = {
                id_: places[id_].index(wanted[id_]) if wanted[id_] in places[id_] else number
                for id_, number in ranks.items()
            }
        return replace(
            exact,
            gallery_ids=[[id_ for id_, _ in some] for some in kept],
            scores=[[score for _, score in some] for some in kept],
            wanted_ranks=ranks,
        )

    def _index(self, gallery: Gallery, rows: Rows) -> QuantisedIndex:
        known, index = self._made
        if index is None or known is not rows:
            on_cpu = rows.cpu() if isinstance(rows, torch.Tensor) else rows
            index = QuantisedIndex(self.precision, gallery.ids, on_cpu)
            self._made = rows, index
        return index
