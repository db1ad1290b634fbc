"""A benchmark: a gallery, queries, what is relevant to each, and the protocol by which a ranking is scored.

Data never imports models: a benchmark sees ranked ids only. A ranking that is incomplete, repeats an id or returns the
reference where the protocol leaves it out gives plausible numbers that are wrong, so each is an error that names the
query.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError

from contextcir.metrics.map_at_k import map_at_k
from contextcir.metrics.recall_at_k import recall_at_k
from contextcir.retrieval.base import Gallery, Query, Ranking

FEATURES = {  # the published form
    "gallery": Features({"id": Value("string"), "image": Image()}),
    "queries": Features(
        {
            "id": Value("string"),
            "reference_image": Image(),
            "reference_id": Value("string"),
            "modification_text": Value("string"),
            "candidate_ids": List(Value("string")),
            "tags": List(Value("string")),
        }
    ),
    "relevance": Features({"query_id": Value("string"), "target_id": Value("string")}),
}
OPTIONAL_COLUMNS = {"reference_image", "candidate_ids", "tags"}


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
        recall_ks (`tuple[int, ...]`): Recall@k is reported at these.
        subset_ks (`tuple[int, ...]`): Recall_subset@k, over each query's candidates without the reference.
        map_ks (`tuple[int, ...]`): mAP@k, where any query has several targets.
        empty_texts (`bool`): Whether a text may be empty, as one of CIRR's is, and is to be answered nevertheless.

    Raises:
        `ValueError`: Ids are unknown or repeated, a text is empty, or a query has no target that could be found.
    """

    name: str
    protocol_id: str
    gallery: Gallery
    queries: list[Query]
    relevance: dict[str, set[str]]
    exclude_reference: bool
    recall_ks: tuple[int, ...] = (1, 5, 10, 50)
    subset_ks: tuple[int, ...] = (1, 2, 3)
    map_ks: tuple[int, ...] = (5, 10, 25, 50)
    empty_texts: bool = False

    def __post_init__(self):
        if not self.queries:
            raise ValueError(f"{self.name}: there are no queries.")
        refuse_repeated([query.id for query in self.queries], f"{self.name}: the queries")
        for query in self.queries:
            self._check_query(query)
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
        return max(self.recall_ks + (self.map_ks if self.has_several_targets else ()))

    @property
    def has_several_targets(self) -> bool:
        """`bool`: Whether any query has more than one target."""
        return any(len(targets) > 1 for targets in self.relevance.values())

    def evaluate(self, ranking: Ranking) -> dict[str, float]:
        """
        Score a ranking by the benchmark's protocol.

        Args:
            ranking (`Ranking`): One entry for each query, in any order.

        Returns:
            `dict[str, float]`: `recall@k`; `recall_subset@k` where queries have candidates; `map@k` where some have
            several targets. All in percent.

        Raises:
            `ValueError`: The ranking misses a query, repeats or invents an id, is too short, holds the reference
                although it is excluded, or holds a score that is not a number.
        """
        return self._score(self.queries, ranking, self.check(ranking))

    def evaluate_by_tag(self, ranking: Ranking) -> dict[str, dict[str, float]]:
        """Score the queries of each tag by themselves: as [`Benchmark.evaluate`], and `num_queries`, for each tag."""
        places = self.check(ranking)
        tagged = {
            tag: [query for query in self.queries if tag in query.tags]
            for tag in sorted({tag for query in self.queries for tag in query.tags})
        }
        return {
            tag: {"num_queries": len(queries), **self._score(queries, ranking, places)}
            for tag, queries in tagged.items()
        }

    def check(self, ranking: Ranking) -> dict[str, int]:
        """
        Refuse a ranking that would give plausible numbers that are wrong.

        Args:
            ranking (`Ranking`): One entry for each query, in any order.

        Returns:
            `dict[str, int]`: Where the ranking holds each query.

        Raises:
            `ValueError`: as [`Benchmark.evaluate`].
        """
        refuse_repeated(ranking.query_ids, f"{self.name}: the ranking's queries")
        places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
        if missing := [query.id for query in self.queries if query.id not in places]:
            raise ValueError(f"{self.name}: the ranking misses {len(missing)} of the queries, such as {missing[0]!r}.")
        if len(places) > len(self.queries):
            unknown = min(places.keys() - {query.id for query in self.queries})
            raise ValueError(f"{self.name}: the ranking holds {unknown!r}, which is not among the queries.")
        for field in ("gallery_ids", "scores", "candidate_ids"):
            rows = getattr(ranking, field)
            if rows is not None and len(rows) != len(places):
                raise ValueError(f"{self.name}: the ranking has {len(rows)} {field} for {len(places)} queries.")
        for query in self.queries:
            self._check_ranked(query, ranking, places[query.id])
        return places

    def _score(self, queries: Sequence[Query], ranking: Ranking, places: dict[str, int]) -> dict[str, float]:
        if not self.is_scored:
            raise ValueError(f"{self.protocol_id}: the targets are not public. Write a submission for its server.")
        ranked = [ranking.gallery_ids[places[query.id]] for query in queries]
        targets = [self.relevance[query.id] for query in queries]
        scores = {f"recall@{k}": recall_at_k(ranked, targets, k) for k in self.recall_ks}
        if with_candidates := [query for query in queries if query.candidate_ids]:
            ranked_subsets = [ranking.candidate_ids[places[query.id]] for query in with_candidates]
            subset_targets = [self.relevance[query.id] for query in with_candidates]
            scores |= {f"recall_subset@{k}": recall_at_k(ranked_subsets, subset_targets, k) for k in self.subset_ks}
        if self.has_several_targets:
            scores |= {f"map@{k}": map_at_k(ranked, targets, k) for k in self.map_ks}
        return scores

    def _check_query(self, query: Query) -> None:
        where = f"{self.name}: query {query.id!r}"
        if not (self.empty_texts or query.modification_text.strip()):
            raise ValueError(f"{where} has an empty modification_text.")
        targets = self.relevance.get(query.id, set())
        if self.is_scored and not targets:
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
        excluded = self.exclude_reference and query.reference_id in self.gallery.positions
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


