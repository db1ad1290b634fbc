"""Measure retrievers on a benchmark: a table, a JSON record, and the scores of every query."""

import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
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
    The results of retrievers on one benchmark. `str(record)` is a table, [`Record.as_dict`] is JSON.

    Args:
        benchmark ([`Benchmark`] or `Sequence[Benchmark]`): One, or all parts of one.
        name (`str`, *optional*): Name of the benchmark; by default its own.

    Attributes:
        results (`list[dict]`): One for each retriever, see [`~contextcir.evaluation.results.summarise`]. Empty if the
            targets are not public.
        lines (`list[dict]`): The scores of each retriever on each query.
        facts (`dict`): The other entries of the record: benchmark, date, commit, versions, device. You can add more.

    Raises:
        `ValueError`: There are no parts.
    """

    def __init__(self, benchmark: Benchmark | Sequence[Benchmark], name: str | None = None):
        self.parts = [benchmark] if isinstance(benchmark, Benchmark) else list(benchmark)
        if not self.parts:
            raise ValueError("Got no benchmark to measure on, expected one or its parts.")
        self.results: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        state = process_state()
        self.facts: dict[str, Any] = {
            "benchmark": name or self.parts[0].name,
            "protocol_id": self.parts[0].protocol_id,
            "num_queries": sum(len(part.queries) for part in self.parts),
            "gallery_size": sum({id(part.gallery): len(part.gallery) for part in self.parts}.values()),
            "date": datetime.now(timezone.utc).date().isoformat(),
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
        """`dict[str, float]`: `metric@k` -> percent, for the retriever that was measured first."""
        if not self.results:
            raise ValueError(
                f"{self.facts['protocol_id']}: no retriever has been measured, or it has no public targets."
            )
        return self.results[0]["metrics"]

    def add(self, name: str, retriever: Retriever) -> list[Ranking]:
        """
        Measure one more retriever.

        Args:
            name (`str`): Its name in tables, not used before.
            retriever (`Retriever`): Any object with `search`. If it also has a method `report`, the returned `dict`
                is merged into its result.

        Returns:
            `list[Ranking]`: Its ranking of each part, for example for a submission.

        Raises:
            `ValueError`: The name is used twice, or a ranking breaks the protocol.
        """
        if any(result["retriever"] == name for result in self.results):
            raise ValueError(f"{name!r} has been measured before. Give each retriever its own name.")
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
        Measure the grounding of noun phrases, see [`~contextcir.evaluation.grounding.measure_grounding`].

        Does nothing if the model has no attention maps of noun phrases, or the benchmark does not know what noun
        phrases denote.
        """
        part = self.parts[0]
        if part.ground_truth is not None and hasattr(model, "get_concept_attentions"):
            found = measure_grounding(model, processor, part, part.ground_truth(), batch_size=batch_size)
            self.facts |= {"grounding": found, "grounded": name}

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON: `facts`, `results`, and `chance`, the scores of a random ranking."""
        chances = [part.chance() for part in self.parts] if self.results else [{}]
        chance = {key: sum(some[key] for some in chances) / len(chances) for key in chances[0]}
        return {**self.facts, "results": self.results, "chance": chance}

    def save(self, path: str | Path) -> None:
        """Write the record, and the scores of queries beside it: `metrics.json` and `metrics.queries.jsonl`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
        side_file(path).write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def __str__(self) -> str:
        if not self.results:
            return f"{self.facts['protocol_id']}: no results. The targets are not public, or nothing was measured.\n"
        tables = [format_table(self.as_dict())]
        if profiles := {result["retriever"]: result["profile"] for result in self.results if "profile" in result}:
            tables.append(format_profiles(profiles))
        if "grounding" in self.facts:
            tables.append(format_grounding(self.facts["grounded"], self.facts["grounding"]))
        return "\n".join(tables)


def measure(retriever: Retriever, benchmark: Benchmark | Sequence[Benchmark], *, name: str = "model") -> Record:
    """
    Measure a retriever on a benchmark.

    Args:
        retriever (`Retriever`): Any object with `search`, such as a [`~contextcir.retrieval.dense.DenseRetriever`].
        benchmark ([`Benchmark`] or `Sequence[Benchmark]`): From [`~contextcir.benchmarks.registry.load_benchmark`].
        name (`str`, *optional*, defaults to `"model"`): Name of the retriever in tables.

    Returns:
        [`Record`]: [`Record.add`] measures others beside it.

    Raises:
        `ValueError`: There are no parts, or a ranking breaks the protocol.

    Example:

    ```python
    >>> record = measure(DenseRetriever.from_model(model, processor), load_benchmark("scenes", "data/scenes"))
    >>> record.metrics["recall@1"]
    30.6
    >>> print(record)  # a table
    >>> record.save("metrics.json")  # and metrics.queries.jsonl
    ```"""
    record = Record(benchmark)
    record.add(name, retriever)
    return record
