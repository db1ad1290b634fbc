"""The best gallery images for some queries, targets in green frames."""

from collections.abc import Mapping, Sequence

from PIL import Image

from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.visualization.page import GAP, GREY, LINE, MARGIN, REFERENCE, TARGET, TILE, Figure, Page, wrap


def retrieval_grid(
    queries: Sequence[Query],
    gallery: Gallery,
    ranking: Ranking,
    relevance: Mapping[str, set[str]],
    *,
    k: int = 10,
) -> Figure:
    """
    Draw a row for each query: its text, its reference image and the `k` best images of the gallery.

    Targets have a green frame and a tick; the reference has a red frame, also where it is among the best. A query
    without a target among the `k` best has its best-ranked target at the end of its row, with its rank.

    Args:
        queries (`Sequence[Query]`): The rows, from the top.
        gallery (`Gallery`): Where images come from.
        ranking (`Ranking`): Holds these queries. Longer lists tell the rank of targets that are missed.
        relevance (`Mapping[str, set[str]]`): Ids of each query's targets, by query id; as far as they are known.
        k (`int`, *optional*, defaults to 10): How many images to show; fewer where the ranking holds fewer.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: There is no query, or one that is not in the ranking.
    """
    if not queries:
        raise ValueError("There are no queries to draw.")
    places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
    if absent := [query.id for query in queries if query.id not in places]:
        raise ValueError(f"The ranking does not hold the query {absent[0]!r}.")
    ranked = {query.id: ranking.gallery_ids[places[query.id]] for query in queries}
    targets = {query.id: relevance.get(query.id, set()) for query in queries}
    missed = {id_ for id_, own in targets.items() if own and own.isdisjoint(ranked[id_][:k])}

    best_left = MARGIN + TILE + 3 * GAP
    missed_left = best_left + max(len(ids[:k]) for ids in ranked.values()) * (TILE + GAP) + 2 * GAP
    width = max(missed_left + (TILE if missed else -3 * GAP) + MARGIN, 880)
    texts = [wrap(query.modification_text, width - 2 * MARGIN) for query in queries]
    row_height = 10 + TILE + 50  # below its text
    page = Page(width, MARGIN + 2 * LINE + sum(len(lines) * LINE + row_height for lines in texts))

    top = MARGIN
    scores = "" if ranking.scores is None else " and their scores"
    page.text(
        best_left, top, f"best of {len(gallery):,} gallery images, from the left,{scores}".rstrip(","), color=GREY
    )
    for left, color, name in ((width - MARGIN - 170, REFERENCE, "reference"), (width - MARGIN - 52, TARGET, "target")):
        page.framed(left - 22, top + 3, 8, 8, Image.new("RGB", (1, 1), "white"), color)
        page.text(left, top, name, color=GREY)
    top += 2 * LINE
    for query, lines in zip(queries, texts, strict=True):
        page.text(MARGIN, top, lines)
        top += len(lines) * LINE + 10
        if query.has_reference:
            page.tile(MARGIN, top, gallery.reference_image(query), "reference", REFERENCE)
        ids, own = ranked[query.id], targets[query.id]
        for rank, id_ in enumerate(ids[:k]):
            label = f"{rank + 1}" if ranking.scores is None else f"{ranking.scores[places[query.id]][rank]:.3f}"
            kind = TARGET if id_ in own else REFERENCE if id_ == query.reference_id else None
            label += " ✓" if kind == TARGET else ""
            page.tile(best_left + rank * (TILE + GAP), top, gallery.image(id_), label, kind)
        if query.id in missed:
            rank, id_ = min(((ids.index(id_), id_) for id_ in own & set(ids)), default=(None, min(own)))
            label = f"rank > {len(ids):,}" if rank is None else f"rank {rank + 1:,}"
            page.text(missed_left - 1.5 * GAP, top + TILE / 2, "…", color=GREY, align="center", valign="center")
            page.tile(missed_left, top, gallery.image(id_), label, TARGET)
        top += row_height - 10
    return page.figure
