"""Names of metrics: which are better the lower they are, and which an evaluation gives.

transformers takes a metric for "lower is better" only where its name ends in `loss`.
"""

import re
from collections.abc import Iterable

LOSSES = ("loss", "loss_contrastive", "loss_concept_consistency")
_LOSS = re.compile(rf"(?:.*_)?(?:{'|'.join(LOSSES)})")
_RETRIEVAL = re.compile(r"(?:.*_)?(?:recall|recall_share|recall_subset|map)@\d+")


def greater_is_better(name: str) -> bool | None:
    """
    Return the direction of one of our metrics, with or without `eval_` and the name of an evaluation set; `None` if
    the metric is none of ours.

    >>> greater_is_better("eval_loss_contrastive"), greater_is_better("recall@10"), greater_is_better("f1")
    (False, True, None)
    """
    if _LOSS.fullmatch(name):
        return False
    return True if _RETRIEVAL.fullmatch(name) else None


def check_exists(name: str, names: Iterable[str]) -> None:
    """Refuse a `metric_for_best_model` that is not among the names of an evaluation, `eval_` left out, with a
    `ValueError`."""
    names = [other.removeprefix("eval_") for other in names]
    if name.removeprefix("eval_") not in names:
        raise ValueError(
            f"metric_for_best_model={name}: evaluations give no such metric. There are {', '.join(names) or 'none'}."
        )
