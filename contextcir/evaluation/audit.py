"""What a recall hides: whether queries need both of their halves, how a retriever fails, and what it listens to.

Many queries of composed retrieval are solved by the text alone or the reference image alone, so that a number can rise
without any composition. An audit takes a retriever and, as probes, what CLIP finds by either half, and reports

- *modality*: how many queries the image alone, the text alone, either or only the composition solves, and the
  composition gap: composed minus the better half;
- *failures*: the kinds of wrong first hits ([`failure_kind`]);
- *length* and *phrases*: recall by words and by noun phrases of the text;
- *paraphrase*: what carrier phrases that mean nothing change;
- *dropping*: what leaving out one noun phrase changes: a retriever that does not notice does not read it.
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

# Of all images of the gallery, in its order, to the reference image and to the text of a query.
Similarity = Callable[[Query, Gallery], tuple[np.ndarray, np.ndarray]]


@dataclass
class Case:
    """One query as a page shows it: what was found first, and the kind of failure (empty where it is solved)."""

    part: str
    query: Query
    targets: frozenset[str] | set[str]
    top: list[str]
    scores: list[float]
    kind: str


@dataclass
class Audit:
    """Findings as JSON, and the cases behind them."""

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
        composed (`Retriever`): What is audited.
        image_only (`Retriever`): Finds by the reference image alone.
        text_only (`Retriever`): Finds by the text alone.
        similarity (`Callable`): Query and gallery -> the similarities of all its images to the reference image, and
            to the text: two arrays of shape `(gallery_size,)`.
        phrases (`Mapping[str, Sequence[tuple[int, int]]]`): The noun phrases of each text, as character spans.

    Returns:
        [`Audit`]

    Raises:
        `ValueError`: as [`check_auditable`].
    """
    check_auditable(parts)
    halves = {"composed": [], "image": [], "text": []}
    hits, cases, changed, dropped = [], [], [], []
    for part in parts:
        rankings = {
            name: _search(part, retriever, part.queries)
            for name, retriever in (("composed", composed), ("image", image_only), ("text", text_only))
        }
        targets = [part.targets("recall", query) for query in part.queries]
        for name, ranking in rankings.items():
            halves[name].append(_found(targets, ranking.gallery_ids))
        ranking = rankings["composed"]
        hits.append(halves["composed"][-1])
        cases += [_case(part, query, ranking, row, similarity) for row, query in enumerate(part.queries)]
        changed.append(_paraphrase(part, composed, ranking))
        dropped.append(_drop(part, composed, ranking, phrases))

    texts = [case.query.modification_text for case in cases]
    found = {k: np.concatenate([some[k] for some in hits]) for k in (1, TOP)}
    words = np.array([len(text.split()) for text in texts])
    counts = np.array([len(phrases.get(text, ())) for text in texts])
    findings = {
        "protocol_id": parts[0].protocol_id,
        "num_queries": len(cases),
        "modality": _modality(halves),
        "failures": _failures(cases),
        "length": _by_range(words, WORDS, found),
        "phrases": _by_range(counts, PHRASES, found),
        "paraphrase": _changes(changed),
        "dropping": _changes(dropped),
    }
    return Audit(findings, cases)


def check_auditable(parts: Sequence[Benchmark]) -> None:
    """
    An audit searches the whole gallery, by the image and by the text of every query.

    Raises:
        `ValueError`: A query has no reference image, targets are not public or missing of some, or the protocol ranks
            each query's candidates alone.
    """
    for part in parts:
        if not part.is_scored or part.unanswerable or not all(query.has_reference for query in part.queries):
            raise ValueError(
                f"{part.protocol_id}: an audit needs a reference image and known targets of every query. Take another"
                " split or benchmark."
            )
        if part.candidates_only:
            raise ValueError(
                f"{part.protocol_id} ranks each query's candidates alone, an audit the whole gallery. Take another"
                " benchmark."
            )


def failure_kind(
    top: str, targets: Sequence[str], image: Mapping[str, float], text: Mapping[str, float], nearest: Sequence[str]
) -> str:
    """
    Why a first hit is wrong, as far as the similarities of a CLIP tell.

    Args:
        top (`str`): The wrong first hit.
        targets (`Sequence[str]`): The targets.
        image (`Mapping[str, float]`): Similarity of these images to the reference image.
        text (`Mapping[str, float]`): Similarity of these images to the text.
        nearest (`Sequence[str]`): The three images of the gallery that are most like the reference.

    Returns:
        `str`: `near copy` (one of the nearest), `ignores the text` (more like the reference than any target, less
        like the text), `ignores the image` (the other way round) or `other`.
    """
    if top in nearest:
        return "near copy"
    more_image = image[top] > max(image[target] for target in targets)
    more_text = text[top] > max(text[target] for target in targets)
    if more_image != more_text:
        return "ignores the text" if more_image else "ignores the image"
    return "other"


def _search(part: Benchmark, retriever: Retriever, queries: Sequence[Query]) -> Ranking:
    """The first ten for each query, in the order of the queries."""
    ranking = retriever.search(queries, part.gallery, TOP, exclude_reference=part.exclude_reference)
    if ranking.query_ids != [query.id for query in queries]:
        raise ValueError("The retriever answers in another order than it was asked.")
    return ranking


