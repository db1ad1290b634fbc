"""The best gallery images of some queries, with frames around targets, of one model or of several below each other."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from PIL import Image

from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.visualization.page import GAP, GREY, LINE, MARGIN, REFERENCE, SMALL, TARGET, TILE, Figure, Page, wrap

ROW = TILE + 34  # height of a row of images with its labels
NAMES = 150  # width of the names of models
NAME_STYLE: dict[str, Any] = {"size": SMALL, "ha": "right", "va": "center"}


def retrieval_grid(
    queries: Sequence[Query],
    gallery: Gallery,
    ranking: Ranking | Mapping[str, Ranking],
    relevance: Mapping[str, AbstractSet[str]],
    *,
    k: int = 10,
) -> Figure:
    """
    Draw a row for each query: its text, its reference image and the `k` best images of the gallery. Of several models,
    their rows stand below each other.

    Targets have a green frame and a tick. The reference has a red frame, also among the best images. If no target is
    among the `k` best, the row ends with the best-ranked target and its rank.

    Args:
        queries (`Sequence[Query]`): From the top.
        gallery (`Gallery`): The source of images.
        ranking (`Ranking` or `Mapping[str, Ranking]`): A ranking with these queries, or name of a model in the figure
            -> its ranking. Longer lists give the ranks of missed targets.
        relevance (`Mapping[str, Set[str]]`): Id of a query -> ids of its known targets.
        k (`int`, *optional*, defaults to 10): Number of images per row; fewer if the rankings hold fewer.

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: There is no query or no ranking, or a ranking does not hold a query.
    """
    rankings = {"": ranking} if isinstance(ranking, Ranking) else dict(ranking)
    if not queries or not rankings:
        raise ValueError(
            f"Got {len(queries)} queries and {len(rankings)} rankings to draw, expected at least 1 of each."
        )
    targets = {query.id: relevance.get(query.id, set()) for query in queries}
    rows = {name: [_row(query, one, name) for query in queries] for name, one in rankings.items()}
    several = len(rows) > 1
    missed = any(
        row.missed(targets[query.id], k) for own in rows.values() for query, row in zip(queries, own, strict=True)
    )

    best_left = MARGIN + TILE + (NAMES if several else 0) + 3 * GAP
    missed_left = best_left + max(len(row.ids[:k]) for own in rows.values() for row in own) * (TILE + GAP) + 2 * GAP
    width = max(missed_left + (TILE if missed else -3 * GAP) + MARGIN, 880 + (NAMES if several else 0))
    texts = [wrap(query.modification_text, width - 2 * MARGIN) for query in queries]
    heights = [len(lines) * LINE + 10 + len(rows) * ROW + 16 for lines in texts]
    page = Page(width, MARGIN + 2 * LINE + sum(heights))

    scores = ", with scores" if any(row.scores for own in rows.values() for row in own) else ""
    page.text(best_left, MARGIN, f"top results of {len(gallery):,} gallery images, best first{scores}", color=GREY)
    for left, color, name in ((width - MARGIN - 170, REFERENCE, "reference"), (width - MARGIN - 52, TARGET, "target")):
        page.framed(left - 22, MARGIN + 3, (8, 8), Image.new("RGB", (1, 1), "white"), color)
        page.text(left, MARGIN, name, color=GREY)
    top = MARGIN + 2 * LINE
    for place, (query, lines, height) in enumerate(zip(queries, texts, heights, strict=True)):
        page.text(MARGIN, top, lines)
        first = top + len(lines) * LINE + 10
        if query.has_reference:
            page.tile(MARGIN, first, gallery.reference_image(query), "reference", REFERENCE)
        for number, (name, own) in enumerate(rows.items()):
            row, y = own[place], first + number * ROW
            if several:
                page.text(best_left - 2 * GAP, y + TILE / 2, wrap(name, NAMES - GAP, SMALL, 5), **NAME_STYLE)
            row.draw(page, best_left, y, query, gallery, targets[query.id], k)
            if row.missed(targets[query.id], k):
                row.draw_missed(page, missed_left, y, gallery, targets[query.id])
        top += height
    return page.figure


@dataclass(frozen=True)
class _Row:
    """What one model finds for one query: ids, best first, and their scores, if there are any."""

    ids: Sequence[str]
    scores: Sequence[float] | None

    def missed(self, targets: AbstractSet[str], k: int) -> bool:
        return bool(targets) and targets.isdisjoint(self.ids[:k])

    def draw(self, page: Page, left: float, top: float, query: Query, gallery: Gallery, targets, k: int) -> None:
        for rank, id_ in enumerate(self.ids[:k]):
            label = f"{rank + 1}" if self.scores is None else f"{self.scores[rank]:.3f}"
            label += " ✓" if id_ in targets else ""
            page.candidate(left + rank * (TILE + GAP), top, query, gallery, id_, label, targets)

    def draw_missed(self, page: Page, left: float, top: float, gallery: Gallery, targets: AbstractSet[str]) -> None:
        found = next((id_ for id_ in self.ids if id_ in targets), None)
        label = f"rank {self.ids.index(found) + 1:,}" if found else f"rank > {len(self.ids):,}"
        page.text(left - 1.5 * GAP, top + TILE / 2, "…", color=GREY, ha="center", va="center")
        page.tile(left, top, gallery.image(found or min(targets)), label, TARGET)


def _row(query: Query, ranking: Ranking, name: str) -> _Row:
    if query.id not in ranking.query_ids:
        raise ValueError(f"The ranking {name + ' ' if name else ''}does not hold the query {query.id!r}.")
    place = list(ranking.query_ids).index(query.id)
    return _Row(ranking.gallery_ids[place], None if ranking.scores is None else ranking.scores[place])
