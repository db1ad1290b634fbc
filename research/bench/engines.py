"""Search engines on the same vectors: what they find, how fast, what they weigh, and how long they take to build.

    python -m research.bench.engines                                      # 100,000 vectors: about 3 minutes
    python -m research.bench.engines --dsn postgresql://user@host/name    # and PostgreSQL, with fewer vectors
    python -m research.bench.engines --quick                              # a test run

The vectors vary in 96 latent dimensions, with noise in all, and share an offset, as the embeddings of most models do:
a query has neighbours, but none is near. Recall is the share of the true ten (fifty) best that are found; the time is
that of single queries for ten results, in wall seconds, on one thread: the lower quartile, since other work on the
machine slows some of them. Each engine runs in a process of its own. A search in LanceDB also looks for a newer
version of the table.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from contextcir.runtime.provenance import code_commit, versions
from research.bench.measuring import in_child, machine_name, memory_mb, write_json

LATENT = 96  # dimensions in which vectors differ on purpose
NOISE = 0.3  # in all dimensions
OFFSET = 0.5  # of all vectors
NUM_QUERIES = 200
BATCH = 4096
TABLE = "contextcir_bench"
SHOWN = ("bits", "partitions")  # settings that are compared, beside those of searches


def vectors_and_queries(rows: int, dim: int) -> tuple[Any, Any]:
    """Return unit vectors, `(rows, dim)`, and queries, `(NUM_QUERIES, dim)`."""
    import torch

    generator = torch.Generator().manual_seed(rows)
    spread = torch.randn(LATENT, dim, generator=generator) / LATENT**0.5

    def make(count: int) -> torch.Tensor:
        latent = torch.randn(count, LATENT, generator=generator)
        noise = NOISE * torch.randn(count, dim, generator=generator)
        return torch.nn.functional.normalize(latent @ spread + noise + OFFSET, dim=1)

    vectors = torch.empty(rows, dim)
    for start in range(0, rows, BATCH):
        vectors[start : start + BATCH] = make(min(BATCH, rows - start))
    return vectors, make(NUM_QUERIES)


def open_engine(engine: str, settings: dict[str, Any], ids: Sequence[str], vectors: Any) -> Any:
    """Return an index: one of the vectors themselves, or an empty one."""
    from contextcir.retrieval.engines.exact import ExactIndex
    from contextcir.retrieval.engines.quantised import QuantisedIndex

    if engine == "exact":
        return ExactIndex(ids, vectors)
    if engine == "lancedb":
        from contextcir.retrieval.engines.lance import LanceIndex

        return LanceIndex(**settings)
    if engine == "postgres":
        from contextcir.retrieval.engines.postgres import PostgresIndex

        return PostgresIndex(table=TABLE, **settings)
    return QuantisedIndex(engine, ids, vectors, **settings)


def measure(
    engine: str,
    settings: dict[str, Any],
    searches: Sequence[dict[str, int]],
    sizes: tuple[int, int],
    there: Connection,
) -> None:
    """Send a row for each way of searching. An engine is filled and built once."""
    os.environ["LANCE_CPU_THREADS"] = "1"
    import torch

    from contextcir.retrieval.engines.base import measure_recall
    from contextcir.retrieval.engines.exact import ExactIndex

    torch.set_num_threads(1)
    vectors, queries = vectors_and_queries(*sizes)
    ids = [f"image-{row:08d}" for row in range(len(vectors))]
    exact, index = ExactIndex(ids, vectors), open_engine(engine, settings, ids, vectors)
    begin = time.perf_counter()
    if engine in ("lancedb", "postgres"):
        if old := list(index.digests()):  # of a run before
            index.remove(old)
        begin = time.perf_counter()
        for start in range(0, len(ids), BATCH):
            index.add(ids[start : start + BATCH], vectors[start : start + BATCH])
    added = time.perf_counter()
    index.build()
    built = time.perf_counter()
    rows = []
    for search in searches:
        for name, value in search.items():
            setattr(index, name, value)
        seconds = []
        for query in queries[:, None]:
            start = time.perf_counter()
            index.search(query, 10)
            seconds.append(time.perf_counter() - start)
        rows.append(
            {
                "engine": engine,
                "settings": {name: value for name, value in settings.items() if name in SHOWN} | search,
                "rows": len(ids),
                "dim": sizes[1],
                "add_seconds": round(added - begin, 2),
                "build_seconds": round(built - added, 2),
                "recall@10": round(measure_recall(index, exact, queries, 10).recall, 4),
                "recall@50": round(measure_recall(index, exact, queries, 50).recall, 4),
                "ms_per_query": round(1000 * statistics.quantiles(seconds, n=4)[0], 2),
                "megabytes": round(index.size_in_bytes() / 1e6, 3),
            }
        )
    index.close()
    there.send((rows, round(memory_mb())))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure all engines. Returns the result, as written to JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="vectors")
    parser.add_argument("--dim", type=int, default=512, help="their dimension")
    parser.add_argument("--dsn", help="PostgreSQL to measure, too; its table contextcir_bench is overwritten")
    parser.add_argument("--postgres_rows", type=int, default=20_000, help="vectors in PostgreSQL")
    parser.add_argument("--quick", action="store_true", help="1,000 small vectors")
    parser.add_argument("--output", default="docs/results/bench_engines.json", help="JSON file of the result")
    parser.add_argument("--figure", help="PNG file for a figure of recall by time")
    args = parser.parse_args(argv)
    if args.quick:
        args.rows, args.dim, args.postgres_rows = 1000, 32, 500
    load, rows = os.getloadavg()[0], list[dict[str, Any]]()
    print(f"{'':<62}{'recall@10':>10}{'recall@50':>10}{'ms':>8}{'build s':>9}{'MB':>8}")

    def run(engine: str, settings: dict[str, Any], searches: Sequence[dict[str, int]] = ({},), size: int = args.rows):
        found, peak = in_child(measure, engine, settings, searches, (size, args.dim))
        for row in found:
            rows.append(row | {"peak_megabytes_of_process": peak})
            name = " ".join([engine, *(f"{key}={value}" for key, value in row["settings"].items()), f"{size:,} rows"])
            numbers = [f"{row[f'recall@{k}']:>10.3f}" for k in (10, 50)]
            numbers += [f"{row['ms_per_query']:>8.1f}{row['build_seconds']:>9.1f}{row['megabytes']:>8.1f}"]
            print(f"{name:<62}{''.join(numbers)}", flush=True)

    run("exact", {})
    for precision, rescores in (("int8", (1, 2)), ("binary", (8, 16, 32))):
        run(precision, {}, [{"rescore": rescore} for rescore in rescores])
    with tempfile.TemporaryDirectory() as folder:
        root = int(args.rows**0.5)
        for bits, partitions in ((1, None), (4, None), (4, root)):
            settings = {
                "uri": f"{folder}/{bits}-{partitions}",
                "bits": bits,
                "partitions": partitions,
                "least_rows": 256,
            }
            run("lancedb", settings, [{"nprobes": 20}, {"nprobes": 64}])
    if args.dsn:
        searches = [{"ef_search": value} for value in (100, 200, 400)]
        run("postgres", {"dsn": args.dsn}, searches, args.postgres_rows)
    result = {
        "command": f"python -m research.bench.engines --rows {args.rows} --dim {args.dim}"
        + " --dsn ..." * bool(args.dsn),
        "commit": code_commit(),
        "versions": versions(),
        "machine": machine_name("cpu"),
        "cores": os.cpu_count(),
        "threads": 1,
        "load_before": load,
        "rows": rows,
    }
    write_json(result, args.output)
    if args.figure:
        from contextcir.visualization.page import save_png  # not in the processes that are measured
        from research.panels import recall_by_latency

        save_png(recall_by_latency(rows), args.figure)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
