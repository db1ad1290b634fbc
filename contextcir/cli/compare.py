"""Compare two measurements query by query: paired differences with 95 % intervals.

    contextcir compare before.json after.json
    contextcir compare metrics.json metrics.json --retriever_before "CLIP, slerp" --retriever_after runs/demo

The files are those of `contextcir benchmark --output`, on the same protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser


@dataclass
class CompareArguments:
    """Two result files, and which retriever of each."""

    _argument_group_name = "Comparison"

    before: str = HfArg(help="JSON file of `contextcir benchmark --output`.")
    after: str = HfArg(help="Another one, on the same protocol.")
    retriever_before: str | None = HfArg(default=None, help="By default the first of the file.")
    retriever_after: str | None = HfArg(default=None, help="By default the first of the file.")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Print and return the paired differences of two result files."""
    (args,) = CommandParser([CompareArguments], "contextcir compare", __doc__, ("before", "after")).parse(argv)
    from contextcir.evaluation.compare import compare, format_comparison

    comparison = compare(args.before, args.after, args.retriever_before, args.retriever_after)
    print(format_comparison(comparison))
    return comparison
