"""`benchmark.py audit`: what a model answers for the wrong reason, as JSON, plots and a page to browse failures."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from contextcir.benchmarks.audit import audit, check_auditable
from contextcir.benchmarks.audit_page import audit_page
from contextcir.benchmarks.base import evenly_spaced
from contextcir.benchmarks.registry import BENCHMARKS
from contextcir.distributed import process_state
from contextcir.provenance import git_commit, versions
from contextcir.retrieval.dense import DenseRetriever
from modeling_contextcir import ContextCIRProcessor

from .loading import find_clip, load_clip, load_model, load_parts


@dataclass
class AuditArguments:
    """What to audit, on what."""

    retriever: str = field(metadata={"help": "Model to audit: a run's folder or a Hub name."})
    benchmark: str = field(metadata={"help": f"One of {', '.join(BENCHMARKS)}."})
    data_root: str = field(metadata={"help": "The benchmark's folder or Hub name, or a folder with one for each."})
    output: str = field(metadata={"help": "Folder for audit.json, the plots and index.html."})
    split: str | None = field(default=None, metadata={"help": "Split; by default the benchmark's first."})
    protocol: str | None = field(default=None, metadata={"help": "Protocol; by default the benchmark's first."})
    text: str | None = field(default=None, metadata={"help": "How query texts are made, where there is a choice."})
    clip: str | None = field(default=None, metadata={"help": "CLIP of the probes; by default the model's own."})
    max_queries: int = field(default=500, metadata={"help": "Queries of each part, evenly spaced."})
    batch_size: int = field(default=64, metadata={"help": "Images or queries at a time."})

    def __post_init__(self):
        if self.benchmark not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {self.benchmark!r}. Choose one of {', '.join(BENCHMARKS)}.")
        if self.max_queries < 1:
            raise ValueError(f"max_queries must be at least 1, got {self.max_queries}.")


def audit_retriever(argv: list[str]) -> dict[str, Any]:
    """Audits a model: JSON, plots and a page to browse failures."""
    from contextcir.noun_phrases import NounPhraseExtractor  # spaCy and matplotlib are optional, and slow to import
    from contextcir.visualization import audit_figures, save_png

    (args,) = HfArgumentParser(AuditArguments, prog="benchmark.py audit").parse_args_into_dataclasses(argv)
    device, module = process_state().device, BENCHMARKS[args.benchmark]
    parts = load_parts(module, args)
    check_auditable(parts)
    parts = [part.restricted_to(evenly_spaced(part.queries, args.max_queries)) for part in parts]
    clip = args.clip or find_clip(args.retriever)
    clip_model = load_clip(clip, device)
    processor = ContextCIRProcessor.from_pretrained(clip)
    image_only, text_only = (
        make(clip_model, processor, batch_size=args.batch_size)
        for make in (DenseRetriever.image_only, DenseRetriever.text_only)
    )
    text_only.gallery_embeds = image_only.gallery_embeds
    texts = list({query.modification_text for part in parts for query in part.queries})
    found = NounPhraseExtractor().extract(texts)
    spans = [[(phrase["start"], phrase["end"]) for phrase in phrases] for phrases in found]

    halves = {
        (part.gallery, query.id): pair
        for part in parts
        for query, *pair in zip(
            part.queries, *(probe.encode(part.queries, part.gallery) for probe in (image_only, text_only)), strict=True
        )
    }

    def similarity(query, gallery):
        return tuple((image_only.gallery_embeds[gallery] @ half).cpu().numpy() for half in halves[gallery, query.id])

    result = audit(
        parts,
        DenseRetriever.from_model(*load_model(args.retriever, device), batch_size=args.batch_size),
        image_only,
        text_only,
        similarity,
        dict(zip(texts, spans, strict=True)),
    )
    record = {
        "retriever": args.retriever,
        "clip": clip,
        **result.findings,
        "command": shlex.join(["benchmark.py", "audit", *argv]),
        "commit": git_commit(Path(__file__).parent),
        "versions": versions(),
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
