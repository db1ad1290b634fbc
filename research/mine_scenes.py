"""Measure on scenes what mined negatives add, in rounds, against the same training without them.

    contextcir data scenes --output data/scenes_mining --num_train 4000 --num_validation 480 --num_test 24 \\
        --gallery_size 200 --gold_phrases
    python -m research.mine_scenes --data data/scenes_mining --output docs/results/scenes_mining.json

For each seed, a model is trained from the tiny CLIP, in random order. From it go on: `more`, the same for another
epoch; `families`, an epoch in which the builder's families of near misses stay together; and `mined`, an epoch with
mined negatives (`configs/scenes_mined.yaml`). `more` and `mined` have a second round, `mined` with negatives that its
own model of the first round has found. All see as many triplets. The loss of noun phrases is left out, to save time.

The validation queries are measured, and differences are paired by query and seed. Every scene is known, so that the
negatives that are right answers can be counted: those that show the scene of the target. What an interrupted call has
done is not done again.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import numpy as np
from transformers.hf_argparser import HfArg

from contextcir.cli import benchmark, mine, train
from contextcir.cli.options import CommandParser, as_flags, read_yaml
from contextcir.cli.running import run as run_command
from contextcir.data.dataset_cache import cache_of
from contextcir.evaluation.bootstrap import paired_difference
from contextcir.evaluation.results import side_file
from contextcir.runtime.provenance import provenance
from contextcir.scenes import Scene, compose
from contextcir.scenes.rows import training_triplets

METRICS = ("recall@1", "recall@10", "recall_subset@1")
BASE: dict[str, Any] = {  # of configs/scenes_tiny.yaml
    "train_sampling_strategy": "random",
    "num_train_epochs": 2,
    "fusion_direction": "text_to_image",  # as the recorded runs were made
}
SHARED = {
    "cc_weight": 0,
    "grounding_weight": 0,
    "benchmark": None,  # measured afterwards, with the scores of each query
    "eval_split": None,
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
RANDOM = {"hard_negatives": 0}  # of configs/scenes_mined.yaml, as the next
FAMILIES = {"hard_negatives": 0, "train_sampling_strategy": "sequential"}
UNGUARDED = ["--near_duplicate", "2"]
COMPARED = [("mined 1", "more 1"), ("families 1", "more 1"), ("mined 1", "families 1"), ("mined 2", "more 2")]


@dataclass
class Arguments:
    """Options of the measurement."""

    _argument_group_name = "Rounds"

    data: str = HfArg(default="data/scenes_mining", help="Folder of the scenes data.")
    seeds: int = HfArg(default=3, help="Number of seeds, from 0.")
    runs: str = HfArg(default="runs/scenes_mining", help="Folder of the models.")
    output: str = HfArg(default="docs/results/scenes_mining.json", help="JSON file of the results.")


def scenes_of(data: Path) -> dict[str, Scene]:
    """Id of each training picture -> its scene, from the record of the build."""
    args = json.loads((data / "scenes.json").read_text(encoding="utf-8"))["arguments"]
    excluded: set[int] = set()
    for part, count, size in (
        ("validation", args["num_validation"], None),
        ("test", args["num_test"], args["gallery_size"]),
    ):
        excluded |= {hash(picture.scene) for _, picture in compose(part, count, size, args["seed"]).pictures()}
    scenes: dict[str, Scene] = {}
    with patch("contextcir.scenes.rows.encode", lambda picture, size: picture.scene):
        for row in training_triplets(args["num_train"], args["seed"], args["image_size"], excluded):
            scenes |= {row[f"{side}_id"]: row[f"{side}_image"] for side in ("reference", "target")}
    return scenes


def right_answers(mined: Path, scenes: dict[str, Scene]) -> dict[str, int]:
    """Count negatives, and those that show the scene of the target."""
    rows = datasets.load_dataset(str(mined), "triplets", split="train", cache_dir=cache_of(str(mined)))
    pairs = [
        (scenes[negative], scenes[target])
        for target, own in zip(rows["target_id"], rows["negative_ids"], strict=True)
        for negative in own
    ]
    return {"negatives": len(pairs), "right_answers": sum(negative == target for negative, target in pairs)}


class Rounds:
    """The trainings and minings of one seed."""

    def __init__(self, args: Arguments, seed: int, scenes: dict[str, Scene]):
        self.args, self.seed, self.scenes = args, seed, scenes
        self.folder, self.triplets = Path(args.runs, str(seed)), str(Path(args.data, "triplets"))
        self.runs: list[dict[str, Any]] = []
        self.scores: dict[str, np.ndarray] = {}
        self.mined: list[dict[str, Any]] = []

    def train(self, name: str, own: dict[str, Any], start: str | None = None, data: str | None = None) -> str:
        """Train and measure a model. Returns its folder."""
        folder = self.folder / name.replace(" ", "_")
        metrics = folder / "metrics.json"
        if not metrics.is_file():
            shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
            recipe = read_yaml(f"configs/scenes_{'mined' if start else 'tiny'}.yaml")
            given = {"data": data or self.triplets, "output_dir": str(folder), "seed": self.seed}
            train.main(as_flags(recipe | SHARED | own | given | ({"model_name_or_path": start} if start else {})))
            where = ["--benchmark", "scenes", "--data_root", self.args.data, "--split", "validation"]
            benchmark.main(["--retriever", str(folder), *where, "--output", str(metrics)])
        record = json.loads(metrics.read_text(encoding="utf-8"))
        found = {metric: record["results"][0]["metrics"][metric] for metric in METRICS}
        self.runs.append({"name": name, "seed": self.seed, "metrics": found, "protocol_id": record["protocol_id"]})
        lines = map(json.loads, side_file(metrics).read_text(encoding="utf-8").splitlines())
        by_id = {line["id"]: [line["scores"][metric] for metric in METRICS] for line in lines}
        self.scores[name] = np.array([by_id[id_] for id_ in sorted(by_id)])
        return str(folder)

    def mine(self, name: str, model: str, options: Sequence[str] = ()) -> str:
        """Mine the triplets with a model, and count right answers among the negatives. Returns the folder."""
        folder = self.folder / f"data_{name.replace(' ', '_')}"
        if not (folder / mine.RECORD).is_file():
            argv = ["--model", model, "--data", self.triplets, "--output", str(folder), "--max_above", "0.1"]
            mine.main([*argv, *options])
        found = json.loads((folder / mine.RECORD).read_text(encoding="utf-8"))["found"]
        self.mined.append({"name": name, "seed": self.seed, **found, **right_answers(folder, self.scenes)})
        return str(folder)

    def run(self) -> None:
        """Do all of them."""
        base = self.train("base", BASE)
        first = self.mine("round 1", base)
        if self.seed == 0:
            self.mine("round 1, near duplicates kept", base, UNGUARDED)
        more = self.train("more 1", RANDOM, base)
        self.train("families 1", FAMILIES, base)
        mined = self.train("mined 1", {}, base, first)
        self.train("more 2", RANDOM, more)
        self.train("mined 2", {}, mined, self.mine("round 2", mined))


def differences(rounds: Sequence[Rounds]) -> list[dict[str, Any]]:
    """Differences of each query's mean over the seeds, with 95 % intervals over queries: seeds share the queries."""
    found = []
    for of, against in COMPARED:
        means = (np.mean([one.scores[name] for one in rounds], axis=0) for name in (against, of))
        values = paired_difference(*([mean] for mean in means))
        per_seed = [(one.scores[of] - one.scores[against]).mean(axis=0).tolist() for one in rounds]
        for place, metric in enumerate(METRICS):
            numbers = {key: float(values[key][place]) for key in ("difference", "low", "high")}
            seeds = [row[place] for row in per_seed]
            found.append({"of": of, "against": against, "metric": metric, **numbers, "per_seed": seeds})
    return found


def main(argv: Sequence[str]) -> None:
    """Run all seeds, and write the results."""
    (args,) = CommandParser([Arguments], "python -m research.mine_scenes", __doc__).parse(argv)
    rounds = [Rounds(args, seed, scenes_of(Path(args.data))) for seed in range(args.seeds)]
    for one in rounds:
        one.run()
        record = {
            "command": shlex.join(["python", "-m", "research.mine_scenes", *argv]),
            **provenance(),
            "protocol_id": one.runs[0]["protocol_id"],
            "num_queries": len(one.scores["base"]),
            "runs": [run for some in rounds for run in some.runs],
            "mined": [found for some in rounds for found in some.mined],
            "differences": differences([some for some in rounds if some.runs]),
        }
        Path(args.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main, "mine_scenes"))
