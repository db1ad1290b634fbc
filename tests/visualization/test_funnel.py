"""The funnel of a query: the candidates of each stage in their order, with ticks and verdicts."""

import pytest
from matplotlib.colors import to_hex

from contextcir.retrieval.base import Query
from contextcir.retrieval.imagescope.trace import read_trace
from contextcir.visualization.funnel import STAGES, funnel_figure, ticks
from contextcir.visualization.page import REFERENCE, TARGET, save_png
from tests.imagescope_world import World
from tests.tiny_triplets import png
from tests.visualization.layout import texts

QUERY = Query(id="q", modification_text="make it plus 5 and cost $3", reference_id="p10")
TITLES = list(STAGES.values())


def search(folder, query, pictures, k=10, **options):
    """Search for a query, and return its record in the trace."""
    pictures.scope(folder, **options).search([query], pictures.gallery(), k)
    (record,) = read_trace(folder / "trace.jsonl")
    return record


def world():
    return World({number: png(number) for number in range(30)}, lambda text, reference: reference + 5, off=3)


def unwrapped(figure) -> list[str]:
    return [text.replace("\n", " ") for text in texts(figure)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    pictures = world()
    pictures.texts["verifier"] = lambda request: "?" if pictures.number(request.images[0]) == 17 else None
    return pictures, search(tmp_path_factory.mktemp("funnel"), QUERY, pictures)


def test_each_stage_is_a_row_with_labels(searched, tmp_path):
    pictures, record = searched
    figure = funnel_figure(QUERY, pictures.gallery(), record, {"p15"}, k=4)
    assert texts(figure)[0] == "make it plus 5 and cost $3"
    assert texts(figure)[2] == "1. Is it picture 15? (yes)\n2. Is it picture 16? (no)"
    rows = unwrapped(figure)[3:]
    assert rows[::5] == TITLES
    assert rows[1:5] == [f"{score:.3f}" for score in record["scores"][:4]]
    assert record["verified"][:4] == ["p15", "p17", "p18", "p19"]
    assert rows[6:10] == ["✓✓", "?", "✗✓", "✗✓"]
    assert rows[11:15] == ["accept", "reject", "reject", ""]
    colours = [to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert colours.count(TARGET) == 2 and colours.count(REFERENCE) == 1  # p15 was retrieved below the fourth place
    save_png(figure, tmp_path / "funnel.png")
    assert (tmp_path / "funnel.png").stat().st_size > 1000


def test_a_text_query_and_a_small_gallery(tmp_path):
    query = Query(id="t", modification_text="any picture 5")
    small = World({5: png(5), 6: png(6)}, lambda text, reference: 5)
    shown = texts(funnel_figure(query, small.gallery(), search(tmp_path, query, small)))
    assert "reference" not in shown and "✓✓" in shown and "accept" in shown


def test_answers_about_the_subset_are_not_shown_in_the_gallery(tmp_path):
    query = Query("q", "plus 5", reference_id="p10", candidate_ids=("p10", "p15", "p0"))
    pictures = world()
    record = search(tmp_path, query, pictures, 6, verified=2, evaluated=1)
    assert record["answers"]["p15"] and record["verdicts"]["p15"]["verdict"] == "accept"
    page = unwrapped(funnel_figure(query, pictures.gallery(), record))
    verified, evaluated = map(page.index, TITLES[1:])
    assert page[verified + 1 : evaluated] == ["✗✓", "✗✓"] and page[evaluated + 1 :] == ["reject", ""]


def test_records_of_other_queries_and_unfinished_ones(searched):
    pictures, record = searched
    with pytest.raises(ValueError, match="'q'.*'other'"):
        funnel_figure(Query(id="other", modification_text="x"), pictures.gallery(), record)
    reasoned = {name: record[name] for name in ("query", "text", "descriptions", "calls")}
    with pytest.raises(ValueError, match="'q'.*retrieved"):
        funnel_figure(QUERY, pictures.gallery(), reasoned)


def test_ticks():
    propositions = [{"question": "a?", "expected": "yes"}, {"question": "b?", "expected": "no"}]
    assert ticks(propositions, ["yes", "yes"]) == "✓✗" and ticks(propositions, None) == "?"
    assert ticks([], []) == ""
