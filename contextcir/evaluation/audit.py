"""Audit a retriever: do queries need both of their halves, how does it fail, and what does it react to?

Many queries of composed retrieval can be solved by the text alone or the reference image alone. So a recall can rise
without any composition. An audit takes a retriever and two probes, CLIP with either half, and reports

- *modality*: how many queries the image alone, the text alone, either of them or only the composition solves, and the
  composition gap: composed minus the better half;
- *failures*: the kinds of wrong first hits. `near copy`: one of the three images nearest to the reference. `ignores
  the text`: closer to the reference than every target, but not closer to the text. `ignores the image`: the reverse;
- *length* and *phrases*: recall by the number of words and of noun phrases of the text;
- *paraphrase*: the effect of carrier phrases without meaning;
- *dropping*: the effect of leaving out one noun phrase. A retriever that does not react does not read it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.bootstrap import interval, paired_difference
from contextcir.retrieval.base import Gallery, Query, Ranking, Retriever

TOP = 10
CARRIERS = ("the same, but: {}", "show me this: {}", "{}, please")
WORDS = ((1, 5), (6, 10), (11, 15), (16, 20), (21, 30), (31, None))
PHRASES = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, None))
MAX_DROPPED = 5  # noun phrases of a text that are left out in turn
KINDS = ("near copy", "ignores the text", "ignores the image", "other")

Similarity = Callable[[Query, Gallery], tuple[np.ndarray, np.ndarray]]
Hits = dict[int, np.ndarray]  # k -> 0 or 100 for each query


@dataclass
class Case:
    """One query as the page shows it: its best ids, and the kind of failure (empty if it is solved)."""

    part: str
    query: Query
    targets: frozenset[str] | set[str]
    top: list[str]
    scores: list[float]
    kind: str


@dataclass
class Audit:
    """Findings as JSON, and the queries behind them."""

    findings: dict[str, Any]
    cases: list[Case] = field(default_factory=list)


def audit(
    parts: Sequence[Benchmark],
    composed: Retriever,
    image_only: Retriever,
    text_only: Retriever,
    similarity: Similarity,
    phrases: Mapping[str, Sequence[tuple[int, int]]],
) -> Audit:
    """
    Audit a retriever on a benchmark.

    Args:
        parts (`Sequence[Benchmark]`): The benchmark; see [`check_auditable`].
        composed (`Retriever`): The retriever to audit.
        image_only (`Retriever`): A probe that uses the reference image alone.
        text_only (`Retriever`): A probe that uses the text alone.
        similarity (`Callable`): (query, gallery) -> similarity of all gallery images to the reference image, and to
            the text: two arrays of shape `(gallery_size,)`.
        phrases (`Mapping[str, Sequence[tuple[int, int]]]`): Text -> character spans of its noun phrases.

    Returns:
        [`Audit`]

    Raises:
        `ValueError`: As for [`check_auditable`].
    """
    check_auditable(parts)
    retrievers = {"composed": composed, "image": image_only, "text": text_only}
    hits: dict[str, list[Hits]] = {name: [] for name in retrievers}  # of each part
    cases, carried, shortened = [], [], []
    for part in parts:
        targets = [part.targets("recall", query) for query in part.queries]
        rankings = {name: _search(part, retriever, part.queries) for name, retriever in retrievers.items()}
        for name, ranking in rankings.items():
            hits[name].append(_hits(targets, ranking.gallery_ids))
        ranking = rankings["composed"]
        cases += [_case(part, query, ranking, row, similarity) for row, query in enumerate(part.queries)]
        carried.append(_effect(part, composed, ranking, _with_carriers(part.queries)))
        shortened.append(_effect(part, composed, ranking, _without_phrases(part.queries, phrases)))

    texts = [case.query.modification_text for case in cases]
    found = {k: np.concatenate([some[k] for some in hits["composed"]]) for k in (1, TOP)}
    words = np.array([len(text.split()) for text in texts])
    counts = np.array([len(phrases.get(text, ())) for text in texts])
    findings = {
        "protocol_id": parts[0].protocol_id,
        "num_queries": len(cases),
        "modality": {f"recall@{k}": _modality(k, hits) for k in (1, TOP)},
        "failures": _failures(cases),
        "length": _by_range(words, WORDS, found),
        "phrases": _by_range(counts, PHRASES, found),
        "paraphrase": _summary(carried),
        "dropping": _summary(shortened),
    }
    return Audit(findings, cases)


def check_auditable(parts: Sequence[Benchmark]) -> None:
    """
    Check that a benchmark can be audited: an audit searches the whole gallery by the image and the text of each query.

    Raises:
        `ValueError`: A query has no reference image or no known target, or the protocol ranks only the candidates of
            each query.
    """
    for part in parts:
        if not part.is_scored or part.unanswerable or not all(query.has_reference for query in part.queries):
            raise ValueError(
                f"{part.protocol_id}: an audit needs a reference image and known targets of every query. Take another"
                " split or benchmark."
            )
        if part.candidates_only:
            raise ValueError(
                f"{part.protocol_id} ranks only the candidates of each query, but an audit needs the whole gallery."
                " Take another benchmark."
            )


def _failure_kind(
    top: str, targets: Sequence[str], image: Mapping[str, float], text: Mapping[str, float], nearest: Sequence[str]
) -> str:
    """Classify a wrong first hit by the similarities of it and of the targets to the reference image and to the text,
    and by the three gallery images nearest to the reference image."""
    if top in nearest:
        return "near copy"
    more_image = image[top] > max(image[target] for target in targets)
    more_text = text[top] > max(text[target] for target in targets)
    if more_image != more_text:
        return "ignores the text" if more_image else "ignores the image"
    return "other"


def _search(part: Benchmark, retriever: Retriever, queries: Sequence[Query]) -> Ranking:
    """Search the first ten for each query. The result is in the order of the queries."""
    ranking = retriever.search(queries, part.gallery, TOP, exclude_reference=part.exclude_reference)
    if ranking.query_ids != [query.id for query in queries]:
        raise ValueError("The ranking has other queries or another order than the search. An audit needs the same.")
    return ranking


def _hits(targets: Sequence[set[str] | frozenset[str]], ranked: Sequence[Sequence[str]]) -> Hits:
    pairs = list(zip(ranked, targets, strict=True))
    return {k: np.array([0.0 if own.isdisjoint(ids[:k]) else 100.0 for ids, own in pairs]) for k in (1, TOP)}


def _case(part: Benchmark, query: Query, ranking: Ranking, row: int, similarity: Similarity) -> Case:
    top, targets, kind = ranking.gallery_ids[row][:TOP], part.relevance[query.id], ""
    if top[0] not in targets:
        image, text = similarity(query, part.gallery)
        positions = part.gallery.positions
        best = np.argsort(-image)[:4].tolist()  # one of them may be the reference
        nearest = [id_ for id_ in (part.gallery.ids[place] for place in best) if id_ != query.reference_id][:3]
        to_image, to_text = (
            {id_: float(some[positions[id_]]) for id_ in (top[0], *targets)} for some in (image, text)
        )
        kind = _failure_kind(top[0], sorted(targets), to_image, to_text, nearest)
    scores = [] if ranking.scores is None else ranking.scores[row][:TOP]
    return Case(part.part, query, targets, top, scores, kind)


def _with_carriers(queries: Sequence[Query]) -> list[tuple[int, str]]:
    """Put each text into each carrier phrase: (row of the query, new text)."""
    return [(row, form.format(query.modification_text)) for row, query in enumerate(queries) for form in CARRIERS]


def _without_phrases(queries: Sequence[Query], phrases: Mapping[str, Sequence[tuple[int, int]]]) -> list:
    """Leave out each innermost noun phrase in turn: (row of the query, new text). Without an outer one, little of the
    text is left."""
    texts = []
    for row, text in enumerate(query.modification_text for query in queries):
        spans = phrases.get(text, ())
        inner = [span for span in spans if not any(_is_inside(other, span) for other in spans)]
        shorter = (" ".join((text[:start] + text[end:]).split()) for start, end in inner[:MAX_DROPPED])
        texts += [(row, some) for some in shorter if some]
    return texts


def _is_inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]


def _effect(part: Benchmark, retriever: Retriever, before: Ranking, texts: Sequence[tuple[int, str]]) -> dict:
    """Search again with other texts `(row of the query, text)`. For each: whether a target is among the first ten
    before and after, the share of the first ten that stays, and whether the first hit stays."""
    if not texts:
        return dict.fromkeys(("before", "after", "overlap", "same_first"), np.empty(0))
    changed = [
        replace(part.queries[row], id=f"{place}", modification_text=text, paraphrases=())
        for place, (row, text) in enumerate(texts)
    ]
    targets = [part.targets("recall", part.queries[row]) for row, _ in texts]
    old = [before.gallery_ids[row][:TOP] for row, _ in texts]
    new = [ids[:TOP] for ids in _search(part, retriever, changed).gallery_ids]
    pairs = list(zip(old, new, strict=True))
    return {
        "before": _hits(targets, old)[TOP],
        "after": _hits(targets, new)[TOP],
        "overlap": np.array([100 * len(set(a) & set(b)) / len(a) for a, b in pairs]),
        "same_first": np.array([100.0 * (a[0] == b[0]) for a, b in pairs]),
    }


def _summary(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if not len(joined["before"]):
        return {"num_variants": 0}
    return {
        "num_variants": len(joined["before"]),
        f"recall@{TOP} before": float(joined["before"].mean()),
        f"recall@{TOP} after": float(joined["after"].mean()),
        f"top {TOP} that stays": float(joined["overlap"].mean()),
        "same first hit": float(joined["same_first"].mean()),
    }


def _modality(k: int, hits: Mapping[str, Sequence[Hits]]) -> dict[str, Any]:
    parts = {name: [some[k] for some in found] for name, found in hits.items()}
    composed, image, text = (np.concatenate(parts[name]) > 0 for name in ("composed", "image", "text"))
    better = "image" if image.mean() >= text.mean() else "text"
    gap = paired_difference(parts[better], parts["composed"])
    shares = {
        "composed": composed,
        "image": image,
        "text": text,
        "image or text": image | text,
        "only composed": composed & ~image & ~text,
        "only image or text": ~composed & (image | text),
    }
    return {
        **{name: float(100 * some.mean()) for name, some in shares.items()},
        "better half": better,
        "composition gap": float(gap["difference"]),
        "composition gap interval": [float(gap["low"]), float(gap["high"])],
    }


def _failures(cases: Sequence[Case]) -> dict[str, Any]:
    failed = [case.kind for case in cases if case.kind]
    return {
        "num_failures": len(failed),
        "share of queries": 100 * len(failed) / len(cases),
        "kinds": {kind: 100 * failed.count(kind) / max(1, len(failed)) for kind in KINDS},
    }


def _by_range(values: np.ndarray, ranges: Sequence[tuple[int, int | None]], found: Hits) -> list[dict[str, Any]]:
    rows = []
    for low, high in ranges:
        inside = (values >= low) & (values <= (high if high is not None else np.inf))
        if inside.any():
            row: dict[str, Any] = {"from": low, "to": high, "num_queries": int(inside.sum())}
            for k, hit in found.items():
                row[f"recall@{k}"] = float(hit[inside].mean())
                row[f"interval@{k}"] = interval([hit[inside]]).tolist()
            rows.append(row)
    return rows
