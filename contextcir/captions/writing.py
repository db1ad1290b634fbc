"""What a run leaves in its folder: triplets, `dataset.json`, `pairs.jsonl`, report and card."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData
from tqdm import tqdm

from contextcir.captions.pipeline import ResultLog
from contextcir.captions.run import Run
from contextcir.chat.ledger import Ledger
from contextcir.chat.prompts import prompts_hash
from contextcir.chat.server import ChatStop
from contextcir.data.hub import upload_dataset

PUBLISHED = ("README.md", "dataset.json", "pairs.jsonl", "report.json", "triplets/train-*", "figures/*")


def write_results(run: Run, ledger: Ledger, log: ResultLog, stopped: ChatStop | None) -> tuple[dict[str, Any], Any]:
    """
    Triplets, dataset.json, pairs.jsonl and report.

    Args:
        run ([`Run`]): Which is over, or stopped.
        ledger ([`~contextcir.chat.ledger.Ledger`]): What was sent, and what it cost.
        log ([`ResultLog`]): What became of all pairs.
        stopped (`ChatStop`, *optional*): What ended the run early.

    Returns:
        `tuple[dict, datasets.DatasetInfo]`: The report, and what the triplets are, for the card.
    """
    # Here, since a run that waits for a server should not hold the memory that torch and a parser take.
    from contextcir.captions.dataset import GENERATED_FEATURES, triplet_rows, write_good4cir
    from contextcir.captions.report import TripletCounts, report_requests, report_results
    from contextcir.data.parquet import write_parquet
    from contextcir.phrases.extractor import NounPhraseExtractor

    log.save(run.folder / "pairs.jsonl")
    write_good4cir(log, run.folder / "dataset.json")
    rows = triplet_rows(
        map(run.inspector.local, run.pairs),
        log,
        NounPhraseExtractor(run.parser).extract,
        recipe=run.recipe,
        prompts=prompts_hash(run.prompts),
        largest_join=run.max_changes if run.recipe == "good4cir" else 1,
    )
    counts = TripletCounts()
    rows = counts.count(tqdm(rows, desc="triplets", unit="triplet"))
    info = write_parquet(rows, GENERATED_FEATURES, run.folder / "triplets", "train").info()
    report = {
        "recipe": run.recipe,
        "complete": stopped is None,
        "stopped": str(stopped or ""),
        **report_results(log),
        "triplets": counts.report(),
        "requests": report_requests(ledger.report()) | {"unsure_usd": ledger.unsure_usd},
        "prompts": {name: {"version": one.version, "hash": one.hash} for name, one in run.prompts.items()},
        "settings": run.answering | {"price": run.server.price.source},
        **run.facts,
    }
    (run.folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report, info


def write_card(
    report: dict[str, Any],
    info: Any,
    figures: Sequence[str],
    template: str | os.PathLike,
    folder: Path,
    name: str,
) -> None:
    """
    The card, in `README.md`.

    Args:
        report (`dict`): See [`write_results`].
        info (`datasets.DatasetInfo`): Of the triplets, for the card's header.
        figures (`Sequence[str]`): Names of those that are in `figures/`.
        template (`str` or `os.PathLike`): Jinja template, filled with `name`, `report` and `figures`.
        folder (`Path`): Of the run.
        name (`str`): The card's title.
    """
    data = DatasetCardData(
        language="en",
        license="other",
        tags=["composed-image-retrieval", "synthetic", report["recipe"]],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "triplets/train-*.parquet"}]}],
        dataset_info={"config_name": "default", **info._to_yaml_dict()},
    )
    card = DatasetCard.from_template(
        card_data=data,
        template_path=str(template),
        name=name,
        report=report,
        figures=list(figures),
    )
    card.save(folder / "README.md")


def publish(folder: Path, name: str, *, public: bool = False) -> None:
    """
    Push data, report, figures and card of a run. The ledger stays.

    Args:
        folder (`Path`): Folder of the run.
        name (`str`): Name of the dataset on the Hub, made if it is not there.
        public (`bool`, defaults to `False`): Whether a dataset that is made is public.
    """
    # Also removes what a larger run has left there.
    upload_dataset(folder, name, public=public, allow=PUBLISHED, replace=("triplets/*", "figures/*"))
