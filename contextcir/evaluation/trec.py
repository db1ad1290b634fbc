"""Rankings and targets as files of TREC, for tools such as `ir-measures`, `ranx` and `trec_eval`.

`run.trec` has a line `query Q0 image rank score tag` for each ranked image, `run.qrels` a line `query 0 image
relevance` for each target. The ranking is that of the protocol: an excluded reference is in neither file. Such tools
sort by score and break ties by name. So scores fall strictly here, in the order of our ranking: of equal ones, each is
lowered to the next smaller number in single precision, in which `trec_eval` keeps them. Without scores, they are minus
the rank.

A benchmark of several parts has a pair of files for each, `run.dress.trec`. Where a metric ranks the candidates of
each query, `run.subset.trec` and `run.subset.qrels` have those. If one target counts for recall (CIRCO), its relevance
is 2, and that of the others 1. A query without a target has one line, of relevance 0, so that it counts.

White space and percent signs in ids are written as in addresses, such as `%20`. `urllib.parse.unquote` restores them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.retrieval.base import Query, Ranking

MAIN, RELEVANT = 2, 1


def write_run(
    path: str | Path, parts: Sequence[Benchmark], rankings: Sequence[Ranking], tag: str = "contextcir"
) -> list[Path]:
    """
    Write rankings, and the targets if they are public.

    Args:
        path (`str` or `Path`): The file of the ranking; the names of the others come from it.
        parts (`Sequence[Benchmark]`): The parts of the benchmark.
        rankings (`Sequence[Ranking]`): Of each part.
        tag (`str`): Name of the retriever.

    Returns:
        `list[Path]`: The files.

    Raises:
        `ValueError`: The path ends in `.qrels`, or a ranking breaks the protocol.
    """
    path = Path(path)
    if path.suffix == ".qrels":
        raise ValueError(f"{path} is the name of the targets' file. Give that of the ranking, such as run.trec.")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for part, ranking in zip(parts, rankings, strict=True):
        part.check(ranking)
        stem = f"{path.stem}.{part.part}" if len(parts) > 1 else path.stem
        for subset in (False, True):
            if not _is_ranked(part, subset):
                continue
            name = f"{stem}.subset" if subset and not part.candidates_only else stem
            run = path.with_name(f"{name}{path.suffix}")
            _write(run, run_lines(part, ranking, tag, subset=subset))
            written.append(run)
            if part.is_scored:
                qrels = path.with_name(f"{name}.qrels")
                _write(qrels, qrel_lines(part, subset=subset))
                written.append(qrels)
    return written


def run_lines(benchmark: Benchmark, ranking: Ranking, tag: str, *, subset: bool = False) -> Iterator[str]:
    """Yield the lines of a ranking: of the gallery, or of each query's candidates."""
    places = benchmark.check(ranking)
    for query in _queries(benchmark, subset):
        place = places[query.id]
        ids = (ranking.candidate_ids or [])[place] if subset else ranking.gallery_ids[place]
        scores = None if subset or ranking.scores is None else ranking.scores[place]
        for rank, (id_, score) in enumerate(zip(ids, falling(scores, len(ids)), strict=True), start=1):
            yield f"{escaped(query.id)} Q0 {escaped(id_)} {rank} {score:.9g} {escaped(tag)}"


def qrel_lines(benchmark: Benchmark, *, subset: bool = False) -> Iterator[str]:
    """Yield the lines of the targets."""
    for query in _queries(benchmark, subset):
        targets = set(benchmark.relevance.get(query.id, ()))
        if subset:
            targets &= set(query.ranked_candidate_ids)
        main = (benchmark.main_targets or {}).get(query.id)
        for id_ in sorted(targets, key=benchmark.gallery.positions.__getitem__):
            yield f"{escaped(query.id)} 0 {escaped(id_)} {MAIN if id_ == main else RELEVANT}"
        if not targets:
            yield f"{escaped(query.id)} 0 {escaped(benchmark.gallery.ids[0])} 0"


def falling(scores: Sequence[float] | None, length: int) -> Iterable[np.float32]:
    """Scores that fall strictly: those given, in single precision, each lowered below the one before if need be."""
    if scores is None:
        yield from (np.float32(-rank) for rank in range(1, length + 1))
        return
    last = np.float32(np.inf)
    for score in map(np.float32, scores):
        last = score if score < last else np.nextafter(last, np.float32(-np.inf))
        yield last


def escaped(text: str) -> str:
    """Write white space and percent signs as `%20` and the like."""
    return re.sub(r"[\s%]", lambda found: quote(found[0], safe=""), text)


def _is_ranked(benchmark: Benchmark, subset: bool) -> bool:
    """Whether a metric ranks the gallery, or the candidates."""
    in_candidates = [benchmark.candidates_only or name.endswith("_subset") for name in benchmark.metrics]
    return any(in_candidates) if subset else not all(in_candidates)


def _queries(benchmark: Benchmark, subset: bool) -> list[Query]:
    return [query for query in benchmark.queries if query.candidate_ids or not subset]


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
