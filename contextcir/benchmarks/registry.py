"""All benchmarks by name. Each is a module (or an object) that meets [`BenchmarkModule`], imported when used."""

import importlib
from typing import Protocol

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import find_root
from contextcir.runtime.locations import locate

BENCHMARKS = {  # name -> module of `contextcir.benchmarks`, and the object in it where it defines several
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
    What a benchmark defines.

    Attributes:
        SPLITS (`tuple[str, ...]`): Its splits, the default first.
        SOURCE (`str`): Where to get the data.

    May define as well: `PROTOCOLS` and `TEXTS` (choices of `load`, the default first); `submission(parts, rankings)`,
    the files that the benchmark's server takes, by name; `training_triplets(path)`, rows of its training data;
    `LICENCE` and `CITATION`, for the card of its published form.
    """

    SPLITS: tuple[str, ...]
    SOURCE: str

    def load(self, path: str, split: str, *, check_images: bool = True) -> list[Benchmark]:
        """
        Read one split.

        Args:
            path (`str`): Folder in the layout of the authors, or a name on the Hub.
            split (`str`): One of `SPLITS`.
            check_images (`bool`, defaults to `True`): Whether every image file must be there.
            **choices: `protocol` and `text`, where there is a choice.

        Returns:
            `list[Benchmark]`: Its parts, such as FashionIQ's three categories; one where there are none.

        Raises:
            `ValueError`: Something is missing, or the split or protocol is unknown.
        """
        ...


def benchmark_module(name: str) -> BenchmarkModule:
    """
    Import a benchmark.

    Args:
        name (`str`): One of [`~contextcir.benchmarks.registry.BENCHMARKS`].

    Returns:
        [`BenchmarkModule`]

    Raises:
        `ValueError`: There is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. Choose one of {', '.join(BENCHMARKS)}.")
    module, _, attribute = BENCHMARKS[name].partition(":")
    found = importlib.import_module(f"contextcir.benchmarks.{module}")
    return getattr(found, attribute) if attribute else found


def load_benchmark(
    name: str, root: str, split: str | None = None, *, protocol: str | None = None, text: str | None = None
) -> list[Benchmark]:
    """
    Read a benchmark.

    Args:
        name (`str`): Such as `cirr`; `custom` for data of your own in the published form.
        root (`str`): Its folder, a folder that holds one folder for each benchmark under its name, or a name on the
            Hub for those that are published there.
        split (`str`, *optional*): By default the benchmark's first.
        protocol (`str`, *optional*): By default the benchmark's first.
        text (`str`, *optional*): How query texts are made, where there is a choice.

    Returns:
        `list[Benchmark]`: Its parts; one for most benchmarks.

    Raises:
        `ValueError`: The name, split, protocol or way to make texts is unknown, or data are missing.

    Example:

    ```python
    >>> (benchmark,) = load_benchmark("scenes", "data/scenes", "test")
    >>> benchmark.evaluate(benchmark.rank(retriever))["recall@1"]
    ```"""
    module = benchmark_module(name)
    if text and not hasattr(module, "TEXTS"):
        raise ValueError(f"{name} has one way to make query texts, got text={text!r}. Leave it out.")
    choices = {key: value for key, value in (("protocol", protocol), ("text", text)) if value}
    return module.load(locate(str(find_root(root, name))), split or module.SPLITS[0], **choices)
