"""A benchmark: a gallery, queries, what is relevant to each, and the protocol by which a ranking is scored.

Data never imports models: a benchmark sees ranked ids only. A ranking that is incomplete, repeats an id or returns the
reference where the protocol leaves it out gives plausible numbers that are wrong, so each is an error that names the
query.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from contextcir.metrics.chance import chance
from contextcir.metrics.ranking import average_precision_at_k, hit_at_k, share_at_k
from contextcir.retrieval.base import Gallery, Query, Ranking, Retriever, refuse_repeated

Item = TypeVar("Item")

# Metric of one query: (ranked ids, targets, k) -> percent. What ends in _subset ranks the query's candidates.
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
        name (`str`): What tables call it.
        protocol_id (`str`): Data version, split and rules in one word. Numbers compare only under the same id.
        gallery (`Gallery`): All images to search.
        queries (`list[Query]`): The queries.
        relevance (`dict[str, set[str]]`): The ids of each query's targets, by query id. Empty where targets are not
            public: such a benchmark checks rankings and cannot score them.
        exclude_reference (`bool`): Whether the reference image leaves the ranking.
        metrics (`dict[str, tuple[int, ...]]`): What is reported at which k. `recall` (found, if any target is),
            `recall_share` (the share of the targets that is found), `map`; and `recall_subset`, over each query's
            candidates without the reference, for those queries that have some.
        part (`str`): Where a benchmark has several galleries or tasks, which one this is.
        main_targets (`dict[str, str]`, *optional*): The one target that recall counts, where mAP counts all.
        candidates_only (`bool`): Whether each query's candidates are all its gallery, for every metric.
        unanswerable (`bool`): Whether a query may have no target, and then scores 0.
        empty_texts (`bool`): Whether a text may be empty, as one of CIRR's is, and is to be answered nevertheless.
        distractors (`dict[str, dict[str, str]]`, *optional*): In a word, the mistake that a wrong image is for a
            query, by query id and gallery id; where that is known of some.
        ground_truth (`Callable[[], Mapping]`, *optional*): Loads what noun phrases denote, by query id; where that is
            known (scenes).

    Raises:
        `ValueError`: Ids are unknown or repeated, a text is empty, or a query has no target that could be found.
    """

    name: str
    protocol_id: str
    gallery: Gallery
    queries: list[Query]
    relevance: Mapping[str, set[str] | frozenset[str]]
    exclude_reference: bool
    metrics: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"recall": (1, 5, 10, 50)})
    part: str = ""
    main_targets: Mapping[str, str] | None = None
    candidates_only: bool = False
    unanswerable: bool = False
    empty_texts: bool = False
    distractors: Mapping[str, Mapping[str, str]] | None = None
    ground_truth: Callable[[], Mapping[str, Any]] | None = None

    def __post_init__(self):
        if not self.queries:
            raise ValueError(f"{self.name}: there are no queries.")
        refuse_repeated([query.id for query in self.queries], f"{self.name}: the queries")
        for query in self.queries:
            self._check_query(query)
        ranks_candidates = self.candidates_only or any(name.endswith("_subset") for name in self.metrics)
        if ranks_candidates and not any(query.candidate_ids for query in self.queries):
            raise ValueError(f"{self.name}: no query has candidate_ids to rank, which {', '.join(self.metrics)} need.")
        if unknown := self.relevance.keys() - {query.id for query in self.queries}:
            raise ValueError(
                f"{self.name}: relevance names the query {min(unknown)!r}, which is not among the queries."
            )

    @property
    def is_scored(self) -> bool:
        """`bool`: Whether the targets are known."""
        return bool(self.relevance)

    @property
    def k(self) -> int:
        """`int`: How many ids of the gallery a ranking needs to hold for each query."""
        of_gallery = {} if self.candidates_only else self.metrics
        return max([1, *(k for name, ks in of_gallery.items() if not name.endswith("_subset") for k in ks)])

    @property
    def unit_ids(self) -> list[str]:
        """`list[str]`: What each number of [`Benchmark.scores`] belongs to: a query."""
        return [query.id for query in self.queries]

    @property
    def wanted(self) -> Mapping[str, str] | None:
        """`Mapping[str, str]`, *optional*: The images whose rank a metric needs, however low, by query id."""
        return None

    def restricted_to(self, queries: Sequence[Query]) -> "Benchmark":
        """The same benchmark with some of its queries only, against the whole gallery."""
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
        Let a retriever rank the gallery as the protocol demands it: how many ids, with or without the reference.

        Args:
            retriever (`Retriever`): Such as a [`~contextcir.retrieval.dense.DenseRetriever`].

        Returns:
            `Ranking`: What [`Benchmark.scores`] takes.
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
            `dict[str, np.ndarray]`: Under `metric@k`, one number in [0, 100] for each query in the order of
            `queries`; NaN where a query has no candidates and the metric ranks them.

        Raises:
            `ValueError`: The targets are not public. Or the ranking misses a query, repeats or invents an id, is too
                short, holds the reference although it is excluded, or holds a score that is not a number.
        """
        if not self.is_scored:
            raise ValueError(f"{self.protocol_id}: the targets are not public. Write a submission for its server.")
        places = self.check(ranking)
        return {
            f"{name}@{k}": np.array([self._score(name, k, query, ranking, places[query.id]) for query in self.queries])
            for name, ks in self.metrics.items()
            for k in ks
        }

    def _score(self, name: str, k: int, query: Query, ranking: Ranking, place: int) -> float:
        ranked = ranking.gallery_ids[place]
        if self.candidates_only or name.endswith("_subset"):
            if not query.candidate_ids:
                return float("nan")
            ranked = ranking.candidate_ids[place]
        targets = self.targets(name, query)
        return METRICS[name](ranked, targets, k) if targets else 0.0

    def evaluate(self, ranking: Ranking) -> dict[str, float]:
        """The mean over queries of [`Benchmark.scores`]: `metric@k` -> percent."""
        return means(self.scores(ranking))

    def chance(self) -> dict[str, float]:
        """What a random ranking scores: `metric@k` -> percent, in closed form."""
        found = {}
        for name, ks in self.metrics.items():
            subset = self.candidates_only or name.endswith("_subset")
            asked = [query for query in self.queries if query.candidate_ids or not subset]
            sizes = Counter(self._size(name, query, subset) for query in asked)  # of the few that there are
            for k in ks:
                expected = {
                    (size, targets): chance(name.removesuffix("_subset"), k, size, targets) if targets else 0.0
                    for size, targets in sizes
                }
                found[f"{name}@{k}"] = sum(expected[size] * count for size, count in sizes.items()) / len(asked)
        return found

    def _size(self, name: str, query: Query, subset: bool) -> tuple[int, int]:
        """How many images a metric ranks for a query, and how many of them are its targets."""
        targets = self.targets(name, query)
        if subset:
            return len(query.ranked_candidate_ids), len(targets & set(query.candidate_ids))
        return len(self.gallery) - self._excludes(query), len(targets)

    def targets(self, name: str, query: Query) -> frozenset[str] | set[str]:
        """What the metric of this name counts as found."""
        if name == "recall" and self.main_targets is not None:
            return {self.main_targets[query.id]}
        return self.relevance[query.id]

    def _excludes(self, query: Query) -> bool:
        """Whether the protocol takes an image of the gallery out of the query's ranking."""
        return self.exclude_reference and query.reference_id in self.gallery.positions

    def check(self, ranking: Ranking) -> dict[str, int]:
        """
        Refuse a ranking that would give plausible numbers that are wrong.

        Args:
            ranking (`Ranking`): One entry for each query, in any order.

        Returns:
            `dict[str, int]`: Where the ranking holds each query.

        Raises:
            `ValueError`: as [`Benchmark.scores`].
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
            raise ValueError(
                f"{where} has no reference_id, so that its reference cannot be excluded, as the protocol has it."
            )
        targets = self.relevance.get(query.id, set())
        if self.is_scored and not (targets or self.unanswerable):
            raise ValueError(f"{where} has no target. Add it to the relevance, or leave the query out.")
        for kind, ids in (("target", targets), ("candidate", query.candidate_ids)):
            if missing := [id_ for id_ in ids if id_ not in self.gallery.positions]:
                raise ValueError(f"{where} has the {kind} {missing[0]!r}, which is not in the gallery.")
        if self.exclude_reference and query.reference_id in targets:
            raise ValueError(
                f"{where} has its reference {query.reference_id!r} as a target, which the protocol excludes."
            )
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
            raise ValueError(f"{where} holds {len(ids)} ids, {needed} are needed. Search with k={self.k}.")
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
    """The mean of each metric over the queries that it is defined for."""
    return {name: float(np.nanmean(values)) for name, values in scores.items()}


def means_by_tag(queries: Sequence[Query], scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """`num_queries` and the means over the queries of each tag; without metrics that are defined for none of them."""
    found = {}
    for tag in sorted({tag for query in queries for tag in query.tags}):
        tagged = np.array([tag in query.tags for query in queries])
        some = {name: values[tagged] for name, values in scores.items() if not np.isnan(values[tagged]).all()}
        found[tag] = {"num_queries": int(tagged.sum()), **means(some)}
    return found


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """The items at the places 0, N/count, 2N/count ...; all of them where there are no more than `count`."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]
