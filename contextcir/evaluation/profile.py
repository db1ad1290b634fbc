"""What a retriever returns in place of the target: its mistakes by kind, beside those of a random ranking.

For benchmarks that can name the mistake that a wrong image is. Two questions: what stands at rank 1, and how many
images of each kind stand above the first target, as far down as the ranking goes. A kind is no weakness because it is
frequent in the gallery: so what a random ranking does, in closed form, stands beside each number.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.bootstrap import interval
from contextcir.retrieval.base import Query, Ranking
from contextcir.scenes import KINDS

TARGET, UNRELATED = "target", "unrelated"
DEPTH = 50  # ranks that are looked at


def error_profile(benchmark: Benchmark, ranking: Ranking) -> dict[str, dict[str, Any]]:
    """
    Count a ranking's mistakes.

    Args:
        benchmark (`Benchmark`): With `distractors`.
        ranking (`Ranking`): Of its queries; the first 50 ids of each are looked at.

    Returns:
        `dict`: For `all` queries and for those of each tag `split:...` and `edits:...` a dict of `num_queries`,
        `recall@1` in percent, `interval` (its 95 % interval), and `kinds`: for each kind of distractor, `target` and
        `unrelated`, `rank1`, the percent of queries that have it at rank 1; `above`, how many stand above the first
        target in the mean; and `rank1_chance` and `above_chance`, the same of a random ranking.
    """
    places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
    rows = [_counts(benchmark, query, ranking.gallery_ids[places[query.id]]) for query in benchmark.queries]
    ranked = {kind for row in rows for kind in row["expected"]} - {TARGET, UNRELATED}
    kinds = [TARGET, *sorted(ranked, key=_order), UNRELATED]
    tags = dict.fromkeys(tag for query in benchmark.queries for tag in query.tags)
    tags = [tag for tag in tags if tag.startswith("split:")] + sorted(tag for tag in tags if tag.startswith("edits:"))
    groups = {"all": rows}
    for tag in tags:
        groups[tag] = [row for row, query in zip(rows, benchmark.queries, strict=True) if tag in query.tags]
    return {name: _summary(some, kinds) for name, some in groups.items()}


def _order(kind: str) -> tuple[int, str]:
    """As scenes lists them, then by name."""
    names = list(KINDS)
    return (names.index(kind) if kind in names else len(names)), kind


def _counts(benchmark: Benchmark, query: Query, ranked: Sequence[str]) -> dict[str, Any]:
    """One query: the kind at rank 1, how many of each kind stand above the first target, and both by chance."""
    targets, names = benchmark.relevance[query.id], benchmark.distractors[query.id]
    excluded = {query.reference_id} if benchmark.exclude_reference else set()
    in_gallery = Counter(kind for id_, kind in names.items() if id_ not in excluded)
    size = len(benchmark.gallery) - len(excluded & benchmark.gallery.positions.keys())
    in_gallery[UNRELATED] = size - len(targets) - in_gallery.total()

    kinds = [TARGET if id_ in targets else names.get(id_, UNRELATED) for id_ in ranked[:DEPTH]]
    above = kinds[: kinds.index(TARGET)] if TARGET in kinds else kinds
    ahead = expected_above(size, len(targets), DEPTH)
    wrong = size - len(targets)
    expected = {kind: (100 * count / size, ahead * count / wrong) for kind, count in in_gallery.items() if count}
    expected[TARGET] = (100 * len(targets) / size, 0.0)
    return {"first": kinds[0], "above": Counter(above), "expected": expected}


def expected_above(size: int, targets: int, depth: int) -> float:
    """
    How many images stand above the first target in a random ranking, of the first `depth`.

    Args:
        size (`int`): Images that are ranked.
        targets (`int`): How many of them are relevant.
        depth (`int`): How far down to look.

    Returns:
        `float`: The sum over ranks of the probability that there is no target down to there.
    """
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
        "interval": list(interval([found])),
        "kinds": by_kind,
    }


def format_profiles(profiles: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Three tables of the profiles of several retrievers, by name: what stands at rank 1, what stands above the first
    target, and recall@1 by group."""
    everything = next(iter(profiles.values()))["all"]
    tables = []
    for title, key in (
        ("At rank 1, in percent of the queries", "rank1"),
        (f"Above the first target, images in the mean (of the first {DEPTH})", "above"),
    ):
        rows = {name: [row[key] for row in profile["all"]["kinds"].values()] for name, profile in profiles.items()}
        rows["chance"] = [row[f"{key}_chance"] for row in everything["kinds"].values()]
        tables.append(_table(title, everything["kinds"], rows, "{:.2f}"))
    groups = next(iter(profiles.values()))
    rows = {name: [profile[tag]["recall@1"] for tag in groups] for name, profile in profiles.items()}
    rows["queries"] = [group["num_queries"] for group in groups.values()]
    tables.append(_table("recall@1", [tag.removeprefix("split:") for tag in groups], rows, "{:.1f}"))
    return "\n".join(tables)


def _table(title: str, columns: Iterable[str], rows: Mapping[str, Sequence[float]], form: str) -> str:
    columns = list(columns)
    names, width = max(map(len, rows)), 2 + max(8, *map(len, columns))
    cells = {name: [f"{value}" if isinstance(value, int) else form.format(value) for value in values]
             for name, values in rows.items()}  # fmt: skip
    lines = ["".ljust(names) + "".join(column.rjust(width) for column in columns)]
    lines += [name.ljust(names) + "".join(cell.rjust(width) for cell in some) for name, some in cells.items()]
    return f"{title}\n\n" + "\n".join(lines) + "\n"
