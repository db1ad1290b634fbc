"""Triplets and requests are counted."""

from contextcir.captions.report import TripletCounts, report_requests


def test_triplets_are_counted_while_they_are_written():
    rows = [
        {"num_changes": 1, "modification_text": "a b c", "noun_phrases": [1, 2]},
        {"num_changes": 2, "modification_text": "a b c", "noun_phrases": []},
    ]
    counts = TripletCounts()
    assert list(counts.count(rows)) == rows
    histograms = {"changes": {"1": 1, "2": 1}, "words": {"3": 2}, "noun_phrases": {"0": 1, "2": 1}}
    assert counts.report() == {"total": 2, **histograms}


def test_requests_are_summed_by_stage():
    row = {"state": "answered", "requests": 2, "sends": 3, "prompt_tokens": 5, "completion_tokens": 7}
    row |= {"doubtful": 1, "overcharged": 0}
    stages = (("a", "answered", 1.5), ("a", "cut", 0.5), ("b", "answered", 0.0))
    report = report_requests([row | {"role": role, "kind": kind, "usd": usd} for role, kind, usd in stages])
    sums = {
        "requests": 4,
        "sends": 6,
        "prompt_tokens": 10,
        "completion_tokens": 14,
        "usd": 2.0,
        "doubtful": 2,
        "overcharged": 0,
    }
    assert report["stages"][0] == {"stage": "a", **sums}
    assert (report["requests"], report["usd"]) == (6, 2.0)
