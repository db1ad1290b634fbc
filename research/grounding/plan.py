"""The runs of the experiment: models, weights of the losses on their maps, and which of both go together."""

from typing import Any

POOLED = {"pool_image_tokens": True}
IMAGE = {"fusion_direction": "image_to_text"}
MODELS: dict[str, dict[str, Any]] = {"text": {}, "text+pooled": POOLED, "image": IMAGE, "image+pooled": IMAGE | POOLED}
OBJECTIVES: dict[str, dict[str, Any]] = {  # as research.grounding.training.MapLosses
    "free": {},
    "masks": {"masks": 1.0},
    "thing_masks": {"thing_masks": 1.0},
    "contrast": {"contrast": 1.0},
    "start+contrast": {"start": True, "contrast": 1.0},
    "start+contrast+cc": {"start": True, "contrast": 1.0, "cc": 1.0},
    "start+context": {"start": True, "context_contrast": 1.0},
    "teacher": {"teacher": 1.0},
    "teacher+places": {"teacher": 1.0, "places": True},
    "teacher+cc": {"teacher_cc": 1.0},
    "ema+cc": {"ema_cc": 1.0},
    "cc": {"cc": 0.08},
    "masks,cc": {"masks": 1.0, "cc": 0.08},
    "teacher,cc": {"teacher": 1.0, "cc": 0.08},
}
# Losses without masks are tried where true masks help.
PLANNED = {model: ("free", "masks") for model in MODELS} | {
    "text+pooled": tuple(OBJECTIVES),
    "image": ("free", "masks", "teacher", "teacher+places"),
}
SEEDS = (0, 1, 2)
