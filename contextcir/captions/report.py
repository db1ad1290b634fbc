"""What became of everything, in numbers: the pairs, the answers of each stage, the captions, the triplets.

`pairs` adds up: kept and failed are all that were given. Answers count once for each pair that needed them. The report
is JSON; the card and the figures are made from it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from contextcir.captions.pipeline import PairResult


def report_results(results: Iterable[PairResult]) -> dict[str, Any]:
    """
    Count.

    Args:
        results (`Iterable[PairResult]`): Of all pairs.

    Returns:
        `dict`: `pairs` (`given`, `kept`, `failed`), `failures` (pairs by reason), `stages` (answers by outcome),
        `captions` (`written`, `kept`, `dropped` by gate), `operations` of the kept captions, and the `models` that
        answered.
    """
    pairs, failures, dropped, operations, models = Counter(), Counter(), Counter(), Counter(), Counter()
    stages: dict[str, Counter] = {}
    for result in results:
        pairs.update(["given", "failed" if result.reason else "kept"])
        if result.reason:
            failures[result.reason] += 1
        for stage in result.stages:
            stages.setdefault(stage["stage"], Counter())[stage["outcome"]] += 1
            models[stage["model"]] += stage["outcome"] == "answered"
        dropped.update(entry["dropped"] or "" for entry in result.captions)
        operations.update(caption.operation for caption in result.kept if caption.operation)
    written = sum(dropped.values())
    kept = dropped.pop("", 0)
    return {
        "pairs": {name: pairs[name] for name in ("given", "kept", "failed")},
        "failures": dict(failures.most_common()),
        "stages": {stage: dict(counts.most_common()) for stage, counts in stages.items()},
        "captions": {"written": written, "kept": kept, "dropped": dict(dropped.most_common())},
        "operations": dict(operations.most_common()),
        "models": sorted(name for name, count in models.items() if count and name),
    }


class TripletCounts:
    """Counts triplets while they are written."""

    def __init__(self):
        self.changes, self.words, self.phrases = Counter(), Counter(), Counter()

    def count(self, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        """The same rows, each counted as it passes."""
        for row in rows:
            self.changes[row["num_changes"]] += 1
            self.words[len(row["modification_text"].split())] += 1
            self.phrases[len(row["noun_phrases"])] += 1
            yield row

    def report(self) -> dict[str, Any]:
        """`total`, and how many have so many `changes`, `words` and `noun_phrases`."""
        kinds = {"changes": self.changes, "words": self.words, "noun_phrases": self.phrases}
        histograms = {name: {str(size): counts[size] for size in sorted(counts)} for name, counts in kinds.items()}
        return {"total": self.changes.total(), **histograms}


def report_requests(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """
    What all runs on a folder have sent.

    Args:
        rows (`Iterable[Mapping]`): As `Ledger.report` gives them.

    Returns:
        `dict`: `prompt_tokens`, `completion_tokens` and `usd`, in all and for each of `stages`, with `requests` and
        how often these were sent (`sends`).
    """
    names = ("requests", "sends", "prompt_tokens", "completion_tokens", "usd")
    stages: dict[str, dict[str, Any]] = {}
    for row in rows:
        stage = stages.setdefault(row["role"], {"stage": row["role"], **dict.fromkeys(names, 0)})
        for name in names:
            stage[name] += row[name]
    totals = {name: sum(stage[name] for stage in stages.values()) for name in names}
    return totals | {"stages": list(stages.values())}
