"""The funnel of a query: the best candidates after each stage of ImageScope, with scores, answers and verdicts."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from contextcir.retrieval.base import Gallery, Query
from contextcir.visualization.page import GAP, LINE, MARGIN, REFERENCE, SMALL, SMALL_LINE, TILE, Figure, Page, wrap

ROW = TILE + 44  # height of a row of candidates with its labels
STAGES = {
    "retrieved": "retrieved, by score",
    "verified": "verified, by propositions",
    "evaluated": "evaluated, by verdict",
}


def funnel_figure(
    query: Query, gallery: Gallery, record: Mapping[str, Any], targets: Collection[str] = (), *, k: int = 10
) -> Figure:
    """
    Draw a query with its reference and propositions, and a row of candidates after each stage.

    Labels are scores, then a tick or a cross for each proposition (a question mark: no usable answer), then verdicts.
    A candidate that a stage did not examine has no label. Targets have a green frame, the reference a red one.

    Args:
        query (`Query`): The query.
        gallery (`Gallery`): The source of images.
        record (`Mapping[str, Any]`): The record of the query in an ImageScope trace.
        targets (`Collection[str]`, *optional*): Ids of its targets.
        k (`int`, *optional*, defaults to 10): Number of candidates per row.

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: The record is of another query, or a stage is missing.
    """
    if record.get("query") != query.id:
        raise ValueError(f"Got the record of query {record.get('query')!r}, expected {query.id!r}.")
    if missing := [stage for stage in STAGES if stage not in record]:
        raise ValueError(f"Query {query.id!r} has not been {missing[0]} yet. Let the search finish first.")
    labels = _labels(record)
    left = MARGIN + TILE + 3 * GAP
    width = max(left + min(k, max(len(record[stage]) for stage in STAGES)) * (TILE + GAP) + MARGIN, 880)
    text = wrap(query.modification_text, width - 2 * MARGIN)
    questions = []
    for number, proposition in enumerate(record["propositions"], start=1):
        question = f"{number}. {proposition['question']} ({proposition['expected']})"
        questions += wrap(question, width - left - MARGIN, SMALL)
    head = max(TILE + 28 if query.has_reference else 0, len(questions) * SMALL_LINE)
    page = Page(width, MARGIN + len(text) * LINE + 10 + head + 10 + len(STAGES) * ROW)

    page.text(MARGIN, MARGIN, text)
    top = MARGIN + len(text) * LINE + 10
    if query.has_reference:
        page.tile(MARGIN, top, gallery.reference_image(query), "reference", REFERENCE)
    page.note(left, top, questions)
    top += head + 10
    for stage, title in STAGES.items():
        page.note(MARGIN, top + TILE / 2, wrap(title, TILE + GAP, SMALL), va="center")
        for place, id_ in enumerate(record[stage][:k]):
            label = labels[stage].get(id_, "")
            page.candidate(left + place * (TILE + GAP), top, query, gallery, id_, label, targets)
        top += ROW
    return page.figure


def _labels(record: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the labels of the candidates that each stage examined.

    The record also has answers about the candidates of the query's subset, which are ranked separately.
    """
    scores = zip(record["retrieved"], record["scores"] or [], strict=False)
    labels = {
        "retrieved": {id_: f"{score:.3f}" for id_, score in scores},
        "verified": {id_: ticks(record["propositions"], answers) for id_, answers in record["answers"].items()},
        "evaluated": {id_: verdict["verdict"] if verdict else "?" for id_, verdict in record["verdicts"].items()},
    }
    for before, stage in pairwise(STAGES):
        examined = set(record[before][: record["depths"][stage]])
        labels[stage] = {id_: label for id_, label in labels[stage].items() if id_ in examined}
    return labels


def ticks(propositions: Sequence[Mapping[str, str]], answers: Sequence[str] | None) -> str:
    """Return a tick for each expected answer and a cross for any other, or a question mark without answers."""
    if answers is None:
        return "?"
    expected = [proposition["expected"] for proposition in propositions]
    return "".join("✓" if given == wanted else "✗" for given, wanted in zip(answers, expected, strict=True))
