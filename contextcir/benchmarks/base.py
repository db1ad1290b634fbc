"""A benchmark: its gallery, queries and relevance, and the protocol that scores a ranking.

A benchmark sees ranked ids only, never a model. Some faulty rankings would give plausible but wrong numbers: they are
incomplete, repeat an id, or hold an excluded reference. Each of these is an error that names the query.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from contextcir.metrics.chance import chance
from contextcir.metrics.ranking import average_precision_at_k, hit_at_k, share_at_k
from contextcir.retrieval.base import Gallery, Query, Ranking, Retriever, refuse_repeated

Item = TypeVar("Item")

# Metric of one query: (ranked ids, targets, k) -> percent. Metrics that end in _subset rank the query's candidates.
METRICS = {
    "recall": hit_at_k,
    "recall_share": share_at_k,
    "recall_subset": hit_at_k,
    "map": average_precision_at_k,
}


@dataclass
class Benchmark:
    """
    Data and protocol of one benchmark split.

    Args:
        name (`str`): The name in tables.
        protocol_id (`str`): Data version, split and rules. Only numbers with the same id can be compared.
        gallery (`Gallery`): All images to search.
        queries (`list[Query]`): The queries.
        relevance (`dict[str, set[str]]`): Query id -> ids of its targets. Empty if the targets are not public: then
            rankings can be checked but not scored.
        exclude_reference (`bool`): Whether to leave the reference image out of the ranking.
        metrics (`dict[str, tuple[int, ...]]`): Metric -> values of k. `recall`: whether any target is found.
            `recall_share`: the share of the targets that is found. `map`: mean average precision. `recall_subset`:
            recall among each query's candidates without the reference, for queries that have candidates. By default
            `recall`; also `recall_subset` if there are candidates, and `map` if a query has several targets.
        part (`str`): Name of this part, if the benchmark has several galleries or tasks.
        main_targets (`dict[str, str]`, *optional*): Query id -> the only target that `recall` counts. `map` counts
            all targets.
        candidates_only (`bool`): Whether every metric ranks the query's candidates instead of the gallery.
        unanswerable (`bool`): Whether a query may have no target. Such a query scores 0.
        empty_texts (`bool`): Whether a modification text may be empty, as one of CIRR is.
        distractors (`dict[str, dict[str, str]]`, *optional*): Query id -> gallery id -> the kind of mistake that
            this wrong image is, if it is known.
        ground_truth (`Callable[[], Mapping]`, *optional*): Loads what the noun phrases denote, by query id, if it is
            known (scenes).
        missing (`dict[str, str]`): Id of an image of the gallery whose file is not there -> the reason.
        remarks (`tuple[str, ...]`): Sentences that who measures must know, such as about images in unusual places.

    Raises:
        `ValueError`: An id is unknown or repeated, a text is empty, or a query has no target that can be found.
    """

    name: str
    protocol_id: str
    gallery: Gallery
    queries: list[Query]
    relevance: Mapping[str, set[str] | frozenset[str]]
    exclude_reference: bool
    metrics: dict[str, tuple[int, ...]] = field(default_factory=dict)
    part: str = ""
    main_targets: Mapping[str, str] | None = None
    candidates_only: bool = False
    unanswerable: bool = False
    empty_texts: bool = False
    distractors: Mapping[str, Mapping[str, str]] | None = None
    ground_truth: Callable[[], Mapping[str, Any]] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.queries:
            raise ValueError(f"{self.name}: there are no queries.")
        refuse_repeated([query.id for query in self.queries], f"{self.name}: the queries")
        for query in self.queries:
            self._check_query(query)
        has_candidates = any(query.candidate_ids for query in self.queries)
        if not self.metrics:
            self.metrics = {"recall": (1, 5, 10, 50)}
            if has_candidates:
                self.metrics["recall_subset"] = (1, 2, 3)
            if any(len(targets) > 1 for targets in self.relevance.values()):
                self.metrics["map"] = (5, 10, 25, 50)
        if other := self.metrics.keys() - METRICS.keys():
            raise ValueError(f"{self.name}: there is no metric {min(other)!r}. Choose from {', '.join(METRICS)}.")
        if not has_candidates and any(self._ranks_candidates(name) for name in self.metrics):
            raise ValueError(f"{self.name}: no query has candidate_ids to rank, which {', '.join(self.metrics)} need.")
        if unknown := self.relevance.keys() - {query.id for query in self.queries}:
            raise ValueError(f"{self.name}: relevance has the query {min(unknown)!r}, which is not among the queries.")

    @property
    def is_scored(self) -> bool:
        """`bool`: Whether the targets are known."""
        return bool(self.relevance)

    @property
    def k(self) -> int:
        """`int`: How many ids of the gallery a ranking needs for each query."""
        return max([1, *(k for name, ks in self.metrics.items() if not self._ranks_candidates(name) for k in ks)])

    @property
    def unit_ids(self) -> list[str]:
        """`list[str]`: The ids that the numbers of [`Benchmark.scores`] belong to: those of the queries."""
        return [query.id for query in self.queries]

    @property
    def wanted(self) -> Mapping[str, str] | None:
        """`Mapping[str, str]`, *optional*: Query id -> gallery id whose rank a metric needs, however low it is."""
        return None

    def restricted_to(self, queries: Sequence[Query]) -> "Benchmark":
        """Return the same benchmark with only these of its queries, and the whole gallery."""
        ids = {query.id for query in queries}

        def of_these(mapping):
            return mapping and {id_: value for id_, value in mapping.items() if id_ in ids}

        return replace(
            self,
            queries=list(queries),
            relevance=of_these(self.relevance),
            main_targets=of_these(self.main_targets),
            distractors=of_these(self.distractors),
        )

    def rank(self, retriever: Retriever) -> Ranking:
        """
        Search the gallery with a retriever as the protocol requires: number of ids, reference excluded or not.

        Args:
            retriever (`Retriever`): For example a [`~contextcir.retrieval.dense.DenseRetriever`].

        Returns:
            `Ranking`: The argument of [`Benchmark.scores`].
        """
        return retriever.search(
            self.queries, self.gallery, self.k, exclude_reference=self.exclude_reference, wanted=self.wanted
        )

    def scores(self, ranking: Ranking) -> dict[str, np.ndarray]:
        """
        Score a ranking by the benchmark's protocol, query by query.

        Args:
            ranking (`Ranking`): One entry for each query, in any order.

        Returns:
            `dict[str, np.ndarray]`: `metric@k` -> scores of shape `(num_queries,)` in [0, 100], in the order of
            `queries`. NaN if a metric ranks candidates and the query has none.

        Raises:
            `ValueError`: The targets are not public. Or the ranking misses a query, has a repeated or unknown id, is
                too short, holds an excluded reference, or has a score that is NaN.
        """
        self._check_scored()
        places = self.check(ranking)
        return {
            f"{name}@{k}": np.array([self._score(name, k, query, ranking, places[query.id]) for query in self.queries])
            for name, ks in self.metrics.items()
            for k in ks
        }

    def _check_scored(self) -> None:
        if not self.is_scored:
            raise ValueError(f"{self.protocol_id}: the targets are not public. Write a submission for its server.")

    def _score(self, name: str, k: int, query: Query, ranking: Ranking, place: int) -> float:
        ranked = ranking.gallery_ids
        if self._ranks_candidates(name):
            if not query.candidate_ids:
                return float("nan")
            ranked = ranking.candidate_ids or []
        targets = self.targets(name, query)
        return METRICS[name](ranked[place], targets, k) if targets else 0.0

    def evaluate(self, ranking: Ranking) -> dict[str, float]:
        """Return the means of [`Benchmark.scores`] over the queries: `metric@k` -> percent."""
        return means(self.scores(ranking))

    def chance(self) -> dict[str, float]:
        """Return the expected scores of a random ranking, in closed form: `metric@k` -> percent."""
        self._check_scored()
        found = {}
        for name, ks in self.metrics.items():
            counts = Counter(self._sizes(name))  # few different ones
            for k in ks:
                expected = {size: chance(name.removesuffix("_subset"), k, *size) for size in counts if size[1]}
                found[f"{name}@{k}"] = sum(value * counts[size] for size, value in expected.items()) / counts.total()
        return found

    def _sizes(self, metric: str) -> Iterator[tuple[int, int]]:
        """Yield the number of ranked images and of targets among them, for each query that has the metric."""
        for query in self.queries:
            targets = self.targets(metric, query)
            if not self._ranks_candidates(metric):
                yield len(self.gallery) - self._excludes(query), len(targets)
            elif query.candidate_ids:
                yield len(query.ranked_candidate_ids), len(targets & set(query.candidate_ids))

    def targets(self, name: str, query: Query) -> frozenset[str] | set[str]:
        """Return the targets that the metric `name` counts for a query."""
        if name == "recall" and self.main_targets is not None:
            return {self.main_targets[query.id]}
        return self.relevance.get(query.id, frozenset())

    def _ranks_candidates(self, metric: str) -> bool:
        return self.candidates_only or metric.endswith("_subset")

    def _excludes(self, query: Query) -> bool:
        """Whether an image of the gallery is left out of the query's ranking."""
        return self.exclude_reference and query.reference_id in self.gallery.positions

    def check(self, ranking: Ranking) -> dict[str, int]:
        """
        Check a ranking for faults that would give plausible but wrong numbers.

        Args:
            ranking (`Ranking`): One entry for each query, in any order.

        Returns:
            `dict[str, int]`: Query id -> its position in the ranking.

        Raises:
            `ValueError`: As for [`Benchmark.scores`].
        """
        refuse_repeated(ranking.query_ids, f"{self.name}: the ranking's queries")
        places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
        if missing := [query.id for query in self.queries if query.id not in places]:
            raise ValueError(f"{self.name}: the ranking misses {len(missing)} of the queries, such as {missing[0]!r}.")
        if len(places) > len(self.queries):
            unknown = min(places.keys() - {query.id for query in self.queries})
            raise ValueError(f"{self.name}: the ranking holds {unknown!r}, which is not among the queries.")
        for name in ("gallery_ids", "scores", "candidate_ids"):
            rows = getattr(ranking, name)
            if rows is not None and len(rows) != len(places):
                raise ValueError(f"{self.name}: the ranking has {len(rows)} {name} for {len(places)} queries.")
        for query in self.queries:
            self._check_ranked(query, ranking, places[query.id])
        return places

    def _check_query(self, query: Query) -> None:
        where = f"{self.name}: query {query.id!r}"
        if not isinstance(query.modification_text, str):
            raise ValueError(f"{where} has the modification_text {query.modification_text!r}, expected a string.")
        if not (self.empty_texts or query.modification_text.strip()):
            raise ValueError(f"{where} has an empty modification_text.")
        if self.exclude_reference and query.reference_image is not None and query.reference_id is None:
            raise ValueError(f"{where} has no reference_id. The protocol excludes the reference: give its id.")
        targets = self.relevance.get(query.id, set())
        if self.is_scored and not (targets or self.unanswerable):
            raise ValueError(f"{where} has no target. Add it to the relevance, or leave the query out.")
        for kind, ids in (("target", targets), ("candidate", query.candidate_ids)):
            if missing := [id_ for id_ in ids if id_ not in self.gallery.positions]:
                raise ValueError(f"{where} has the {kind} {missing[0]!r}, which is not in the gallery.")
        if self.main_targets is not None and self.main_targets.get(query.id) not in targets:
            raise ValueError(
                f"{where} has the main target {self.main_targets.get(query.id)!r}, expected one of its targets."
            )
        if self.exclude_reference and query.reference_id in targets:
            raise ValueError(f"{where} has its reference {query.reference_id!r} as a target, but it is excluded.")
        refuse_repeated(query.candidate_ids, f"{where}: the candidates")
        if self.is_scored and query.candidate_ids and targets.isdisjoint(query.ranked_candidate_ids):
            raise ValueError(f"{where} has no target among its candidates.")

    def _check_ranked(self, query: Query, ranking: Ranking, place: int) -> None:
        where, ids = f"{self.name}: the ranking of query {query.id!r}", ranking.gallery_ids[place]
        refuse_repeated(ids, where)
        if unknown := [id_ for id_ in ids if id_ not in self.gallery.positions]:
            raise ValueError(f"{where} holds {unknown[0]!r}, which is not in the gallery.")
        excluded = self._excludes(query)
        if excluded and query.reference_id in ids:
            raise ValueError(f"{where} holds its reference {query.reference_id!r}, which the protocol excludes.")
        needed = min(self.k, len(self.gallery) - excluded)
        if len(ids) < needed:
            raise ValueError(f"{where} holds {len(ids)} ids, expected {needed}. Search with k={self.k}.")
        if ranking.scores is not None:
            scores = ranking.scores[place]
            if len(scores) != len(ids) or np.isnan(scores).any():
                raise ValueError(f"{where} holds {len(scores)} scores for {len(ids)} ids, or a score that is NaN.")
        if query.candidate_ids:
            ranked = ranking.candidate_ids[place] if ranking.candidate_ids is not None else []
            if sorted(ranked) != sorted(query.ranked_candidate_ids):
                raise ValueError(
                    f"{where} has the candidates {ranked}, expected each of {query.ranked_candidate_ids} once."
                )


def means(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of each metric over the queries that have it."""
    return {name: float(np.nanmean(values)) for name, values in scores.items()}


def means_by_tag(queries: Sequence[Query], scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return, for each tag, `num_queries` and the means over its queries, without metrics that none of them has."""
    found = {}
    for tag in sorted({tag for query in queries for tag in query.tags}):
        tagged = np.array([tag in query.tags for query in queries])
        some = {name: values[tagged] for name, values in scores.items() if not np.isnan(values[tagged]).all()}
        found[tag] = {"num_queries": int(tagged.sum()), **means(some)}
    return found


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """Return the items at positions 0, N/count, 2N/count, ...; all N items if there are at most `count`."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]
