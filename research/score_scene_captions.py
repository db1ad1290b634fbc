"""Compare the captions that `contextcir generate` wrote for pairs of scenes with the true differences.

    python -m research.score_scene_captions data/generated --truth data/scene_pairs

Captions that were dropped are not scored. Precision is the share of the captions that describe a true edit, each edit
counted once. Recall is the share of the true edits that are described. Both are computed by operation over all
captioned pairs; failed pairs are counted separately. The scores are printed and written to `truth_scores.json`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.scenes.differences import GROUPS, Score, score_by_operation
from contextcir.scenes.truth import Truth


@dataclass
class Arguments:
    """Options of the command."""

    _argument_group_name = "Folders"

    output: str = HfArg(help="Output folder of contextcir generate.")
    truth: str = HfArg(help="Folder of the pairs, from contextcir data scene-pairs.")


def score_folder(output: Path, truth: Path) -> dict[str, Any]:
    """
    Score all captioned pairs.

    Returns:
        `dict[str, Any]`: `pairs`, `failed_pairs`, and `scores`: operation or `all` -> counts, and precision and recall
        in percent.

    Raises:
        ValueError: No pair has captions, or the truth lacks a picture.
    """
    scenes = {picture.name: picture.scene for picture in Truth.from_folder(truth).pictures}
    with open(output / "pairs.jsonl", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    kept = ([caption for caption in pair["captions"] if caption["dropped"] is None] for pair in pairs)
    captioned = [(pair, captions) for pair, captions in zip(pairs, kept, strict=True) if captions]
    if not captioned:
        raise ValueError(f"{output / 'pairs.jsonl'} holds no captions among {len(pairs)} pairs.")
    totals = dict.fromkeys(GROUPS, Score())
    for pair, captions in captioned:
        ids = [pair[f"{side}_id"] for side in ("reference", "target")]
        if unknown := [name for name in ids if name not in scenes]:
            raise ValueError(f"{truth} has no picture {unknown[0]!r}. Give the folder of these pairs.")
        for name, score in score_by_operation(captions, *(scenes[name] for name in ids)).items():
            totals[name] += score
    totals["all"] = sum(totals.values(), Score())
    scores = {}
    for name, score in totals.items():
        counts = {"right": score.right, "captions": score.given, "edits": score.true}
        scores[name] = counts | {"precision": 100 * score.precision, "recall": 100 * score.recall}
    return {"pairs": len(captioned), "failed_pairs": len(pairs) - len(captioned), "scores": scores}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Print the table of scores and write the JSON. Returns the scores."""
    (args,) = CommandParser([Arguments], "python -m research.score_scene_captions", __doc__, ("output",)).parse(argv)
    found = score_folder(Path(args.output), Path(args.truth))
    print(f"{'':<8}{'captions':>10}{'edits':>8}{'right':>8}{'precision':>11}{'recall':>8}")
    for name, score in found["scores"].items():
        counts = f"{score['captions']:>10,}{score['edits']:>8,}{score['right']:>8,}"
        print(f"{name:<8}{counts}{score['precision']:>11.1f}{score['recall']:>8.1f}")
    print(f"{found['pairs']:,} pairs; {found['failed_pairs']:,} without captions")
    path = Path(args.output, "truth_scores.json")
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"Written: {path}")
    return found


if __name__ == "__main__":
    sys.exit(run(main, "python -m research.score_scene_captions"))
