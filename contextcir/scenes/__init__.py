"""Scenes: a procedural world with exact ground truth, the default data of this library.

`world` says what there is, `render` draws it, `edits` change it, `grammar` words the changes (with gold `trees`), and
`queries` puts these together into triplets, distractors and masks. Everything is a pure function of a seed.
"""

from .edits import Edit, apply, sample_edits
from .grammar import describe, word_edits
from .queries import (
    MAX_EDITS,
    VERSION,
    SceneQuery,
    denoted_mask,
    distractors,
    fingerprint,
    make_query,
    near_miss,
    sample_family,
    sample_query,
    sample_trees,
)
from .render import background_mask, cell_mask, render, thing_mask
from .trees import Denotation, NounPhrase, realise
from .world import Scene, Thing, sample_scene

__all__ = [
    "MAX_EDITS",
    "VERSION",
    "Denotation",
    "Edit",
    "NounPhrase",
    "Scene",
    "SceneQuery",
    "Thing",
    "apply",
    "background_mask",
    "cell_mask",
    "denoted_mask",
    "describe",
    "distractors",
    "fingerprint",
    "make_query",
    "near_miss",
    "realise",
    "render",
    "sample_edits",
    "sample_family",
    "sample_query",
    "sample_scene",
    "sample_trees",
    "thing_mask",
    "word_edits",
]
