"""VisDial chat retrieval: find the photograph that two people talk about (ChatIR: Levy et al., NeurIPS 2023).

A caption and ten rounds of question and answer: 2,064 dialogues of the validation set of VisDial 1.0, each asked
eleven times, with what was said so far. There is no reference image; the gallery is a list of 50,000 of COCO's
unlabelled photographs. Three metrics, all from the target's rank in the whole gallery, so that a retriever has to be
asked for it ([`ChatBenchmark.wanted`]): hits@10 (found in this round or before) and recall@10 (in this round) of each
of the rounds 0 to 10, and BRI (PlugIR: Lee et al., ACL 2024), for which lower is better.

On disk, as PlugIR publishes it: `dialogues/VisDial_v1.0_queries_val.json`, `Protocol/Search_Space_val_50k.json`, and
the images where they say (`unlabeled2017/`). Left out: dialogues of machines, which are another input and another
number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.files import check_choice, check_counts, images_on_disk, read_json
from contextcir.metrics.dialogues import dialogue_bri, dialogue_hits_at_k
from contextcir.retrieval.base import Gallery, Query, Ranking

CITATION = """\
@inproceedings{levy2023chatting,
  title={Chatting Makes Perfect: Chat-based Image Retrieval},
  author={Levy, Matan and Ben-Ari, Rami and Darshan, Nir and Lischinski, Dani},
  booktitle={Advances in Neural Information Processing Systems (NeurIPS)},
  year={2023}
}

