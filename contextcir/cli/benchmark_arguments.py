"""Options that `benchmark`, `audit` and `visualize` share: which benchmark, where it is, by which protocol."""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from contextcir.benchmarks.registry import BENCHMARKS, benchmark_module, load_benchmark

ALL = "all"


@dataclass
class BenchmarkChoice:
    """Which benchmark, and how it is read."""

    _argument_group_name = "Benchmark"

    data_root: str = HfArg(help="Folder or Hub name of the benchmark, or a folder that holds one folder for each.")
    benchmark: str = HfArg(help=f"Name: {', '.join(BENCHMARKS)} (your own data in the published form).")
    split: str | None = HfArg(default=None, help="Split; by default the benchmark's first.")
    protocol: str | None = HfArg(default=None, help="Protocol; by default the benchmark's first.")
    text: str | None = HfArg(default=None, help="How query texts are made, where there is a choice.")

    def __post_init__(self):
        if self.benchmark != ALL:
            module = benchmark_module(self.benchmark)
            if self.text and not hasattr(module, "TEXTS"):
                raise ValueError(f"{self.benchmark} has one way to make query texts: leave out --text.")

    def load(self, name: str | None = None, missing: str = "error"):
        """The parts of the benchmark; of another one under the same root where a name is given."""
        return load_benchmark(
            *(name or self.benchmark, self.data_root, self.split),
            protocol=self.protocol,
            text=self.text,
            missing=missing,
        )
