"""The runs of the experiment: models, what is done about their maps, and which of both go together.

More was tried than this code still does; its records and their commits are in docs/results/scenes_grounding.
"""

from typing import Any

POOLED = {"pool_image_tokens": True}
IMAGE = {"fusion_direction": "image_to_text"}
MODELS: dict[str, dict[str, Any]] = {
    "text": {},
    "text+pooled": POOLED,
    "image": IMAGE,  # with 16 heads, as all others
    "image,1 head": IMAGE | {"fusion_num_heads": 1},
    "image,4 heads": IMAGE | {"fusion_num_heads": 4},
}
OBJECTIVES: dict[str, dict[str, Any]] = {  # as research.grounding.training.Objective
    "free": {},
    "masks": {"maps": "masks"},
    "teacher": {"maps": "teacher"},
    "cc": {"cc_weight": 0.08},
    "masks,cc": {"maps": "masks", "cc_weight": 0.08},
    "teacher,cc": {"maps": "teacher", "cc_weight": 0.08},
}
PLANNED = {
    "text": ("free", "masks"),
    "text+pooled": tuple(OBJECTIVES),
    "image": ("free", "masks", "teacher"),
    "image,1 head": ("teacher",),
    "image,4 heads": ("teacher",),
}
SEEDS = (0, 1, 2)
