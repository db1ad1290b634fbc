"""Error profile: the mistakes of a retriever by kind, compared with a random ranking.

For benchmarks that know the kind of mistake of each wrong image. The profile counts what is at rank 1, and the images
of each kind above the first target, as far down as the ranking goes. A kind may only be frequent because the gallery
has many such images. So each number is reported together with that of a random ranking, in closed form.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.bootstrap import interval
from contextcir.evaluation.results import align
from contextcir.retrieval.base import Query, Ranking
from contextcir.scenes import KINDS

TARGET, UNRELATED = "target", "unrelated"
DEPTH = 50  # ranks to count


def error_profile(benchmark: Benchmark, ranking: Ranking) -> dict[str, dict[str, Any]]:
    """
    Count the mistakes of a ranking.

    Args:
        benchmark (`Benchmark`): A benchmark with `distractors`.
        ranking (`Ranking`): A ranking of its queries. The first 50 ids of each query are counted.

    Returns:
        `dict`: For `all` queries and for each tag `split:...` and `edits:...` a dict of `num_queries`, `recall@1` in
        percent, `interval` (its 95 % interval) and `kinds`. `kinds` has for each kind of distractor, `target` and
        `unrelated`: `rank1`, the percentage of queries with this kind at rank 1; `above`, the mean number above the
        first target; and `rank1_chance` and `above_chance`, the same for a random ranking.
    """
    places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
    rows = [_counts(benchmark, query, ranking.gallery_ids[places[query.id]]) for query in benchmark.queries]
    ranked = {kind for row in rows for kind in row["expected"]} - {TARGET, UNRELATED}
    in_order = [kind for kind in KINDS if kind in ranked] + sorted(ranked - set(KINDS))
    kinds = [TARGET, *in_order, UNRELATED]
    tags = list(dict.fromkeys(tag for query in benchmark.queries for tag in query.tags))
    tags = [tag for tag in tags if tag.startswith("split:")] + sorted(tag for tag in tags if tag.startswith("edits:"))
    groups = {"all": rows}
    for tag in tags:
        groups[tag] = [row for row, query in zip(rows, benchmark.queries, strict=True) if tag in query.tags]
    return {name: _summary(some, kinds) for name, some in groups.items()}


def _counts(benchmark: Benchmark, query: Query, ranked: Sequence[str]) -> dict[str, Any]:
    """Count for one query: the kind at rank 1, each kind above the first target, and the expectation of both."""
    targets, names = benchmark.relevance[query.id], (benchmark.distractors or {}).get(query.id, {})
    excluded = {query.reference_id} if benchmark.exclude_reference else set()
    in_gallery = Counter(kind for id_, kind in names.items() if id_ not in excluded)
    size = len(benchmark.gallery) - len(excluded & benchmark.gallery.positions.keys())
    in_gallery[UNRELATED] = size - len(targets) - in_gallery.total()

    kinds = [TARGET if id_ in targets else names.get(id_, UNRELATED) for id_ in ranked[:DEPTH]]
    above = kinds[: kinds.index(TARGET)] if TARGET in kinds else kinds
    ahead = _expected_above(size, len(targets), DEPTH)
    wrong = size - len(targets)
    expected = {kind: (100 * count / size, ahead * count / wrong) for kind, count in in_gallery.items() if count}
    expected[TARGET] = (100 * len(targets) / size, 0.0)
    return {"first": kinds[0], "above": Counter(above), "expected": expected}


def _expected_above(size: int, targets: int, depth: int) -> float:
    """Compute the expected number of images above the first target in a random ranking, among the first `depth`: the
    sum over ranks of the probability that no target is at this rank or above."""
    none_yet, total = 1.0, 0.0
    for rank in range(min(depth, size - targets)):
        none_yet *= (size - targets - rank) / (size - rank)
        total += none_yet
    return total


def _summary(rows: Sequence[Mapping[str, Any]], kinds: Iterable[str]) -> dict[str, Any]:
    found = np.array([100.0 * (row["first"] == TARGET) for row in rows])
    by_kind = {}
    for kind in kinds:
        chances = np.array([row["expected"].get(kind, (0.0, 0.0)) for row in rows]).mean(axis=0)
        by_kind[kind] = {
            "rank1": 100 * sum(row["first"] == kind for row in rows) / len(rows),
            "rank1_chance": float(chances[0]),
            "above": sum(row["above"][kind] for row in rows) / len(rows),
            "above_chance": float(chances[1]),
        }
    return {
        "num_queries": len(rows),
        "recall@1": float(found.mean()),
        "interval": interval([found]).tolist(),
        "kinds": by_kind,
    }


def format_profiles(profiles: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Format the profiles of several retrievers, by name, as three tables: what is at rank 1, what is above the first
    target, and recall@1 by group."""
    first = next(iter(profiles.values()))
    kinds = first["all"]["kinds"]
    tables = []
    for title, key in (
        ("At rank 1, in percent of the queries", "rank1"),
        (f"Above the first target, mean number of images (among the first {DEPTH})", "above"),
    ):
        rows = [["", *kinds]]
        for name, profile in profiles.items():
            rows.append([name, *(f"{row[key]:.2f}" for row in profile["all"]["kinds"].values())])
        rows.append(["chance", *(f"{row[f'{key}_chance']:.2f}" for row in kinds.values())])
        tables.append(f"{title}\n\n{align(rows)}\n")
    rows = [["", *(tag.removeprefix("split:") for tag in first)]]
    rows += [[name, *(f"{profile[tag]['recall@1']:.1f}" for tag in first)] for name, profile in profiles.items()]
    rows.append(["queries", *(str(group["num_queries"]) for group in first.values())])
    return "\n".join([*tables, f"recall@1\n\n{align(rows)}\n"])