@inproceedings{lee2024interactive,
  title={Interactive Text-to-Image Retrieval with Large Language Models: A Plug-and-Play Approach},
  author={Lee, Saehyung and Yu, Sangwon and Park, Junsung and Yi, Jihun and Yoon, Sungroh},
  booktitle={Annual Meeting of the Association for Computational Linguistics (ACL)},
  year={2024}
}"""
SOURCE = "annotations: github.com/Saehyung-Lee/PlugIR; images: cocodataset.org, 2017 Unlabeled, in unlabeled2017"
SPLITS = ("val",)
PROTOCOLS = ("chatir",)
OFFICIAL = {"val": {"dialogues": 2064, "images": 50_000}}
ROUNDS = 11
SEPARATOR = ", "  # between what was said


@dataclass
class ChatBenchmark(Benchmark):
    """
    Conversations, each asked once a round, and scored as a whole.

    Args:
        rounds (`int`): How often each conversation is asked. The queries stand conversation by conversation, and are
            called `<conversation>/<round>`; each has one target.

    The other arguments are those of [`~contextcir.benchmarks.base.Benchmark`].
    """

    rounds: int = ROUNDS

    @property
    def unit_ids(self) -> list[str]:
        """`list[str]`: What each number of [`ChatBenchmark.scores`] belongs to: a conversation."""
        return [query.id.rpartition("/")[0] for query in self.queries[:: self.rounds]]

    @property
    def wanted(self) -> Mapping[str, str]:
        """`Mapping[str, str]`: Query id -> its target, whose rank every metric needs."""
        return {id_: next(iter(targets)) for id_, targets in self.relevance.items()}

    def scores(self, ranking: Ranking) -> dict[str, np.ndarray]:
        """
        Score a ranking, conversation by conversation.

        Args:
            ranking (`Ranking`): One entry for each query, in any order, with `wanted_ranks`.

        Returns:
            `dict[str, np.ndarray]`: One number for each conversation, in the order of [`ChatBenchmark.unit_ids`],
            under `hits@k/r<round>` and `recall@k/r<round>`, in percent, and under `bri`, for which lower is better.

        Raises:
            `ValueError`: as [`~contextcir.benchmarks.base.Benchmark.scores`]; or the ranking was not asked for the
                ranks of the targets, or they contradict the ids that it holds.
        """
        places, wanted = self.check(ranking), self.wanted
        if ranking.wanted_ranks is None or wanted.keys() - ranking.wanted_ranks.keys():
            raise ValueError(f"{self.name}: the ranking lacks ranks of targets. Search with wanted=benchmark.wanted.")
        for id_, target in wanted.items():
            rank, ids = ranking.wanted_ranks[id_], ranking.gallery_ids[places[id_]]
            expected = ids.index(target) if target in ids else max(rank, len(ids))
            if rank != expected or rank >= len(self.gallery):
                raise ValueError(
                    f"{self.name}: the ranking of query {id_!r} gives its target {target!r} the rank {rank}, but its"
                    f" {len(ids)} ids and {len(self.gallery)} images say otherwise. Ranks count from 0."
                )
        ranks = np.array([ranking.wanted_ranks[query.id] for query in self.queries]).reshape(-1, self.rounds).T
        (k,) = self.metrics["recall"]
        hits, found = dialogue_hits_at_k(ranks, k), 100.0 * (ranks < k)  # (rounds, conversations)
        return {
            **{f"hits@{k}/r{number}": values for number, values in enumerate(hits)},
            **{f"recall@{k}/r{number}": values for number, values in enumerate(found)},
            "bri": dialogue_bri(ranks),
        }

    def chance(self) -> dict[str, float]:
        """What random rankings score, a new one each round, in closed form; keys as in [`ChatBenchmark.scores`]."""
        (k,), size = self.metrics["recall"], len(self.gallery)
        recall = min(k, size) / size
        # ln(rank + 1) is a sum of steps ln((n + 1) / n); step n counts where the best rank so far is n or more.
        n = np.arange(1, size)
        logs = [np.log((n + 1) / n) @ (1 - n / size) ** (number + 1) for number in range(self.rounds)]
        return {
            **{f"hits@{k}/r{number}": 100 * (1 - (1 - recall) ** (number + 1)) for number in range(self.rounds)},
            **{f"recall@{k}/r{number}": 100 * recall for number in range(self.rounds)},
            "bri": float(np.mean([(before + after) / 2 for before, after in zip(logs, logs[1:], strict=False)])),
        }


def load(
    path: str, split: str = SPLITS[0], *, protocol: str = PROTOCOLS[0], check_images: bool = True
) -> list[ChatBenchmark]:
    """
    Read the validation split from the official layout.

    Args:
        path (`str`): Folder with `dialogues`, `Protocol` and `unlabeled2017`.
        split (`str`): There is one.
        protocol (`str`): There is one.
        check_images (`bool`): Whether every image must be there. Protocols can be tested without.

    Returns:
        `list[ChatBenchmark]`: One. A query is called by its dialogue's row and its round, `17/3`; its `turns` are what
        was said so far, its text is these joined with ", ".

    Raises:
        `ValueError`: for an unknown split or protocol; files that are missing, malformed or laid out otherwise; counts
            that are not the official ones; missing images.
    """
    check_choice("visdial", "splits", split, SPLITS)
    check_choice("visdial", "protocols", protocol, PROTOCOLS)
    root = Path(path)
    file = root / "dialogues" / f"VisDial_v1.0_queries_{split}.json"
    rows = read_json(file)
    for number, row in enumerate(rows):
        if missing := {"img", "dialog"} - row.keys():
            raise ValueError(f"{file}, row {number}: {min(missing)!r} is missing. Expected the official dialogues.")
        if len(row["dialog"]) != ROUNDS:
            raise ValueError(f"{file}, row {number}: there are {len(row['dialog'])} turns, expected {ROUNDS}.")
    ids = read_json(root / "Protocol" / f"Search_Space_{split}_50k.json")
    check_counts(f"visdial {split} in {path}", {"dialogues": len(rows), "images": len(ids)}, OFFICIAL[split])
    paths = [root / id_ for id_ in ids]
    benchmark = ChatBenchmark(
        name="visdial",
        protocol_id=f"visdial/v1.0/{split}/{protocol}",
        gallery=Gallery(ids, images_on_disk(paths, f"visdial {split}") if check_images else paths),
        queries=[
            Query(id=f"{number}/{last}", modification_text=SEPARATOR.join(turns), turns=turns)
            for number, row in enumerate(rows)
            for last in range(ROUNDS)
            for turns in [tuple(row["dialog"][: last + 1])]
        ],
        relevance={f"{number}/{last}": {row["img"]} for number, row in enumerate(rows) for last in range(ROUNDS)},
        exclude_reference=False,
        metrics={"recall": (10,)},
    )
    return [benchmark]
