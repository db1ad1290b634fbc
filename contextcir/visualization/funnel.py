"""A query's funnel: the best candidates after each stage of ImageScope, and what was said of each."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from contextcir.retrieval.base import Gallery, Query
from contextcir.visualization.page import (
    GAP,
    GREY,
    LINE,
    MARGIN,
    REFERENCE,
    SMALL,
    SMALL_LINE,
    TARGET,
    TILE,
    Figure,
    Page,
    wrap,
)

ROW = TILE + 44  # with its labels
STAGES = {"retrieved": "retrieved", "verified": "by propositions that hold", "evaluated": "the accepted first"}


def funnel_figure(
    query: Query, gallery: Gallery, record: Mapping[str, Any], targets: set[str] = frozenset(), *, k: int = 10
) -> Figure:
    """
    Draw what became of a query: its text and reference, the propositions, and a row of candidates after each stage.

    Below a candidate stands its score, then a tick or a cross for each proposition in their order (a question mark:
    no usable answer), then the verdict; nothing where a stage does not reach so far down. Targets have a green frame,
    the reference a red one.

    Args:
        query (`Query`): The query.
        gallery (`Gallery`): Where images come from.
        record (`Mapping[str, Any]`): Its line of an ImageScope trace.
        targets (`set[str]`, *optional*): Ids of its targets.
        k (`int`, *optional*, defaults to 10): Candidates to show in each row.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: The line is of another query, or the query did not come through all stages.
    """
    if record.get("query") != query.id:
        raise ValueError(f"The line is of query {record.get('query')!r}, expected {query.id!r}.")
    if missing := [stage for stage in STAGES if stage not in record]:
        raise ValueError(f"Query {query.id!r} has not been {missing[0]} yet. Let the search end first.")
    # What is known beyond that is known of the query's own candidates, which are ranked by themselves.
    asked = {stage: set(record[before][: record["depths"][stage]]) for before, stage in pairwise(STAGES)}
    labels = {
        "retrieved": {
            id_: f"{score:.3f}" for id_, score in zip(record["retrieved"], record["scores"] or [], strict=False)
        },
        "verified": {
            id_: ticks(record["propositions"], answers)
            for id_, answers in record["answers"].items()
            if id_ in asked["verified"]
        },
        "evaluated": {
            id_: verdict["verdict"] if verdict else "?"
            for id_, verdict in record["verdicts"].items()
            if id_ in asked["evaluated"]
        },
    }
    left = MARGIN + TILE + 3 * GAP
    width = max(left + min(k, max(len(record[stage]) for stage in STAGES)) * (TILE + GAP) + MARGIN, 880)
    text = wrap(query.modification_text, width - 2 * MARGIN)
    questions = [
        line
        for number, proposition in enumerate(record["propositions"], start=1)
        for line in wrap(
            f"{number}. {proposition['question']} ({proposition['expected']})", width - left - MARGIN, SMALL
        )
    ]
    head = max(TILE + 28 if query.has_reference else 0, len(questions) * SMALL_LINE)
    page = Page(width, MARGIN + len(text) * LINE + 10 + head + 10 + len(STAGES) * ROW)

    page.text(MARGIN, MARGIN, text)
    top = MARGIN + len(text) * LINE + 10
    if query.has_reference:
        page.tile(MARGIN, top, gallery.reference_image(query), "reference", REFERENCE)
    page.text(left, top, questions, size=SMALL, color=GREY)
    top += head + 10
    for stage, title in STAGES.items():
        page.text(MARGIN, top + TILE / 2, wrap(title, TILE + GAP, SMALL), size=SMALL, color=GREY, valign="center")
        for place, id_ in enumerate(record[stage][:k]):
            frame = TARGET if id_ in targets else REFERENCE if id_ == query.reference_id else None
            page.tile(left + place * (TILE + GAP), top, gallery.image(id_), labels[stage].get(id_, ""), frame)
        top += ROW
    return page.figure


def ticks(propositions: list[dict[str, str]], answers: list[str] | None) -> str:
    """A tick for each proposition that holds and a cross for each that does not; a question mark without answers."""
    if answers is None:
        return "?"
    expected = [proposition["expected"] for proposition in propositions]
    return "".join("✓" if given == wanted else "✗" for given, wanted in zip(answers, expected, strict=True))
