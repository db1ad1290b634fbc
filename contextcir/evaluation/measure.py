"""Measure retrievers on a benchmark: a table, a JSON record, and the scores of every query.

record = measure(DenseRetriever.from_model(model, processor), load_benchmark("scenes", "data/scenes"))
print(record)
record.save("metrics.json")
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.grounding import format_grounding, measure_grounding
from contextcir.evaluation.profile import error_profile, format_profiles
from contextcir.evaluation.results import format_table, query_lines, side_file, summarise
from contextcir.retrieval.base import Ranking, Retriever
from contextcir.runtime.distributed import process_state
from contextcir.runtime.provenance import provenance


class Record:
    """
    What was measured on one benchmark. Printed, it is a table; as a `dict`, JSON.

    Args:
        benchmark ([`Benchmark`] or `Sequence[Benchmark]`): One, or the parts of one.
        name (`str`, *optional*): What the benchmark is called; by default as it calls itself.

    Attributes:
        results (`list[dict]`): One for each retriever, see [`~contextcir.evaluation.results.summarise`]. Empty where
            the targets are not public.
        lines (`list[dict]`): The scores of each retriever on each query.
        facts (`dict`): What else the record holds: what was random, commit, versions and device; add your own.
    """

    def __init__(self, benchmark: Benchmark | Sequence[Benchmark], name: str | None = None):
        self.parts = [benchmark] if isinstance(benchmark, Benchmark) else list(benchmark)
        self.results: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        state = process_state()
        self.facts: dict[str, Any] = {
            "benchmark": name or self.parts[0].name,
            "protocol_id": self.parts[0].protocol_id,
            "num_queries": sum(len(part.queries) for part in self.parts),
            "gallery_size": sum({id(part.gallery): len(part.gallery) for part in self.parts}.values()),
            **provenance(),
            "processes": state.num_processes,
            "device": str(state.device),
        }

    @property
    def is_scored(self) -> bool:
        """`bool`: Whether the targets of all parts are known."""
        return all(part.is_scored for part in self.parts)

    @property
    def metrics(self) -> dict[str, float]:
        """`dict[str, float]`: `metric@k` -> percent, of the retriever that was measured first."""
        return self.results[0]["metrics"]

    def add(self, name: str, retriever: Retriever) -> list[Ranking]:
        """
        Measure one more retriever.

        Args:
            name (`str`): What tables call it.
            retriever (`Retriever`): Anything that ranks. Where it has a method `report`, the `dict` that this returns
                becomes part of the result.

        Returns:
            `list[Ranking]`: Its ranking of each part, for a submission or a picture.

        Raises:
            `ValueError`: A ranking does not keep to the protocol.
        """
        start = time.perf_counter()
        rankings = [part.rank(retriever) for part in self.parts]
        seconds = time.perf_counter() - start
        if self.is_scored:
            scores = [part.scores(ranking) for part, ranking in zip(self.parts, rankings, strict=True)]
            result = summarise(name, self.parts, scores) | {"seconds": round(seconds, 3)}
            if self.parts[0].distractors is not None:
                result["profile"] = error_profile(self.parts[0], rankings[0])
            if hasattr(retriever, "report"):
                result |= retriever.report()
            self.results.append(result)
            self.lines += query_lines(name, self.parts, rankings, scores)
        return rankings

    def add_grounding(self, name: str, model, processor, *, batch_size: int = 64) -> None:
        """
        Measure where the noun phrases of a model look, if the model has attention maps of noun phrases and the
        benchmark knows what these denote; else do nothing. Arguments as for
        [`~contextcir.evaluation.grounding.measure_grounding`].
        """
        part = self.parts[0]
        if part.ground_truth is not None and hasattr(model, "get_concept_attentions"):
            found = measure_grounding(model, processor, part, part.ground_truth(), batch_size=batch_size)
            self.facts |= {"grounding": found, "grounded": name}

    def as_dict(self) -> dict[str, Any]:
        """Everything but the lines, as JSON: `facts`, `results`, and `chance`, what a random ranking scores."""
        chances = [part.chance() for part in self.parts] if self.results else [{}]
        chance = {key: sum(some[key] for some in chances) / len(chances) for key in chances[0]}
        return {**self.facts, "results": self.results, "chance": chance}

    def save(self, path: str | Path) -> None:
        """Write the record, and beside it the lines: `metrics.json` and `metrics.queries.jsonl`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
        side_file(path).write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def __str__(self) -> str:
        if not self.results:
            return f"{self.facts['protocol_id']}: the targets are not public, there is nothing to score.\n"
        tables = [format_table(self.as_dict())]
        profiles = {result["retriever"]: result["profile"] for result in self.results if "profile" in result}
        if profiles:
            tables.append(format_profiles(profiles))
        if "grounding" in self.facts:
            tables.append(format_grounding(self.facts["grounded"], self.facts["grounding"]))
        return "\n".join(tables)


def measure(retriever: Retriever, benchmark: Benchmark | Sequence[Benchmark], *, name: str = "model") -> Record:
    """
    Measure a retriever on a benchmark.

    Args:
        retriever (`Retriever`): Such as a [`~contextcir.retrieval.dense.DenseRetriever`].
        benchmark ([`Benchmark`] or `Sequence[Benchmark]`): From [`~contextcir.benchmarks.registry.load_benchmark`].
        name (`str`, defaults to `"model"`): What tables call the retriever.

    Returns:
        [`Record`]: [`Record.add`] measures others beside it.

    Raises:
        `ValueError`: A ranking does not keep to the protocol.

    Example:

    ```python
    >>> record = measure(DenseRetriever.from_model(model, processor), load_benchmark("scenes", "data/scenes"))
    >>> record.metrics["recall@1"]
    30.6
    ```"""
    record = Record(benchmark)
    record.add(name, retriever)
    return record
