"""The tables of `docs/speed.md`: what the benches have measured."""

from research.tables import goals, read, source, table


def bench(name: str) -> str:
    """Return a table of ratios, such as those of `research/bench/models.py`."""
    record = read(name)
    how = f"{record['device']}, {record['threads']} thread, medians of {record['repeats']}, torch {record['torch']}"
    column = "ratio" if "ratio" in record["rows"][0] else "value"
    command = record.get("command", "make bench")
    return f"{goals(record['rows'], column)}\n\n`{command}`, {how}, at commit `{record['commit'][:7]}`."


def data_rate() -> str:
    """Return the table of `research/bench/data.py`."""
    record = read("bench_data.json")
    rows = [
        [
            "encoded once, kept by `datasets`" if row["encoded"] else "read, decoded and encoded in every step",
            f"{row['rate']:.0%}",
            f"{row['images_per_second']:,.0f}",
            f"{row['share_waiting']:.0%}",
            f"{row['seconds_per_step']:.2f}",
        ]
        for row in record["rows"]
    ]
    header = ["images", "of the rate in memory", "images/s", "waiting", "seconds a step"]
    how = f"{record['device']}, {record['cores']} cores, {record['workers']} loader process"
    return table(header, rows) + (
        f"\n\n`python -m research.bench.data`, the demo's recipe, batch {record['batch_size']}, {how}, medians of"
        f" {record['repeats']} rounds of {record['steps']} steps, at commit `{record['commit'][:7]}`."
    )


def loader_ceilings() -> str:
    """Return the images a second that the loader gives at most, by the number of its processes."""
    record = read("bench_data.json")
    rates: dict[str, list[str]] = {}
    for row in record["ceilings"]:
        rates.setdefault(row["images"], []).append(f"{row['images_per_second']:,.0f}")
    workers = list(dict.fromkeys(row["workers"] for row in record["ceilings"]))
    header = ["images/s at most, by `--dataloader_num_workers`", *map(str, workers)]
    return table(header, [[f"{name}", *found] for name, found in rates.items()]) + (
        f"\n\n`python -m research.bench.data`, {record['cores']} cores, at commit `{record['commit'][:7]}`."
    )


def exported() -> str:
    """Return the tables of `research.bench.onnx_speed`: speed, size and recall of exported models."""
    record = read("bench_onnx.json")
    graphs = {"gallery.onnx": "images/s", "query.onnx": "queries/s"}
    rows = [
        [f"{row['shapes']}, {unit}", *(f"{rate:,.0f}" for rate in row["rates"][graph].values())]
        for row in record["rows"]
        for graph, unit in graphs.items()
    ]
    sizes = [
        [f"{row['shapes']}, MB of both graphs", "", *(f"{size:,.0f}" for size in row["megabytes"].values())]
        for row in record["rows"]
    ]
    recall = record["recall"]
    metrics = list(next(iter(recall["metrics"].values())))
    scores = [
        [f"the demo, {metric}", *(f"{found[metric]:.1f}" for found in recall["metrics"].values())]
        for metric in metrics
    ]
    threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    how = f"Batches of {record['batch']}, {record['machine']}, {threads}, medians of {record['repeats']}"
    libraries = ", ".join(f"{name} {record['versions'][name]}" for name in ("torch", "onnxruntime"))
    return table(["", *recall["metrics"]], [*rows, *sizes, *scores]) + (
        f"\n\n{how}, {libraries}; recall of {recall['num_queries']:,} queries, protocol `{recall['protocol_id']}`;"
        f" `python -m research.bench.onnx_speed` at commit `{record['commit'][:7]}`."
    )


def captions_bench() -> str:
    """Return the table of `research/bench/captions.py`."""
    record = read("bench_captions.json")
    rows = [row | {"name": f"{row['mode']}: {row['name']}"} for row in record["rows"]]
    counts = "; ".join(
        f"{mode}: {record[mode]['pairs']['done']:,} of {record[mode]['pairs']['given']:,} pairs captioned,"
        f" {record[mode]['pairs']['refused']:,} refused, {record[mode]['pairs']['failed']:,} failed"
        for mode in record["settings"]["faults"]
    )
    concurrent = f"{record['settings']['concurrency']} concurrent requests"
    return f"{goals(rows)}\n\n{counts}. {source(record)}, {concurrent}, killed three times in each mode."


def scope_speed() -> str:
    """Return the table of `research/bench/imagescope_speed.py`."""
    record = read("imagescope_speed.json")
    return f"{goals(record['rows'])}\n\n{source(record)}, killed once, on {record['cores']} cores."


def streams() -> str:
    """Return the table of `research.bench.streams`."""
    record = read("bench_streams.json")
    settings, memory, first = record["settings"], record["memory"], record["seconds_to_first_batch"]
    at = ", ".join(
        f"{moment['main'] + moment['loader']:,.0f} MB after {moment['share']:.0%} of a pass" for moment in memory
    )
    rates = ", ".join(f"{name} {rate:,.0f} rows/s" for name, rate in record["rates"].items())
    undecoded, mixed = (record[f"rows_per_second_{name}"] for name in ("undecoded", "mixed"))
    return (
        f"{goals(record['rows'])}\n\nThe rates are {rates}; without decoding {undecoded:,.0f} rows/s, and {mixed:,.0f}"
        f" of two data sets that are mixed. Both processes together have {at}. The first batch of a new run comes"
        f" after {first['new']:.1f} s, that of one resumed in the middle of a pass after {first['resumed']:.1f} s."
        f"\n\n`{record['command']}`: {settings['rows']:,} rows in Parquet files on a local disk, pictures of"
        f" {record['image_size']} pixels, batch {settings['batch_size']}, one loader process, medians of"
        f" {settings['repeats']} rounds, {record['cores']} CPU cores, at commit `{record['commit'][:7]}`."
    )


SPEED_PARTS = {
    "bench": lambda: bench("bench.json"),
    "bench_instructcir": lambda: bench("bench_instructcir.json"),
    "grad_cache": lambda: bench("bench_grad_cache.json"),
    "streams": streams,
    "training_steps": lambda: bench("bench_training_steps.json"),
    "data_rate": data_rate,
    "loader_ceilings": loader_ceilings,
    "exported": exported,
    "captions_bench": captions_bench,
    "scope_speed": scope_speed,
}
