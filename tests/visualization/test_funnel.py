"""The funnel of a query: every stage's candidates in their order, with ticks and verdicts."""

import pytest
from matplotlib.colors import to_hex

from contextcir.retrieval.base import Query
from contextcir.retrieval.imagescope.trace import read_trace
from contextcir.visualization.funnel import funnel_figure, ticks
from contextcir.visualization.page import REFERENCE, TARGET, save_png
from tests.imagescope_world import World
from tests.tiny_triplets import png

QUERY = Query(id="q", modification_text="make it plus 5 and cost $3", reference_id="p10")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("funnel")
    pictures = World(
        {number: png(number) for number in range(30)}, lambda text, reference: (reference or 0) + 5, off=3
    )
    pictures.texts["verifier"] = lambda request: "?" if pictures.number(request.images[0]) == 17 else None
    pictures.scope(folder).search([QUERY], pictures.gallery(), 10)
    (record,) = read_trace(folder / "trace.jsonl")
    return pictures, record


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_stage_is_a_row_with_what_was_said(searched, tmp_path):
    pictures, record = searched
    figure = funnel_figure(QUERY, pictures.gallery(), record, {"p15"}, k=4)
    shown = texts(figure)
    assert shown[0] == "make it plus 5 and cost $3"
    assert shown[2] == "1. Is it picture 15? (yes)\n2. Is it picture 16? (no)"
    rows = shown[3:]
    assert [row.split("\n")[0] for row in rows[::5]] == ["retrieved", "by propositions", "the accepted"]
    assert rows[1:5] == [f"{score:.3f}" for score in record["scores"][:4]]
    assert record["verified"][:4] == ["p15", "p17", "p18", "p19"]
    assert rows[6:10] == ["✓✓", "?", "✗✓", "✗✓"]
    assert rows[11:15] == ["accept", "reject", "reject", ""]
    colours = [to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert colours.count(TARGET) == 2 and colours.count(REFERENCE) == 1  # 15 was retrieved below the fourth place
    save_png(figure, tmp_path / "funnel.png")
    assert (tmp_path / "funnel.png").stat().st_size > 1000


def test_a_text_and_a_small_gallery(searched, tmp_path):
    pictures, _ = searched
    query = Query(id="t", modification_text="any picture 5")
    small = World({5: png(5), 6: png(6)}, lambda text, reference: 5)
    small.scope(tmp_path).search([query], small.gallery(), 10)
    (record,) = read_trace(tmp_path / "trace.jsonl")
    shown = texts(funnel_figure(query, small.gallery(), record))
    assert "reference" not in shown and "✓✓" in shown and "accept" in shown


def test_what_is_said_of_candidates_alone_is_not_said_of_the_gallery(tmp_path):
    pictures = World({number: png(number) for number in range(30)}, lambda text, reference: reference + 5, off=3)
    query = Query("q", "plus 5", reference_id="p10", candidate_ids=("p10", "p15", "p0"))
    pictures.scope(tmp_path, verified=2, evaluated=1).search([query], pictures.gallery(), 6)
    (record,) = read_trace(tmp_path / "trace.jsonl")
    assert record["answers"]["p15"] and record["verdicts"]["p15"]["verdict"] == "accept"
    page = [text.split("\n")[0] for text in texts(funnel_figure(query, pictures.gallery(), record))]
    verified, evaluated = page.index("by propositions"), page.index("the accepted")
    assert page[verified + 1 : evaluated] == ["✗✓", "✗✓"] and page[evaluated + 1 :] == ["reject", ""]


def test_lines_of_other_queries_and_unfinished_ones_are_refused(searched):
    pictures, record = searched
    with pytest.raises(ValueError, match="The line is of query 'q', expected 'other'"):
        funnel_figure(Query(id="other", modification_text="x"), pictures.gallery(), record)
    reasoned = {name: record[name] for name in ("query", "text", "descriptions", "calls")}
    with pytest.raises(ValueError, match="Query 'q' has not been retrieved yet"):
        funnel_figure(QUERY, pictures.gallery(), reasoned)


def test_ticks():
    propositions = [{"question": "a?", "expected": "yes"}, {"question": "b?", "expected": "no"}]
    assert ticks(propositions, ["yes", "yes"]) == "✓✗" and ticks(propositions, None) == "?"
    assert ticks([], []) == ""
