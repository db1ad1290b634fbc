"""Grounding on photographs: a teacher of groceries, and trainings with and without its maps.

    python -m research.grounding.grocery --source GroceryStoreDataset/dataset

There are no boxes, so the maps are looked at (docs/figures/grocery_maps.png), and the trainings are measured on the
validation split.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from contextcir.runtime.provenance import code_commit
from research.grounding.data import write_json

CLIP, FOLDER = "checkpoints/scenes-clip-tiny", Path("runs/grounding/grocery")
DATA, RESULT = FOLDER / "data", Path("docs/results/grocery_grounding.json")
SEEDS, EPOCHS = (0, 1, 2), 6
TRAIN = (
    "contextcir train configs/grocery.yaml --data {data}/triplets --benchmark {data} --output_dir {output}"
    " --seed {seed} --grounding_weight {weight} --fusion_direction image_to_text --cc_weight 0 --augmentation none"
    " --num_train_epochs {epochs} --eval_strategy no --save_strategy no --load_best_model_at_end false"
    " --dataloader_num_workers 0 --dataloader_persistent_workers false --report_to none --disable_tqdm true"
)


def run(command: str) -> str:
    """Run a command of the package. Returns what it printed."""
    argv = [sys.executable, "-m", "contextcir.cli.main", *shlex.split(command)[1:]]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def trained(weight: int, seed: int) -> dict[str, object]:
    """Train and measure a model. Returns the command, and the metrics with their intervals."""
    output = FOLDER / f"weight-{weight}-seed-{seed}"
    command = TRAIN.format(data=DATA, output=output, seed=seed, weight=weight, epochs=EPOCHS)
    run(command)
    measured = output / "validation.json"
    run(
        f"contextcir benchmark --retriever {output} --benchmark grocery --data_root {DATA} --split validation"
        f" --output {measured}"
    )
    record = json.loads(measured.read_text(encoding="utf-8"))
    best = record["results"][0]
    return {"command": command, "metrics": best["metrics"], "intervals": best["intervals"]}


def main(argv: Sequence[str]) -> None:
    """Ground, train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="folder `dataset` of the original")
    args = parser.parse_args(argv)
    run(f"contextcir data grocery --source {shlex.quote(args.source)} --output {DATA}")
    run(f"contextcir phrases {DATA}/triplets")
    ground = f"contextcir ground {DATA}/triplets --clip_name_or_path {CLIP} --encode_images_once --replace_maps"
    found = json.loads(run(f"{ground} --picture docs/figures/grocery_maps.png"))
    runs = {f"weight {weight}, seed {seed}": trained(weight, seed) for seed in SEEDS for weight in (0, 1)}
    command = "python -m research.grounding.grocery --source GroceryStoreDataset/dataset"
    write_json(RESULT, {"command": command, "commit": code_commit(), "ground": ground, "found": found, "runs": runs})


if __name__ == "__main__":
    main(sys.argv[1:])