def load_benchmark(
    path: str, split: str, *, name: str | None = None, protocol_id: str | None = None, exclude_reference: bool = True
) -> Benchmark:
    """
    Read a benchmark in the published form: the configurations `gallery`, `queries` and `relevance` of one dataset.

    Args:
        path (`str`): A folder with `gallery/<split>-*.parquet` and so on, or the name of a dataset on the Hub.
        split (`str`): Such as `validation` or `test`.
        name (`str`, *optional*): By default the last part of the path.
        protocol_id (`str`, *optional*): By default made of name, split and whether the reference is excluded.
        exclude_reference (`bool`, *optional*, defaults to `True`): Whether the reference leaves the ranking.

    Returns:
        `Benchmark`: With images as encoded bytes, read when asked for.

    Raises:
        `ValueError`: There is no such dataset, split or column (the message names those that exist), or the data
            contradict themselves.
    """
    name = name or Path(path).name
    gallery, queries, relevance = (_load_config(path, config, split) for config in FEATURES)
    targets: dict[str, set[str]] = {}
    for query_id, target_id in zip(relevance["query_id"], relevance["target_id"], strict=True):
        targets.setdefault(query_id, set()).add(target_id)
    return Benchmark(
        name=name,
        protocol_id=protocol_id or f"{name}/{split}/reference-{'excluded' if exclude_reference else 'kept'}",
        gallery=Gallery(gallery["id"], gallery["image"]),
        queries=[
            Query(
                id=row["id"],
                modification_text=row["modification_text"],
                reference_image=row.get("reference_image"),
                reference_id=row["reference_id"],
                candidate_ids=tuple(row.get("candidate_ids") or ()),
                tags=tuple(row.get("tags") or ()),
            )
            for row in queries
        ],
        relevance=targets,
        exclude_reference=exclude_reference,
    )


def _load_config(path: str, config: str, split: str) -> Dataset:
    if Path(path).is_dir():
        if not (files := sorted(map(str, Path(path, config).glob(f"{split}-*.parquet")))):
            splits = sorted({file.name.split("-0")[0] for file in Path(path, config).glob("*.parquet")})
            raise ValueError(
                f"{path} has no {config}/{split}-*.parquet. Splits that it has: {', '.join(splits) or 'none'}."
                + ("" if splits else " Build it first, or check the path.")
            )
        dataset = load_dataset("parquet", data_files={split: files}, split=split)
    else:
        try:
            dataset = load_dataset(path, config, split=split)
        except (DatasetNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"{path!r} is neither a folder here nor a dataset that can be read from the Hub."
            ) from error
    if missing := sorted(FEATURES[config].keys() - OPTIONAL_COLUMNS - set(dataset.column_names)):
        raise ValueError(f"{path}, {config}: the columns {missing} are missing; there are {dataset.column_names}.")
    for column in {"image", "reference_image"} & set(dataset.column_names):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def read_json(path: Path) -> Any:
    """
    Read an annotation file.

    Raises:
        `ValueError`: The file is missing, or is not JSON (the message names the place).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. Download the annotations, or check the path.") from None
    except ValueError as error:  # malformed, or not text
        raise ValueError(f"{path} is not JSON: {error}. Download it again.") from error


def images_on_disk(paths: Sequence[Path], what: str) -> list[str]:
    """
    The paths of images, each of which is there.

    Raises:
        `ValueError`: Some are not: how many, and the first of them.
    """
    there = {path for folder in {path.parent for path in paths} if folder.is_dir() for path in folder.iterdir()}
    if missing := [path for path in paths if path not in there]:
        first = ", ".join(map(str, missing[:3]))
        raise ValueError(f"{what}: {len(missing):,} of {len(paths):,} images are missing, such as {first}.")
    return list(map(str, paths))


def refuse_repeated(ids: Sequence[str], what: str) -> None:
    """Raise a `ValueError` that names the first id that stands twice in `what`."""
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(id_ for id_ in ids if id_ in seen or seen.add(id_))
        raise ValueError(f"{what} hold the id {twice!r} more than once.")
