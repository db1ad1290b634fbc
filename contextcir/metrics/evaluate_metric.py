"""The metrics as modules of the `evaluate` library: `evaluate.load(PATH_OF_THIS_FILE, "recall")`.

Configurations: `recall`, `map`, `ndcg` and `mrr` of ranked ids (`predictions`: ids best first; `references`: relevant
ids), `hits` and `bri` of dialogues (`predictions`: a row of ranks for each dialogue, round by round).
"""

import datasets
import evaluate
import numpy as np

from contextcir.metrics import dialogues, ranking

OF_IDS = {"recall": ranking.recall_at_k, "map": ranking.map_at_k, "ndcg": ranking.ndcg_at_k, "mrr": ranking.mrr}
OF_DIALOGUES = ("hits", "bri")


class CIRMetric(evaluate.Metric):
    """
    One of the metrics, by its configuration.

    Example:

    ```python
    >>> recall = evaluate.load("contextcir/metrics/evaluate_metric.py", "recall")
    >>> recall.compute(predictions=[["b", "a"], ["c", "b"]], references=[["a"], ["c"]], ks=[1])
    {'recall@1': 50.0}
    ```"""

    def _info(self):
        if self.config_name not in (*OF_IDS, *OF_DIALOGUES):
            raise ValueError(
                f"There is no metric {self.config_name!r}. Choose one of {', '.join((*OF_IDS, *OF_DIALOGUES))}."
            )
        ids = datasets.Sequence(datasets.Value("string"))
        ranks = datasets.Sequence(datasets.Value("int64"))
        columns = {"predictions": ids, "references": ids} if self.config_name in OF_IDS else {"predictions": ranks}
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description="", features=datasets.Features(columns)
        )

    def _compute(self, predictions, references=None, ks=None):
        name = self.config_name
        if name in OF_IDS:
            ks = ks or ([None] if name == "mrr" else [1, 5, 10, 50])
            score = OF_IDS[name]
            return {name if k is None else f"{name}@{k}": score(predictions, references, k) for k in ks}
        ranks = np.array(predictions).T
        if name == "bri":
            return {"bri": dialogues.bri(ranks)}
        by_round = {k: dialogues.hits_at_k(ranks, k) for k in ks or [10]}
        return {f"hits@{k}/r{turn}": float(hits) for k, some in by_round.items() for turn, hits in enumerate(some)}
