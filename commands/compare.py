"""`benchmark.py compare`: paired differences of two result files, with intervals."""

from dataclasses import dataclass, field
from typing import Any

from transformers import HfArgumentParser

from contextcir.benchmarks.compare import compare, format_comparison


@dataclass
class CompareArguments:
    """Two result files, and which retriever of each."""

    before: str = field(metadata={"help": "JSON file of benchmark.py."})
    after: str = field(metadata={"help": "Another one, on the same protocol."})
    retriever_before: str | None = field(default=None, metadata={"help": "By default the first of the file."})
    retriever_after: str | None = field(default=None, metadata={"help": "By default the first of the file."})


def compare_files(argv: list[str]) -> dict[str, Any]:
    """Prints the paired differences of two result files."""
    if len(argv) >= 2 and not any(word.startswith("-") for word in argv[:2]):
        argv = ["--before", argv[0], "--after", argv[1], *argv[2:]]
    (args,) = HfArgumentParser(CompareArguments, prog="benchmark.py compare").parse_args_into_dataclasses(argv)
    comparison = compare(args.before, args.after, args.retriever_before, args.retriever_after)
    print(format_comparison(comparison))
    return comparison
