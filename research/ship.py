"""Make a run of `make demo-full` the model that ships.

    python -m research.ship runs/demo

The checkpoint holds no code, which comes with the package. Its card is that of the run, with a head of its own. Then
record what the model stands for elsewhere: docs/results/scenes_tiny.json, the pictures of docs/figures, the notebooks,
and `python research/render.py`.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from contextcir.training.card import render_card

ROOT = Path(__file__).parents[1]
NAME = "scenes-contextcir-tiny"
SHIPPED, TEMPLATE = ROOT / "checkpoints" / NAME, ROOT / "model_cards" / "contextcir_template.md"
RECORDS = ("metrics.json", "training.json", "trainer_state.json")
TITLE, RESULTS = f"# {NAME}\n", "\n## Results"  # between them is the head of the card


def ship(run: Path, to: Path, head: str) -> None:
    """Copy the model of a run and its records, and write its card with a head of its own."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", *RECORDS):
        shutil.copyfile(run / name, to / name)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (to / "README.md").write_text(card(to, head), encoding="utf-8")


def card(folder: Path, head: str) -> str:
    """Return the card of a folder with `training.json` and `metrics.json`."""
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        shutil.copyfile(folder / "metrics.json", Path(place, "metrics.json"))
        render_card(place, record, TEMPLATE, title=NAME, licence="apache-2.0")
        text = Path(place, "README.md").read_text(encoding="utf-8")
    return text[: text.index(TITLE)] + head + text[text.index(RESULTS) :]


def head_of(text: str) -> str:
    """Return the head of a card."""
    return text[text.index(TITLE) : text.index(RESULTS)]


def main(argv: Sequence[str]) -> None:
    """Ship a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    ship(parser.parse_args(argv).run, SHIPPED, head_of((SHIPPED / "README.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(sys.argv[1:])