def _found(targets: Sequence[set[str] | frozenset[str]], ranked: Sequence[Sequence[str]]) -> dict[int, np.ndarray]:
    """Whether a target is the first hit, and among the first ten: 0 or 100 for each query."""
    pairs = list(zip(ranked, targets, strict=True))
    return {k: np.array([0.0 if own.isdisjoint(ids[:k]) else 100.0 for ids, own in pairs]) for k in (1, TOP)}


def _case(part: Benchmark, query: Query, ranking: Ranking, row: int, similarity: Similarity) -> Case:
    top, targets, kind = ranking.gallery_ids[row][:TOP], part.relevance[query.id], ""
    if top[0] not in targets:
        image, text = similarity(query, part.gallery)
        positions = part.gallery.positions
        best = np.argsort(-image)[:4].tolist()  # one of them may be the reference itself
        nearest = [id_ for id_ in (part.gallery.ids[place] for place in best) if id_ != query.reference_id][:3]
        of_some = [{id_: float(some[positions[id_]]) for id_ in (top[0], *targets)} for some in (image, text)]
        kind = failure_kind(top[0], sorted(targets), *of_some, nearest)
    scores = [] if ranking.scores is None else ranking.scores[row][:TOP]
    return Case(part.part, query, targets, top, scores, kind)


def _paraphrase(part: Benchmark, retriever: Retriever, before: Ranking) -> dict[str, np.ndarray]:
    """What each carrier does to each query."""
    texts = [
        (row, carrier.format(query.modification_text))
        for row, query in enumerate(part.queries)
        for carrier in CARRIERS
    ]
    return _change(part, retriever, before, texts)


def _drop(part: Benchmark, retriever: Retriever, before: Ranking, phrases) -> dict[str, np.ndarray]:
    """What leaving out each noun phrase does. Only innermost ones: without an outer one little is left to say."""
    texts = []
    for row, query in enumerate(part.queries):
        spans = phrases.get(query.modification_text, ())
        inner = [span for span in spans if not any(_inside(other, span) for other in spans)]
        for start, end in inner[:MAX_DROPPED]:
            text = " ".join((query.modification_text[:start] + query.modification_text[end:]).split())
            if text:
                texts.append((row, text))
    return _change(part, retriever, before, texts)


def _inside(span, other) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]


def _change(part: Benchmark, retriever: Retriever, before: Ranking, texts) -> dict[str, np.ndarray]:
    """For each other text `(row, text)` of a query: whether the query is found before and after, the share of the
    first ten that stays, and whether the first hit does."""
    if not texts:
        return dict.fromkeys(("before", "after", "overlap", "same_first"), np.empty(0))
    rows = [row for row, _ in texts]
    made = [
        replace(part.queries[row], id=f"{place}", modification_text=text, paraphrases=())
        for place, (row, text) in enumerate(texts)
    ]
    targets = [part.targets("recall", part.queries[row]) for row in rows]
    old = [before.gallery_ids[row][:TOP] for row in rows]
    new = [ids[:TOP] for ids in _search(part, retriever, made).gallery_ids]
    pairs = list(zip(old, new, strict=True))
    return {
        "before": _found(targets, old)[TOP],
        "after": _found(targets, new)[TOP],
        "overlap": np.array([100 * len(set(a) & set(b)) / len(a) for a, b in pairs]),
        "same_first": np.array([100.0 * (a[0] == b[0]) for a, b in pairs]),
    }


def _changes(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
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


def _modality(halves: Mapping[str, Sequence[dict[int, np.ndarray]]]) -> dict[str, Any]:
    findings = {}
    for k in (1, TOP):
        parts = {name: [some[k] for some in found] for name, found in halves.items()}
        whole = {name: np.concatenate(some) > 0 for name, some in parts.items()}
        better = max(("image", "text"), key=lambda name: whole[name].mean())
        gap = paired_difference(parts[better], parts["composed"])
        findings[f"recall@{k}"] = {
            **{name: float(100 * some.mean()) for name, some in whole.items()},
            "image or text": float(100 * (whole["image"] | whole["text"]).mean()),
            "only composed": float(100 * (whole["composed"] & ~whole["image"] & ~whole["text"]).mean()),
            "only image or text": float(100 * (~whole["composed"] & (whole["image"] | whole["text"])).mean()),
            "better half": better,
            "composition gap": gap["difference"],
            "composition gap interval": [gap["low"], gap["high"]],
        }
    return findings


def _failures(cases: Sequence[Case]) -> dict[str, Any]:
    failed = [case.kind for case in cases if case.kind]
    return {
        "num_failures": len(failed),
        "share of queries": 100 * len(failed) / len(cases),
        "kinds": {kind: 100 * failed.count(kind) / max(1, len(failed)) for kind in KINDS},
    }


def _by_range(values: np.ndarray, ranges, found: Mapping[int, np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    for low, high in ranges:
        inside = (values >= low) & (values <= (high if high is not None else np.inf))
        if inside.any():
            rows.append({"from": low, "to": high, "num_queries": int(inside.sum())})
            for k, hit in found.items():
                rows[-1] |= {f"recall@{k}": float(hit[inside].mean()), f"interval@{k}": list(interval([hit[inside]]))}
    return rows
