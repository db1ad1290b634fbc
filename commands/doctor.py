"""`benchmark.py doctor`: what is on the disk, what is missing, where to get it."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from contextcir.benchmarks.doctor import examine, format_findings
from contextcir.benchmarks.registry import BENCHMARKS


@dataclass
class DoctorArguments:
    """Where to look."""

    data_root: str = field(metadata={"help": "Folder that holds one folder for each benchmark, under its name."})


def doctor(argv: list[str]) -> list:
    """Says for every benchmark what is there."""
    (args,) = HfArgumentParser(DoctorArguments, prog="benchmark.py doctor").parse_args_into_dataclasses(argv)
    named = {name: module for name, module in BENCHMARKS.items() if name != "custom"}
    findings = examine(named, args.data_root)
    print(format_findings(findings, named))
    return findings
