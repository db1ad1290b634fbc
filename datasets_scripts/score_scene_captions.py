"""Compare the captions that `generate_captions.py` wrote of scene pairs with what differs in truth.

    python datasets_scripts/score_scene_captions.py data/generated --truth data/scene_pairs

Of the captions that have passed the gates. Precision: the share of them that tell a true edit, each another one.
Recall: the share of the true edits that are told. Both by what is done, over all pairs that were captioned; pairs that
failed are counted beside. Printed, and written to `truth_scores.json` in the folder.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.scenes.differences import GROUPS, Score, score_by_operation
from contextcir.scenes.truth import Truth


@dataclass
class Arguments:
    """What to compare."""

    output: str = HfArg(help="Folder that generate_captions.py has written.")
    truth: str = HfArg(help="Folder of build_scene_pairs.py that its pairs came from.")


def score_folder(output: Path, truth: Path) -> dict:
    """
    Scores of all captioned pairs.

    Raises:
        ValueError: There are no captioned pairs, or pictures that the truth does not know.
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
            raise ValueError(f"{truth} knows no picture {unknown[0]!r}. Give the folder that the pairs came from.")
        for name, score in score_by_operation(captions, *(scenes[name] for name in ids)).items():
            totals[name] += score
    totals["all"] = sum(totals.values(), Score())
    return {
        "pairs": len(captioned),
        "failed_pairs": len(pairs) - len(captioned),
        "scores": {
            name: {
                "right": score.right,
                "captions": score.given,
                "edits": score.true,
                "precision": 100 * score.precision,
                "recall": 100 * score.recall,
            }
            for name, score in totals.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> dict:
    """Prints the table, and writes and returns the scores."""
    argv = sys.argv[1:] if argv is None else argv
    (args,) = CommandParser([Arguments], "contextcir data scene-scores", __doc__, ("output",)).parse(argv)
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
    sys.exit(run(main, "contextcir data scene-scores"))
