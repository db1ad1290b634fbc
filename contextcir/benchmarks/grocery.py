"""Grocery: composed queries over the photographs of the Grocery Store dataset (Klasson et al., WACV 2019).

A text turns one grocery into another ("the same kind of fruit, but a Granny Smith"); every photograph of that class
in the split is a target: recall@k counts any of them, mAP@k all. The six candidates (with the reference) hold one
target and groceries that are easily taken for it. The reference leaves the ranking. Photographs never cross the splits
of the original, in which the classes are the same. Built by `datasets_scripts/build_grocery.py`.
"""

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice
from contextcir.benchmarks.published import load_published

CITATION = """\
@inproceedings{klasson2019hierarchical,
  title={A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels},
  author={Klasson, Marcus and Zhang, Cheng and Kjellstr{\\"o}m, Hedvig},
  booktitle={IEEE Winter Conference on Applications of Computer Vision (WACV)},
  year={2019}
}"""


SOURCE = "photographs: github.com/marcusklasson/GroceryStoreDataset; then datasets_scripts/build_grocery.py"
SPLITS = ("test", "validation")
PROTOCOLS = ("reference-excluded",)


def load(
    path: str, split: str = "test", *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read grocery from its folder or from the Hub, in one part; its images are inside the files. Errors as in
    [`~contextcir.benchmarks.published.load_published`]."""
    check_choice("grocery", "protocols", protocol, PROTOCOLS)
    return [load_published(path, split, name="grocery", exclude_reference=True)]
