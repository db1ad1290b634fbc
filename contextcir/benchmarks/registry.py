"""All benchmarks by name. Each is a module or an object that follows [`BenchmarkModule`]."""

import importlib
import logging
from typing import Any, Protocol

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choices, find_root
from contextcir.benchmarks.missing import MISSING, leave_out_missing
from contextcir.runtime.locations import locate

logger = logging.getLogger("contextcir")

BENCHMARKS = {  # name -> module of `contextcir.benchmarks`, with `:attribute` if it defines several benchmarks
    "cirr": "cirr",
    "circo": "circo",
    "fashioniq": "fashioniq",
    "genecis": "genecis",
    "imagenet_r": "imagenet_r",
    "visdial": "visdial",
    "flickr30k": "karpathy:FLICKR30K",
    "coco": "karpathy:COCO",
    "lasco": "lasco",
    "grocery": "grocery",
    "scenes": "scenes",
    "folder": "folder",
    "custom": "published",
}


class BenchmarkModule(Protocol):
    """
    The contract of a benchmark.

    Attributes:
        SPLITS (`tuple[str, ...]`): The splits, the default first.
        SOURCE (`str`): Where to get the data.

    Optional attributes:

    - `PROTOCOLS` and `TEXTS` (`tuple[str, ...]`): Values of `protocol` and `text` in `load`, the default first.
    - `LICENCE` and `CITATION` (`str`): For the card of the published form.
    - `training_triplets(path, missing="error")`: Yields the training data as dicts with `id`, `modification_text`,
      `reference_id`, `target_id`, and the paths `reference_image` and `target_image`. Raises a `ValueError` as `load`
      does. `missing="skip"` leaves out triplets whose images are missing, and logs their number.
    - `submission(parts, rankings)`: Takes the parts and a `Ranking` of each. Returns the files for the benchmark's
      evaluation server, file name -> JSON content, checked against what the server accepts.
    """

    SPLITS: tuple[str, ...]
    SOURCE: str

    def load(self, path: str, split: str, *, check_images: bool = True) -> list[Benchmark]:
        """
        Read one split.

        Args:
            path (`str`): Folder in the layout of the authors, or a name on the Hub for data in the published form.
            split (`str`): One of `SPLITS`.
            check_images (`bool`, *optional*, defaults to `True`): Whether a missing or empty image file is an error.
                Otherwise the parts say what is `missing`. No effect if the images are inside the annotation files.
            **choices (`str`): `protocol` and `text`, if the benchmark has these choices.

        Returns:
            `list[Benchmark]`: Its parts, such as the three categories of FashionIQ. Most benchmarks have one part.

        Raises:
            `ValueError`: The split, protocol or text is unknown; a file or an image is missing; a file is malformed;
                the counts are not those of the official release; or an image is in two places with different content.
        """
        ...


def benchmark_module(name: str) -> BenchmarkModule:
    """Import a benchmark by its name in [`~contextcir.benchmarks.registry.BENCHMARKS`]. Raises a `ValueError` if there
    is none."""
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. Choose one of {', '.join(BENCHMARKS)}.")
    module, _, attribute = BENCHMARKS[name].partition(":")
    found = importlib.import_module(f"contextcir.benchmarks.{module}")
    return getattr(found, attribute) if attribute else found


def load_benchmark(
    name: str,
    root: str,
    split: str | None = None,
    *,
    protocol: str | None = None,
    text: str | None = None,
    missing: str = "error",
) -> list[Benchmark]:
    """
    Read a benchmark.

    Args:
        name (`str`): For example `cirr`; `custom` for your own data in the published form.
        root (`str`): Its folder, a folder that has it under its name, or a name on the Hub (published form only).
        split (`str`, *optional*): The split; by default the benchmark's first.
        protocol (`str`, *optional*): The protocol; by default the benchmark's first.
        text (`str`, *optional*): How to make the query texts, if the benchmark has a choice.
        missing (`str`, *optional*, defaults to `"error"`): What to do about missing images. `skip` leaves them
            out, and the queries that need one: the protocol id then says so and is another one.

    Returns:
        `list[Benchmark]`: Its parts. Most benchmarks have one part. What their `remarks` say is logged.

    Raises:
        `ValueError`: The name, split, protocol or text is unknown, or data are missing.

    Example:

    ```python
    >>> (benchmark,) = load_benchmark("scenes", "data/scenes", "test")
    >>> benchmark.evaluate(benchmark.rank(retriever))["recall@1"]
    ```"""
    module = benchmark_module(name)
    if text and not hasattr(module, "TEXTS"):
        raise ValueError(f"{name} has one way to make query texts, got text={text!r}. Leave it out.")
    choices: dict[str, Any] = {key: value for key, value in (("protocol", protocol), ("text", text)) if value}
    check_choices(name, missing=(missing, MISSING))
    if missing == "skip":
        choices |= {"check_images": False}
    parts = module.load(str(find_root(locate(root), name)), split or module.SPLITS[0], **choices)
    if missing == "skip":
        parts = leave_out_missing(parts)
    for remark in dict.fromkeys(remark for part in parts for remark in part.remarks):
        logger.warning("%s", remark)
    return parts
