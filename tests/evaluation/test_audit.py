"""Audits of retrievers with known results, their charts and their page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.audit import CARRIERS, KINDS, Case, _failure_kind, audit
from contextcir.evaluation.audit_page import audit_page
from contextcir.retrieval.base import Gallery, Query, Ranking
from tests.tiny_triplets import png

IDS = [f"g{number:02d}" for number in range(14)]
TEXTS = ["red", "make the dog red", "a cat on the mat", "blue & <b>"]


def benchmark(**changes):
    queries = [Query(f"q{number}", text, reference_id=IDS[number]) for number, text in enumerate(TEXTS)]
    relevance = {f"q{number}": {IDS[number + 4]} for number in range(4)}
    images = [png(number, (20, 12)) for number in range(len(IDS))]
    given = dict(name="tiny", protocol_id="tiny/test", exclude_reference=True, gallery=Gallery(IDS, images))
    return Benchmark(**(given | {"queries": queries, "relevance": relevance} | changes))


class Finder:
    """Ranks the target first if the text of the query is in `knows`, and other images in the order of the gallery."""

    def __init__(self, knows):
        self.knows, self.asked = knows, []

    def search(self, queries, gallery, k, *, exclude_reference=False, wanted=None):
        self.asked += [query.modification_text for query in queries]
        ranked = []
        for query in queries:
            own = IDS[IDS.index(query.reference_id) + 4]
            others = [id_ for id_ in gallery.ids if id_ not in (query.reference_id, own)]
            found = query.modification_text in self.knows
            ranked.append(([own, *others] if found else others)[:k])
        return Ranking([query.id for query in queries], ranked, [[1.0] * k] * len(queries))


def similarity(query, gallery):
    """Decreasing along the gallery for the image, increasing for the text."""
    falling = np.linspace(1, 0, len(gallery))
    return falling, falling[::-1]


@pytest.fixture(scope="module")
def found():
    composed = Finder({"red", "make the dog red", CARRIERS[0].format("red"), "make red"})
    phrases = {TEXTS[1]: [(0, 16), (5, 12)], TEXTS[2]: [(0, 5), (9, 16)], TEXTS[0]: [(0, 3)]}
    result = audit([benchmark()], composed, Finder({"red"}), Finder({"red", TEXTS[2]}), similarity, phrases)
    return result, composed


def test_modality(found):
    at_one = found[0].findings["modality"]["recall@1"]
    expected = {"composed": 50, "image": 25, "text": 50, "image or text": 50, "only composed": 25}
    assert {key: at_one[key] for key in expected} == expected
    assert at_one["only image or text"] == 25 and at_one["better half"] == "text"
    assert at_one["composition gap"] == 0 and at_one["composition gap interval"][0] < 0


def test_failures_and_lengths(found):
    findings = found[0].findings
    assert findings["failures"]["num_failures"] == 2
    assert sum(findings["failures"]["kinds"].values()) == pytest.approx(100)
    assert [(row["from"], row["num_queries"], row["recall@1"]) for row in findings["length"]] == [(1, 4, 50)]
    assert [(row["from"], row["num_queries"], row["recall@1"]) for row in findings["phrases"]] == [
        (0, 1, 0),  # no noun phrase is known of the last text
        (1, 1, 100),
        (2, 2, 50),
    ]


def test_paraphrases_and_dropped_phrases(found):
    result, composed = found
    paraphrase, dropping = result.findings["paraphrase"], result.findings["dropping"]
    assert paraphrase["num_variants"] == 4 * len(CARRIERS)
    assert paraphrase["recall@10 before"] == 50 and paraphrase["recall@10 after"] == pytest.approx(100 / 12)
    # "red" without "red" is empty and not searched. Only the innermost phrase of "make the dog red" is dropped.
    assert dropping["num_variants"] == 3
    assert "make red" in composed.asked and "a cat on" in composed.asked and "on the mat" in composed.asked
    assert dropping["recall@10 before"] == pytest.approx(100 / 3) == dropping["recall@10 after"]


@pytest.mark.parametrize(
    ("top", "kind"), [("n", "near copy"), ("i", "ignores the text"), ("t", "ignores the image"), ("o", "other")]
)
def test_kinds_of_failure(top, kind):
    image = {"n": 0.99, "i": 0.8, "t": 0.1, "o": 0.2, "target": 0.5}
    text = {"n": 0.1, "i": 0.1, "t": 0.8, "o": 0.2, "target": 0.5}
    assert _failure_kind(top, ["target"], image, text, ["n"]) == kind
    assert kind in KINDS


def test_recall_counts_the_targets_of_the_benchmark():
    first = {f"q{number}": IDS[number + 4] for number in range(4)}
    relevance = {id_: {target, IDS[13]} for id_, target in first.items()}
    for main_targets, recall in ((None, 100), (first | {"q0": IDS[13]}, 75)):
        part = benchmark(relevance=relevance, main_targets=main_targets)
        result = audit([part], Finder(TEXTS), Finder(()), Finder(()), similarity, {})
        assert result.findings["modality"]["recall@1"]["composed"] == recall


def test_benchmarks_that_cannot_be_audited_are_refused():
    queries = [replace(query, reference_id=None) for query in benchmark().queries]
    for part in (benchmark(relevance={}), benchmark(queries=queries), benchmark(unanswerable=True)):
        with pytest.raises(ValueError, match="^tiny/test: .*reference image .*targets"):
            audit([part], *[Finder(())] * 3, similarity, {})
    queries = [replace(q, candidate_ids=tuple(benchmark().gallery.ids)) for q in benchmark().queries]
    with pytest.raises(ValueError, match="^tiny/test .*candidates"):
        audit([benchmark(queries=queries, candidates_only=True)], *[Finder(())] * 3, similarity, {})


def test_a_retriever_that_changes_the_order_is_refused():
    class Backwards(Finder):
        def search(self, queries, *args, **kwargs):
            return super().search(queries[::-1], *args, **kwargs)

    with pytest.raises(ValueError, match="order"):
        audit([benchmark()], Backwards(()), Finder(()), Finder(()), similarity, {})


def test_the_page_shows_every_case_and_loads_nothing(found, monkeypatch):
    page = audit_page(found[0], [benchmark()], "runs/<demo>")
    assert page.count("<article") == 4
    assert "blue &amp; &lt;b&gt;" in page and "runs/&lt;demo&gt;" in page
    assert re.findall(r'data-kind="(.*?)"', page) == [case.kind or "solved" for case in found[0].cases]
    assert not re.search(r"(?:src|href)=[\"']?(?!data:)\w", page) and "http" not in page
    images = json.loads(re.search(r"const images = (\{.*?\});", page).group(1))
    assert set(re.findall(r'data-id="(.*?)"', page)) == set(images)
    assert all(image.startswith("data:image/jpeg;base64,") for image in images.values())
    assert page.count('class="target"') == 4  # among the best, or after them
    monkeypatch.setattr("contextcir.evaluation.audit_page.MAX_CASES", 2)
    few = audit_page(found[0], [benchmark()], "x")
    assert few.count("<article") == 2


def test_charts(found, tmp_path):
    pytest.importorskip("matplotlib")
    from contextcir.visualization import audit_figures, save_png

    figures = audit_figures(found[0].findings)
    assert list(figures) == ["modality", "failures", "length", "phrases", "listening"]
    heights = [bar.get_height() for bar in figures["modality"].axes[0].patches]
    assert heights[:5] == [50, 25, 50, 50, 25]  # recall@1
    widths = [bar.get_width() for bar in figures["failures"].axes[0].patches]
    assert widths == list(found[0].findings["failures"]["kinds"].values())
    for name, figure in figures.items():
        save_png(figure, tmp_path / f"{name}.png")
    assert isinstance(found[0].cases[0], Case)
