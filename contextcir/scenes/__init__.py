"""Scenes: a procedural world with exact ground truth, the default data of this library.

`world` defines scenes, `render` draws them, `edits` change them, and `grammar` words the changes with gold `trees`.
`queries` combines these to training families, and `splits` defines what is held out of training. `blocks` are the test
queries, `mistakes` the nearly right scenes, and `benchmark` combines both. `truth` recognises pictures. All data
depend on a seed and on `version` only.
"""

from contextcir.scenes.benchmark import Picture, Question, SceneBenchmark, compose, count_kinds
from contextcir.scenes.blocks import Block, sample_block
from contextcir.scenes.edits import Edit, apply, sample_edits
from contextcir.scenes.grammar import describe, word_edits
from contextcir.scenes.ground_truth import (
    denotation_from_row,
    denotation_to_row,
    denoted_mask,
    role,
    scene_from_json,
    scene_to_json,
)
from contextcir.scenes.mistakes import KINDS, mistakes
from contextcir.scenes.queries import (
    MAX_EDITS,
    SceneQuery,
    make_query,
    near_miss,
    sample_family,
    sample_query,
    sample_trees,
)
from contextcir.scenes.render import background_mask, cell_mask, render, thing_mask
from contextcir.scenes.splits import SPLITS, any_held_out, has_held_out_word, is_held_out
from contextcir.scenes.trees import Denotation, NounPhrase, realise
from contextcir.scenes.version import VERSION, fingerprint
from contextcir.scenes.world import Scene, Thing, sample_scene

__all__ = [
    "KINDS",
    "MAX_EDITS",
    "SPLITS",
    "VERSION",
    "Block",
    "Denotation",
    "Edit",
    "NounPhrase",
    "Picture",
    "Question",
    "Scene",
    "SceneBenchmark",
    "SceneQuery",
    "Thing",
    "any_held_out",
    "apply",
    "background_mask",
    "cell_mask",
    "compose",
    "count_kinds",
    "denotation_from_row",
    "denotation_to_row",
    "denoted_mask",
    "describe",
    "fingerprint",
    "has_held_out_word",
    "is_held_out",
    "make_query",
    "mistakes",
    "near_miss",
    "realise",
    "render",
    "role",
    "sample_block",
    "sample_edits",
    "sample_family",
    "sample_query",
    "sample_scene",
    "sample_trees",
    "scene_from_json",
    "scene_to_json",
    "thing_mask",
    "word_edits",
]
