"""Write pairs of images to `pairs.json`, and caption them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextcir.cli import generate


def write_and_caption(pairs: Sequence[dict[str, Any]], output: str, options: Sequence[str]) -> int:
    """Write pairs to `pairs.json` in the output folder. With options of `contextcir generate`, caption them too.
    Returns the exit code."""
    path = Path(output, "pairs.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(pairs, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"{len(pairs):,} pairs written to {path}", flush=True)
    return generate.main(["--pairs", str(path), "--output", output, *options]) if options else 0
