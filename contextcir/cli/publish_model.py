"""Publish a trained model, with what has been measured and drawn since its training in the card.

    contextcir publish model runs/mine my-name/mine

Before, `contextcir benchmark --retriever runs/mine ... --output runs/mine/metrics.json` and `contextcir visualize
--run runs/mine ...` give the card its intervals and its picture.

The repository is private unless `--public`. Published are weights, configs, processor, tokenizer, code, card,
`training.json`, `metrics.json` and figures, and nothing else that lies in the folder. Paths of this machine are made
relative, or replaced by names on the Hub. A key or token in one of the files ends the command before anything is
uploaded. `contextcir train --push_to_hub` does the same at the end of a training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser


@dataclass
class PublishArguments:
    """What to publish, and where."""

    _argument_group_name = "Publishing"

    folder: str = HfArg(help="Output folder of `contextcir train`.")
    name: str = HfArg(help="Hub name, such as my-name/my-model.")
    public: bool = HfArg(default=False, aliases=["--hub_public"], help="Publish the model for everybody to see.")
    license: str | None = HfArg(
        default=None,
        aliases=["--hub_license"],
        help="Licence in the card; by default that of the base model's card, or other.",
    )
    branch: str | None = HfArg(default=None, help="Branch to publish to; by default main.")


def main(argv: Sequence[str]) -> str:
    """Render the card and publish the folder. Returns the commit."""
    parser = CommandParser([PublishArguments], "contextcir publish model", __doc__, ("folder", "name"))
    (args,) = parser.parse(argv)
    from contextcir.data.hub import COMMIT
    from contextcir.runtime.locations import shipped
    from contextcir.training.card import render_card
    from contextcir.training.publishing import publish_model

    record, config = (read(Path(args.folder, name)) for name in ("training.json", "config.json"))
    template = shipped(f"model_cards/{config.get('model_type')}_template.md")
    options = {"title": args.name.split("/")[-1], "hub_name": args.name, "licence": args.license}
    render_card(args.folder, record, template, revision=COMMIT, **options)
    commit = publish_model(args.folder, args.name, public=args.public, revision=args.branch)
    render_card(args.folder, record, template, revision=commit, **options)
    print(f"Published: {args.name}, commit {commit}")
    return commit


def read(path: Path) -> dict:
    """Read a record of a run."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Give the output folder of `contextcir train`, which holds it."
        ) from error
