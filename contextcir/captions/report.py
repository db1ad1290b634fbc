"""Count the results of a run: pairs, answers of each stage, captions, triplets and requests.

Kept and failed pairs add up to all pairs. An answer counts once for each pair that needed it. The report is JSON; the
card and the figures are made from it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from contextcir.captions.pipeline import NOT_REACHED, PairResult
from contextcir.chat.ledger import TEMPORARY


def report_results(results: Iterable[PairResult]) -> dict[str, Any]:
    """
    Count the results of all pairs.

    Returns:
        `dict`: `pairs` (`given`, `kept`, `failed`, and of the failed ones `for_now`, whose requests failed and are
        sent again by the next run), `failures` (pairs by reason), `stages` (answers by outcome),
        `captions` (`written`, `kept`, `dropped` by gate), `operations` of the kept captions, and the `models` that
        answered.
    """
    pairs, failures, dropped, operations, models = (Counter[str]() for _ in range(5))
    stages: dict[str, Counter[str]] = {}
    for result in results:
        pairs.update(["given", "failed" if result.reason else "kept"])
        if result.reason:
            failures[result.reason] += 1
            pairs["for_now"] += result.reason == NOT_REACHED or result.reason.endswith(f": {TEMPORARY}")
        for stage in result.stages:
            stages.setdefault(stage["stage"], Counter())[stage["outcome"]] += 1
            models[stage["model"]] += stage["outcome"] == "answered"
        dropped.update(entry["dropped"] or "" for entry in result.captions)
        operations.update(caption.operation for caption in result.kept if caption.operation)
    written = sum(dropped.values())
    kept = dropped.pop("", 0)
    return {
        "pairs": {name: pairs[name] for name in ("given", "kept", "failed", "for_now")},
        "failures": dict(failures.most_common()),
        "stages": {stage: dict(counts.most_common()) for stage, counts in stages.items()},
        "captions": {"written": written, "kept": kept, "dropped": dict(dropped.most_common())},
        "operations": dict(operations.most_common()),
        "models": sorted(name for name, count in models.items() if count and name),
    }


class TripletCounts:
    """Counts triplets while they are written."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {name: Counter() for name in ("changes", "words", "noun_phrases")}

    def count(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the same rows, and count each."""
        for row in rows:
            sizes = row["num_changes"], len(row["modification_text"].split()), len(row["noun_phrases"])
            for counts, size in zip(self._counts.values(), sizes, strict=True):
                counts[size] += 1
            yield row

    def report(self) -> dict[str, Any]:
        """Return the `total`, and histograms of the number of `changes`, `words` and `noun_phrases` of a triplet."""
        histograms = {
            name: {str(size): counts[size] for size in sorted(counts)} for name, counts in self._counts.items()
        }
        return {"total": self._counts["changes"].total(), **histograms}


def report_requests(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Sum up the requests of all runs on a folder.

    Args:
        rows (`Iterable[Mapping]`): From [`~contextcir.chat.ledger.Ledger.report`].

    Returns:
        `dict`: `requests`, `sends` (how often these were sent), `prompt_tokens`, `completion_tokens`, `usd`, and of
        the requests those that are `doubtful` (no usage that can be believed, booked at the upper bound) and
        `overcharged` (above it), in total and for each of `stages`.
    """
    names = ("requests", "sends", "prompt_tokens", "completion_tokens", "usd", "doubtful", "overcharged")
    stages: dict[str, dict[str, Any]] = {}
    for row in rows:
        stage = stages.setdefault(row["role"], {"stage": row["role"], **dict.fromkeys(names, 0)})
        for name in names:
            stage[name] += row[name]
    totals = {name: sum(stage[name] for stage in stages.values()) for name in names}
    return totals | {"stages": list(stages.values())}
