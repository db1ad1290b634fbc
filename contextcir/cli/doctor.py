"""Check which benchmarks are on this disk, what is missing of them, and where to get it.

    contextcir doctor benchmarks
    contextcir doctor benchmarks --output missing.tsv

Pictures are found by name below a benchmark's folder. `--output` lists all that are missing or empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from contextcir.benchmarks.registry import BENCHMARKS, benchmark_module
from contextcir.cli.options import CommandParser


@dataclass
class DoctorArguments:
    """Where to look."""

    _argument_group_name = "Data"

    data_root: str = HfArg(help="Folder that holds one folder for each benchmark, under its name.")
    output: str | None = HfArg(
        default=None, help="Text file for all missing images: benchmark, split, part, id and place, one a line."
    )


def main(argv: Sequence[str]) -> list:
    """Print and return what is there of every benchmark."""
    (args,) = CommandParser([DoctorArguments], "contextcir doctor", __doc__, ("data_root",)).parse(argv)
    from contextcir.benchmarks.doctor import examine, format_findings, write_missing

    modules = {name: benchmark_module(name) for name in BENCHMARKS if name != "custom"}
    findings = examine(modules, args.data_root)
    print(format_findings(findings, modules))
    if args.output:
        print(f"Written: {args.output}, {write_missing(findings, args.output):,} missing images")
    elif any(found.missing for found in findings):
        print("\n--output FILE lists all missing images.")
    return findings
