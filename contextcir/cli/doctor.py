"""Check which benchmarks are on this disk, what is missing of them, and where to get it.

contextcir doctor benchmarks
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


def main(argv: Sequence[str]) -> list:
    """Print and return what is there of every benchmark."""
    (args,) = CommandParser([DoctorArguments], "contextcir doctor", __doc__, ("data_root",)).parse(argv)
    from contextcir.benchmarks.doctor import examine, format_findings

    modules = {name: benchmark_module(name) for name in BENCHMARKS if name != "custom"}
    findings = examine(modules, args.data_root)
    print(format_findings(findings, modules))
    return findings
