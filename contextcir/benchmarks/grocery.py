"""Grocery: composed queries over the photographs of the Grocery Store dataset (Klasson et al., WACV 2019).

A text turns one grocery into another ("the same kind of fruit, but a Granny Smith"). Every photograph of that class
in the split is a target: recall@k counts any of them, mAP@k all. The six candidates (with the reference) hold one
target and groceries that are easily confused with it. The reference is removed from the ranking. The splits share the
classes but no photograph, as in the original. Built by `contextcir data grocery`.
"""

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choices
from contextcir.benchmarks.published import load_published

CITATION = """\
@inproceedings{klasson2019hierarchical,
  title={A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels},
  author={Klasson, Marcus and Zhang, Cheng and Kjellstr{\\"o}m, Hedvig},
  booktitle={IEEE Winter Conference on Applications of Computer Vision (WACV)},
  year={2019}
}"""
SOURCE = "photographs: github.com/marcusklasson/GroceryStoreDataset; then contextcir data grocery"
SPLITS = ("test", "validation")
PROTOCOLS = ("reference-excluded",)


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`]."""
    check_choices("grocery", protocol=(protocol, PROTOCOLS))
    return [load_published(path, split, name="grocery", protocol=protocol)]
