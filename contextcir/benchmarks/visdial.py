"""VisDial chat retrieval: find the photograph that a dialogue is about (ChatIR: Levy et al., NeurIPS 2023).

A dialogue is a caption and ten rounds of question and answer. Each of the 2,064 dialogues of the VisDial 1.0
validation set gives eleven queries, with all turns so far. There is no reference image. The gallery is a list of
50,000 of COCO's unlabelled photographs. All three metrics need the target's rank in the whole gallery
([`ChatBenchmark.wanted`]): hits@10 (found in this round or an earlier one) and recall@10 (in this round), each for
rounds 0 to 10, and BRI (PlugIR: Lee et al., ACL 2024), where lower is better.

On disk, as published by PlugIR: `dialogues/VisDial_v1.0_queries_val.json`, `Protocol/Search_Space_val_50k.json`, and
the images at the paths in them (`unlabeled2017/`). Left out: machine-made dialogues, which are another input and give
other numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from contextcir.benchmarks import files
from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.image_files import find_images
from contextcir.metrics.dialogues import dialogue_bri, dialogue_hits_at_k
from contextcir.retrieval.base import Gallery, Query, Ranking

SOURCE = "annotations: github.com/Saehyung-Lee/PlugIR; images: cocodataset.org, 2017 Unlabeled, in unlabeled2017"
SPLITS = ("val",)
PROTOCOLS = ("chatir",)
OFFICIAL = {"val": {"dialogues": 2064, "images": 50_000}}
ROUNDS = 11
SEPARATOR = ", "  # between turns


class Dialogue(BaseModel):
    """A caption and ten rounds about an image."""

    img: str
    dialog: list[str] = Field(min_length=ROUNDS, max_length=ROUNDS)


@dataclass
class ChatBenchmark(Benchmark):
    """
    Dialogues with one query for each round, scored as a whole.

    Args:
        rounds (`int`): Number of queries of each dialogue. The queries are ordered by dialogue, have ids
            `<dialogue>/<round>`, and have one target each.

    The other arguments are those of [`~contextcir.benchmarks.base.Benchmark`].
    """

    rounds: int = ROUNDS

    @property
    def unit_ids(self) -> list[str]:
        """`list[str]`: The ids that the numbers of [`ChatBenchmark.scores`] belong to: those of the dialogues."""
        return [query.id.rpartition("/")[0] for query in self.queries[:: self.rounds]]

    @property
    def wanted(self) -> Mapping[str, str]:
        """`Mapping[str, str]`: Query id -> its target, whose rank every metric needs."""
        return {id_: next(iter(targets)) for id_, targets in self.relevance.items()}

    def scores(self, ranking: Ranking) -> dict[str, np.ndarray]:
        """
        Score a ranking, dialogue by dialogue.

        Args:
            ranking (`Ranking`): One entry for each query, in any order, with `wanted_ranks`.

        Returns:
            `dict[str, np.ndarray]`: Arrays of shape `(num_dialogues,)` in the order of [`ChatBenchmark.unit_ids`]:
            `hits@k/r<round>` and `recall@k/r<round>` in percent, and `bri`, where lower is better.

        Raises:
            `ValueError`: As for [`~contextcir.benchmarks.base.Benchmark.scores`]; or the ranking lacks the rank of a
                target, or the rank contradicts the ids.
        """
        places, wanted, ranks = self.check(ranking), self.wanted, ranking.wanted_ranks
        if ranks is None or wanted.keys() - ranks.keys():
            raise ValueError(f"{self.name}: the ranking lacks ranks of targets. Search with wanted=benchmark.wanted.")
        for id_, target in wanted.items():
            rank, ids = ranks[id_], ranking.gallery_ids[places[id_]]
            expected = ids.index(target) if target in ids else max(rank, len(ids))
            if rank != expected or rank >= len(self.gallery):
                raise ValueError(
                    f"{self.name}: the ranking of query {id_!r} gives its target {target!r} the rank {rank}, which"
                    f" contradicts its {len(ids)} ids or the {len(self.gallery)} images. Ranks count from 0."
                )
        by_round = np.array([ranks[query.id] for query in self.queries]).reshape(-1, self.rounds).T
        (k,) = self.metrics["recall"]
        hits, found = dialogue_hits_at_k(by_round, k), 100.0 * (by_round < k)  # (rounds, dialogues)
        return {
            **{f"hits@{k}/r{number}": values for number, values in enumerate(hits)},
            **{f"recall@{k}/r{number}": values for number, values in enumerate(found)},
            "bri": dialogue_bri(by_round),
        }

    def chance(self) -> dict[str, float]:
        """Return the expected scores if each round is a new random ranking, in closed form. Keys as for
        [`ChatBenchmark.scores`]."""
        (k,), size = self.metrics["recall"], len(self.gallery)
        recall = min(k, size) / size
        # ln(rank + 1) is a sum of steps ln((n + 1) / n); step n counts if the best rank so far is n or more.
        n = np.arange(1, size)
        logs = [np.log((n + 1) / n) @ (1 - n / size) ** (number + 1) for number in range(self.rounds)]
        return {
            **{f"hits@{k}/r{number}": 100 * (1 - (1 - recall) ** (number + 1)) for number in range(self.rounds)},
            **{f"recall@{k}/r{number}": 100 * recall for number in range(self.rounds)},
            "bri": float(np.mean([(before + after) / 2 for before, after in zip(logs, logs[1:], strict=False)])),
        }


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[Benchmark]:
    """Read a split. Arguments, returns and errors as for [`~contextcir.benchmarks.registry.BenchmarkModule.load`].
    The part is a [`ChatBenchmark`]. A query id is the dialogue's row and the round, `17/3`. Its `turns` are all turns
    so far, its text joins them with ", "."""
    files.check_choices("visdial", split=(split, SPLITS), protocol=(protocol, PROTOCOLS))
    root = Path(path)
    file = root / "dialogues" / f"VisDial_v1.0_queries_{split}.json"
    rows = files.read_rows(file, Dialogue)
    ids = files.read_json(root / "Protocol" / f"Search_Space_{split}_50k.json", list[str])
    files.check_counts(f"visdial {split} in {path}", {"dialogues": len(rows), "images": len(ids)}, OFFICIAL[split])
    found = find_images(root, {id_: (id_,) for id_ in ids}, f"visdial {split}")
    if check_images:
        found.check()
    return [
        ChatBenchmark(
            name="visdial",
            protocol_id=f"visdial/v1.0/{split}/{protocol}",
            gallery=Gallery(ids, [found.paths[id_] for id_ in ids]),
            queries=[
                Query(id=f"{number}/{last}", modification_text=SEPARATOR.join(turns), turns=turns)
                for number, row in enumerate(rows)
                for last in range(ROUNDS)
                for turns in [tuple(row.dialog[: last + 1])]
            ],
            relevance={f"{number}/{last}": {row.img} for number, row in enumerate(rows) for last in range(ROUNDS)},
            exclude_reference=False,
            metrics={"recall": (10,)},
            missing=found.missing,
            remarks=found.remarks,
        )
    ]
