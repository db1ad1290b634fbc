"""The record of a parser's training, `parser.json`, and its card, `README.md`."""

import csv
import hashlib
import json
import os
import random
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contextcir.phrases import chart_parser
from contextcir.phrases.concepts import is_concept
from contextcir.phrases.extractor import NounPhraseExtractor
from contextcir.scenes import MAX_EDITS, SceneQuery, sample_query
from research.train_parser import Arguments
from research.treebank.labelled import LabelledCaption, read_labelled, score_leaves

CARD = Path(__file__).parents[1] / "parser_card.md"
LEAF_COLUMNS = ("leaf_f1", "leaf_precision", "leaf_recall", "with_phrase")
COLUMNS = ("np_f1", "np_precision", "np_recall", "all_labels_f1", "tag_accuracy")


def save_parser(parser: Any, args: Arguments, argv: Sequence[str], history: Sequence[dict[str, Any]]) -> None:
    """Write `parser.pt` and its record. The last line of `history` is that of the best epoch, which is saved."""
    output_dir = Path(args.output_dir)
    chart_parser.save_parser(parser, output_dir / "parser.pt")
    weights = (output_dir / "parser.pt").read_bytes()
    command = shlex.join(["python", "-m", "research.train_parser", *argv])
    if os.environ.get("CIR_DATA_ROOT"):
        command = command.replace(os.environ["CIR_DATA_ROOT"].rstrip("/"), "$CIR_DATA_ROOT")
    record = {
        "command": command,
        "arguments": {name: value for name, value in vars(args).items() if name not in ("gum", "output_dir")},
        "documents": count_documents(args.gum),
        "parameters": sum(p.numel() for p in parser.parameters()),
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "best": history[-1],
        "history": history,
        "initial_run": None,
    }
    if args.init_from is not None:
        record["initial_run"] = json.loads(Path(args.init_from[-1]).with_suffix(".json").read_text())
    _write(record, output_dir)


def with_parser(parser: Any) -> NounPhraseExtractor:
    """Return an extractor of leaf phrases with a parser in memory, as it would be saved."""
    with TemporaryDirectory() as folder:
        chart_parser.save_parser(parser, Path(folder) / "parser.pt")
        return extractor_of_leaves(Path(folder) / "parser.pt")


def extractor_of_leaves(path: Path | None = None) -> NounPhraseExtractor:
    """Return an extractor of all leaf phrases with a saved parser, by default the shipped one."""
    return NounPhraseExtractor(path, max_phrases=1000, leaf_only=True)


def count_documents(gum: str) -> list[list[Any]]:
    """Return `[part, genre, licence, documents, trees]` for each genre, from `gum_{train,dev}.docs.tsv`."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for part in ("train", "dev"):
        with open(Path(gum) / f"gum_{part}.docs.tsv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file, delimiter="\t"):
                counts = found.setdefault((part, line["genre"], line["licence"]), [0, 0])
                counts[0] += 1
                counts[1] += int(line["trees"])
    return [[*key, *counts] for key, counts in found.items()]


def measure_texts(output_dir: Path, num_texts: int = 500) -> None:
    """Add scores and speed on raw texts to the record, and render the card."""
    record = json.loads((output_dir / "parser.json").read_text())
    extractor = NounPhraseExtractor(output_dir / "parser.pt", max_phrases=1000)
    rng = random.Random("texts")
    queries = [sample_query(rng, rng.randint(1, MAX_EDITS)) for _ in range(num_texts)]
    record["scenes_texts"] = evaluate_texts(extractor, queries)
    record["captions_per_second"] = {"scenes": captions_per_second(extractor, [query.text for query in queries])}
    cirr = Path(os.environ.get("CIR_DATA_ROOT", ".")) / "cirr" / "captions" / "cap.rc2.val.json"
    if cirr.exists():
        captions = [row["caption"] for row in json.loads(cirr.read_text())]
        record["captions_per_second"]["CIRR val"] = captions_per_second(extractor, captions[:2000])
    leaves = extractor_of_leaves(output_dir / "parser.pt")
    record["labelled"] = {name: measure_labelled(leaves, read_labelled(name)) for name in ("dev", "test")}
    _write(record, output_dir)
    write_card(output_dir)


def measure_labelled(extractor: NounPhraseExtractor, captions: Sequence[LabelledCaption]) -> dict[str, Any]:
    """Score all labelled captions, and those of each source."""
    sources = dict.fromkeys(caption.source for caption in captions)
    parts = {source: [caption for caption in captions if caption.source == source] for source in sources}
    return {name: score_leaves(extractor, part) for name, part in {"all": captions, **parts}.items()}


def evaluate_texts(extractor: Any, queries: Sequence[SceneQuery]) -> dict[str, float]:
    """Compute the F1, in percent, of the character spans of noun phrases. Pronouns are left out."""
    hit = gold = found = 0
    for query, phrases in zip(queries, extractor.extract([query.text for query in queries]), strict=True):
        spans = {(phrase["start"], phrase["end"]) for phrase in phrases}
        expected = {(p.start, p.end) for p in query.noun_phrases if is_concept(p.text)}
        hit, gold, found = hit + len(spans & expected), gold + len(expected), found + len(spans)
    return {"span_f1": round(200 * hit / max(gold + found, 1), 2), "texts": len(queries)}


def captions_per_second(extractor: NounPhraseExtractor, texts: Sequence[str]) -> int:
    """Measure the number of texts per second of CPU time."""
    extractor.extract(texts[:100])
    began = time.process_time()
    extractor.extract(texts)
    return round(len(texts) / (time.process_time() - began))


def write_card(output_dir: Path) -> None:
    """Render `README.md` from `parser.json`."""
    record = json.loads((output_dir / "parser.json").read_text())
    best, runs = record["best"], [record]
    while runs[0].get("initial_run"):
        runs.insert(0, runs[0]["initial_run"])
    row = "| {0} ({trees} trees) | " + " | ".join(f"{{{name}:.1f}}" for name in COLUMNS) + " |"
    names = [name for name in ("gum_dev", "scenes_dev", "captions_dev") if name in best]
    card = CARD.read_text(encoding="utf-8").format(
        parameters=record["parameters"],
        megabytes=record["bytes"] / 1e6,
        epochs=sum(run["best"]["epoch"] for run in runs),
        rows="\n".join(row.format(name, **best[name]) for name in names),
        labelled="\n".join(labelled_rows(record["labelled"])),
        commands="\n".join("    " + run["command"] for run in runs),
        cpu_minutes=sum(run["best"]["cpu_minutes"] for run in runs),
        sha256=record["sha256"],
        span_f1=record["scenes_texts"]["span_f1"],
        texts=record["scenes_texts"]["texts"],
        speed=", ".join(f"{rate} {name}" for name, rate in record["captions_per_second"].items()),
        documents="\n".join("| " + " | ".join(map(str, line)) + " |" for line in record["documents"]),
    )
    (output_dir / "README.md").write_text(card, encoding="utf-8")


def labelled_rows(labelled: dict[str, dict[str, Any]]) -> list[str]:
    """Return the rows of the card's table of labelled captions."""
    row = "| {0} | {captions} | " + " | ".join(f"{{{name}:.1f}}" for name in LEAF_COLUMNS) + " | {commands_inside} |"
    return [
        row.format(f"{part}, {source}", **scores)
        for part, sources in labelled.items()
        for source, scores in sources.items()
    ]


def _write(record: dict[str, Any], output_dir: Path) -> None:
    (output_dir / "parser.json").write_text(json.dumps(record, indent=1) + "\n")
