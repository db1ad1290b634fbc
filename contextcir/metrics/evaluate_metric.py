"""The metrics as modules of the `evaluate` library: `evaluate.load(PATH_OF_THIS_FILE, "recall")`.

The configurations `recall`, `map`, `ndcg` and `mrr` take ranked ids (`predictions`: ids, best first; `references`:
relevant ids). `hits` and `bri` take dialogues (`predictions`: for each dialogue, its ranks from 0, round by round).
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np

from contextcir.metrics import dialogues, ranking

ID_METRICS: dict[str, Callable[..., float]] = {
    "recall": ranking.hit_at_k,
    "map": ranking.average_precision_at_k,
    "ndcg": ranking.discounted_gain_at_k,
    "mrr": ranking.reciprocal_rank,
}
METRICS = (*ID_METRICS, "hits", "bri")


class CIRMetric(evaluate.Metric):
    """
    The metric that the configuration names.

    Example:

    ```python
    >>> recall = evaluate.load("contextcir/metrics/evaluate_metric.py", "recall")
    >>> recall.compute(predictions=[["b", "a"], ["c", "b"]], references=[["a"], ["c"]], ks=[1])
    {'recall@1': 50.0}
    ```"""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in METRICS:
            raise ValueError(f"Got the metric {self.config_name!r}, expected one of {', '.join(METRICS)}.")
        ids = datasets.Sequence(datasets.Value("string"))
        ranks = datasets.Sequence(datasets.Value("int64"))
        columns = {"predictions": ids, "references": ids} if self.config_name in ID_METRICS else {"predictions": ranks}
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description="", features=datasets.Features(columns)
        )

    def _compute(self, predictions, references=None, ks=None) -> dict[str, Any]:
        name = self.config_name
        if name in ID_METRICS:
            ks = ks or ([None] if name == "mrr" else [1, 5, 10, 50])
            scores = {k: ranking.mean_over_queries(ID_METRICS[name], predictions, references, k) for k in ks}
            return {name if k is None else f"{name}@{k}": score for k, score in scores.items()}
        ranks = np.array(predictions).T  # (rounds, dialogues)
        if name == "bri":
            return {"bri": float(dialogues.dialogue_bri(ranks).mean())}
        by_round = {k: dialogues.dialogue_hits_at_k(ranks, k).mean(axis=1) for k in ks or [10]}
        return {f"hits@{k}/r{turn}": float(hits) for k, some in by_round.items() for turn, hits in enumerate(some)}
