"""Render an audit as one HTML file with all pictures, to browse failures without a server.

Each picture is a small JPEG inside the file, stored once. A script in the page filters by kind of failure and by words
of the text. Nothing is loaded from elsewhere.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from contextcir.benchmarks.base import Benchmark, evenly_spaced
from contextcir.data.images import data_uri
from contextcir.evaluation.audit import KINDS, Audit, Case

TEMPLATE = Path(__file__).with_name("audit_page.html")
SIDE = 128  # pixels
MAX_CASES = 200  # a page of some megabytes


def audit_page(audit: Audit, parts: Sequence[Benchmark], retriever: str) -> str:
    """
    Render the cases of an audit.

    Args:
        audit ([`Audit`]): From [`audit`](contextcir.evaluation.audit.audit).
        parts (`Sequence[Benchmark]`): The benchmark, for its images.
        retriever (`str`): Name of the audited retriever.

    Returns:
        `str`: The page, with at most `MAX_CASES` evenly spaced cases.
    """
    benchmarks = {part.part: part for part in parts}
    images: dict[str, str] = {}
    shown = [_shown(case, benchmarks[case.part], images) for case in evenly_spaced(audit.cases, MAX_CASES)]
    counts = Counter(case["kind"] for case in shown)
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            retriever=retriever,
            findings=audit.findings,
            kinds={kind: counts[kind] for kind in (*KINDS, "solved") if counts[kind]},
            cases=shown,
            images=images,
        )
    )


def _shown(case: Case, part: Benchmark, images: dict[str, str]) -> dict[str, Any]:
    """Prepare a case for the template, and add its pictures to `images`."""

    def gallery_image(id_: str) -> str:
        key = f"{case.part}/{id_}"
        if key not in images:
            images[key] = data_uri(part.gallery.image(id_), SIDE)
        return key

    scores = [f" {score:.3f}" for score in case.scores] or [""] * len(case.top)
    hits = [
        {"image": gallery_image(id_), "target": id_ in case.targets, "caption": f"{place}. {id_}{score}"}
        for place, (id_, score) in enumerate(zip(case.top, scores, strict=True), start=1)
    ]
    hits += [
        {"image": gallery_image(id_), "target": True, "caption": f"target {id_}"}
        for id_ in sorted(set(case.targets) - set(case.top))[:3]
    ]
    reference = f"{case.part}/reference of {case.query.id}"
    images[reference] = data_uri(part.gallery.reference_image(case.query), SIDE)
    return {
        "id": case.query.id,
        "part": case.part,
        "text": case.query.modification_text,
        "kind": case.kind or "solved",
        "reference": reference,
        "reference_id": case.query.reference_id,
        "hits": hits,
    }
