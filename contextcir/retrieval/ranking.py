"""From embeddings to a ranking: ids of the gallery, of each query's candidates, and the ranks of wanted images."""

from collections.abc import Mapping, Sequence

import torch

from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.retrieval.index import Rows, Score, gather, ranks, search, similarity


def rank(
    queries: Sequence[Query],
    gallery: Gallery,
    query_embeds: torch.Tensor,
    gallery_embeds: Rows,
    k: int,
    exclude_reference: bool = False,
    *,
    wanted: Mapping[str, str] | None = None,
    score: Score = similarity,
) -> Ranking:
    """
    Rank by the similarity of given embeddings: `query_embeds` of shape `(num_queries, dim)` or `(num_queries, parts,
    dim)` (see [`~contextcir.retrieval.index.similarity`]), and `gallery_embeds` of shape `(gallery_size, dim)`; or by
    another `score` of theirs. Other arguments as for [`~contextcir.retrieval.base.Retriever.search`].

    Returns:
        `Ranking`: With scores.

    Raises:
        `ValueError`: A candidate is not in the gallery, or as for [`~contextcir.retrieval.index.search`].
    """
    exclude = None
    if exclude_reference:
        references = [query.reference_id for query in queries]
        exclude = torch.tensor([-1 if id_ is None else gallery.positions.get(id_, -1) for id_ in references])
    scores, indices = search(query_embeds, gallery_embeds, k, exclude=exclude, score=score)
    lengths = (indices >= 0).sum(dim=1).tolist()
    wanted_ranks = None
    if wanted is not None:
        rows = [row for row, query in enumerate(queries) if query.id in wanted]
        places = torch.tensor([gallery.positions[wanted[queries[row].id]] for row in rows], dtype=torch.long)
        left_out = None if exclude is None else exclude[rows]
        above = ranks(query_embeds[rows], gallery_embeds, places, exclude=left_out, score=score)
        wanted_ranks = {queries[row].id: number for row, number in zip(rows, above.tolist(), strict=True)}
    return Ranking(
        query_ids=[query.id for query in queries],
        gallery_ids=[
            [gallery.ids[index] for index in row[:length]]
            for row, length in zip(indices.tolist(), lengths, strict=True)
        ],
        scores=[row[:length] for row, length in zip(scores.tolist(), lengths, strict=True)],
        candidate_ids=_rank_candidates(queries, query_embeds, gallery, gallery_embeds, score),
        wanted_ranks=wanted_ranks,
    )


def _rank_candidates(
    queries: Sequence[Query], query_embeds: torch.Tensor, gallery: Gallery, gallery_embeds: Rows, score: Score
) -> list[list[str]]:
    """Each query's candidates without the reference, best first, equal scores in the order of the candidates."""
    candidates = [query.ranked_candidate_ids for query in queries]
    for query, own in zip(queries, candidates, strict=True):
        if unknown := [id_ for id_ in own if id_ not in gallery.positions]:
            raise ValueError(f"Query {query.id!r} has the candidate {unknown[0]!r}, which is not in the gallery.")
    ranked: list[list[str]] = [[]] * len(queries)
    for length in sorted({len(own) for own in candidates if own}):  # queries with equally many candidates at once
        for rows in torch.tensor([row for row, own in enumerate(candidates) if len(own) == length]).split(4096):
            places = torch.tensor([[gallery.positions[id_] for id_ in candidates[row]] for row in rows.tolist()])
            some = query_embeds[rows.to(query_embeds.device)]
            scores = score(some, gather(gallery_embeds, places).to(some.device))  # (queries, length)
            orders = scores.argsort(dim=1, descending=True, stable=True).tolist()
            for row, order in zip(rows.tolist(), orders, strict=True):
                ranked[row] = [candidates[row][place] for place in order]
    return ranked
