"""Scenes: drawn worlds with exact ground truth, the benchmark that ships as code (`contextcir/scenes`).

Every query composes two to five edits and has one target. The gallery holds, for each query, its reference, the target
with an edit left out, with attributes bound to the wrong object, and the same edit on other scenes: finding the right
words or the right picture is not enough. The six candidates (with the reference) are of these, so that
recall_subset@1 is 20 by chance. The reference leaves the ranking, as in CIRR. Built by
`datasets_scripts/build_scenes.py`.
"""

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice
from contextcir.benchmarks.published import load_benchmark

SOURCE = "nothing to download: datasets_scripts/build_scenes.py draws it"
SPLITS = ("test", "validation")
PROTOCOLS = ("reference-excluded",)


def load(
    path: str, split: str = "test", *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read scenes from its folder or from the Hub, in one part; its images are inside the files. Errors as in
    [`~contextcir.benchmarks.published.load_benchmark`]."""
    check_choice("scenes", "protocols", protocol, PROTOCOLS)
    return [load_benchmark(path, split, name="scenes", exclude_reference=True)]
