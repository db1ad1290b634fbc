"""Audit a model: find out what it answers for the wrong reason. Writes JSON, plots and a page to browse failures.

    contextcir audit --retriever runs/demo --benchmark scenes --data_root data/scenes --output runs/demo/audit

The probes are what CLIP finds by the reference image alone and by the text alone.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.benchmark_arguments import BenchmarkChoice
from contextcir.cli.options import CommandParser


@dataclass
class AuditArguments:
    """What is audited, and where the findings go."""

    _argument_group_name = "Audit"

    retriever: str = HfArg(help="Model: folder of a run or Hub name.")
    output: str = HfArg(help="Folder for audit.json, the plots and index.html.")
    clip: str | None = HfArg(default=None, help="CLIP of the probes; by default the model's own.")
    max_queries: int = HfArg(default=500, help="Queries of each part, evenly spaced.")
    batch_size: int = HfArg(default=64, help="Images or queries at a time.")

    def __post_init__(self):
        if self.max_queries < 1:
            raise ValueError(f"max_queries must be at least 1, got {self.max_queries}.")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Audit a model, write the findings, and return them."""
    choice, args = CommandParser([BenchmarkChoice, AuditArguments], "contextcir audit", __doc__).parse(argv)
    from contextcir.benchmarks.base import evenly_spaced
    from contextcir.cli.loading import find_clip, load_clip_baselines, load_encoder
    from contextcir.evaluation.audit import audit, check_auditable
    from contextcir.evaluation.audit_page import audit_page
    from contextcir.phrases.extractor import NounPhraseExtractor
    from contextcir.runtime.distributed import process_state
    from contextcir.runtime.provenance import provenance
    from contextcir.visualization import audit_figures, save_png

    parts = choice.load()
    check_auditable(parts)
    parts = [part.restricted_to(evenly_spaced(part.queries, args.max_queries)) for part in parts]
    device, clip = process_state().device, args.clip or find_clip(args.retriever)
    options = {"batch_size": args.batch_size}
    probes = load_clip_baselines(clip, device, **options)
    image_only, text_only = probes["CLIP, image only"], probes["CLIP, text only"]
    texts = list({query.modification_text for part in parts for query in part.queries})
    spans = {
        text: [(phrase["start"], phrase["end"]) for phrase in phrases]
        for text, phrases in zip(texts, NounPhraseExtractor().extract(texts), strict=True)
    }
    halves = {
        (part.gallery, query.id): pair
        for part in parts
        for query, *pair in zip(
            part.queries, *(probe.encode(part.queries, part.gallery) for probe in (image_only, text_only)), strict=True
        )
    }

    def similarity(query, gallery):
        embeds = image_only.gallery_embeds(gallery)
        return tuple((embeds @ half).cpu().numpy() for half in halves[gallery, query.id])

    composed = load_encoder(args.retriever, device, **options).retriever
    result = audit(parts, composed, image_only, text_only, similarity, spans)
    record = {
        "retriever": args.retriever,
        "clip": clip,
        **result.findings,
        "command": shlex.join(["contextcir", "audit", *argv]),
        **provenance(),
    }
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, figure in audit_figures(result.findings).items():
        save_png(figure, folder / f"{name}.png")
    (folder / "index.html").write_text(audit_page(result, parts, args.retriever), encoding="utf-8")
    print(json.dumps(result.findings, indent=2))
    print(f"Written: {folder}/audit.json, plots, and index.html to browse the failures")
    return record
