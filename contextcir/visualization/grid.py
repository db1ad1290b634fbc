"""The best gallery images of some queries, with frames around targets."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from PIL import Image

from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.visualization.page import GAP, GREY, LINE, MARGIN, REFERENCE, TARGET, TILE, Figure, Page, wrap


def retrieval_grid(
    queries: Sequence[Query],
    gallery: Gallery,
    ranking: Ranking,
    relevance: Mapping[str, AbstractSet[str]],
    *,
    k: int = 10,
) -> Figure:
    """
    Draw a row for each query: its text, its reference image and the `k` best images of the gallery.

    Targets have a green frame and a tick. The reference has a red frame, also among the best images. If no target is
    among the `k` best, the row ends with the best-ranked target and its rank.

    Args:
        queries (`Sequence[Query]`): The rows, from the top.
        gallery (`Gallery`): The source of images.
        ranking (`Ranking`): A ranking with these queries. Longer lists give the ranks of missed targets.
        relevance (`Mapping[str, Set[str]]`): Id of a query -> ids of its known targets.
        k (`int`, *optional*, defaults to 10): Number of images per row; fewer if the ranking holds fewer.

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: There is no query, or the ranking does not hold a query.
    """
    if not queries:
        raise ValueError("Got 0 queries to draw, expected at least 1.")
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
    row_height = 10 + TILE + 50  # below the text
    page = Page(width, MARGIN + 2 * LINE + sum(len(lines) * LINE + row_height for lines in texts))

    top = MARGIN
    scores = "" if ranking.scores is None else ", with scores"
    page.text(best_left, top, f"top results of {len(gallery):,} gallery images, best first{scores}", color=GREY)
    for left, color, name in ((width - MARGIN - 170, REFERENCE, "reference"), (width - MARGIN - 52, TARGET, "target")):
        page.framed(left - 22, top + 3, (8, 8), Image.new("RGB", (1, 1), "white"), color)
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
            label += " ✓" if id_ in own else ""
            page.candidate(best_left + rank * (TILE + GAP), top, query, gallery, id_, label, own)
        if query.id in missed:
            found = next((id_ for id_ in ids if id_ in own), None)
            label = f"rank {ids.index(found) + 1:,}" if found else f"rank > {len(ids):,}"
            page.text(missed_left - 1.5 * GAP, top + TILE / 2, "…", color=GREY, ha="center", va="center")
            page.tile(missed_left, top, gallery.image(found or min(own)), label, TARGET)
        top += row_height - 10
    return page.figure
