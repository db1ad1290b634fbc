"""Write the results of a run into its folder: triplets, `dataset.json`, `pairs.jsonl`, the report and the card."""

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
from contextcir.data.card_fields import TASKS, size_category
from contextcir.data.source_card import inherited

PUBLISHED = ("README.md", "dataset.json", "pairs.jsonl", "report.json", "triplets/train-*", "figures/*")


def write_results(run: Run, ledger: Ledger, log: ResultLog, incomplete: str) -> tuple[dict[str, Any], Any]:
    """
    Write triplets, `dataset.json`, `pairs.jsonl` and `report.json`.

    Args:
        run ([`~contextcir.captions.run.Run`]): A run that has ended.
        ledger ([`~contextcir.chat.ledger.Ledger`]): Its requests and their cost.
        log ([`~contextcir.captions.pipeline.ResultLog`]): The results of all pairs.
        incomplete (`str`): Why the run is not complete; empty if it is.

    Returns:
        `tuple[dict, datasets.DatasetInfo]`: The report, and the description of the triplets for the card.
    """
    # Imported here, since torch and the parser take memory that a run does not need while it waits for a server.
    from contextcir.captions.dataset import GENERATED_FEATURES, triplet_rows, write_good4cir
    from contextcir.captions.report import TripletCounts, report_requests, report_results
    from contextcir.data.parquet import write_parquet
    from contextcir.phrases.extractor import NounPhraseExtractor

    log.save(run.folder / "pairs.jsonl")
    write_good4cir(log, run.folder / "dataset.json")
    extractor = NounPhraseExtractor(run.parser)
    rows = triplet_rows(
        map(run.inspector.local, run.pairs),
        log,
        extractor.extract,
        recipe=run.recipe,
        prompts=prompts_hash(run.prompts),
        largest_join=run.max_changes if run.recipe == "good4cir" else 1,
    )
    counts = TripletCounts()
    counted = counts.count(tqdm(rows, desc="triplets", unit="triplet"))
    info = write_parquet(counted, GENERATED_FEATURES, run.folder / "triplets", "train").info
    report = {
        "recipe": run.recipe,
        "complete": not incomplete,
        "stopped": incomplete,
        **report_results(log),
        "triplets": counts.report(),
        "requests": report_requests(ledger.report()) | {"unsure_usd": ledger.unsure_usd, "killed": ledger.killed()},
        "prompts": {name: {"version": one.version, "hash": one.hash} for name, one in run.prompts.items()},
        "settings": run.answering | {"price": run.server.price.source},
        **run.facts,
        "parser": extractor.description,
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
    Write the card, `README.md`.

    Args:
        report (`dict`): From [`write_results`].
        info (`datasets.DatasetInfo`): Likewise.
        figures (`Sequence[str]`): Names of the figures in `figures/`.
        template (`str` or `os.PathLike`): Jinja template, filled with `name`, `report`, `figures` and the text of the
            card of `report["source"]`, the data set of the images, if it has one. Its licence and tags are carried on.
        folder (`Path`): The folder of the run.
        name (`str`): The title of the card.
    """
    header, text = inherited(report.get("source"), tags=["composed-image-retrieval", "synthetic", report["recipe"]])
    about = {"language": "en", "pretty_name": name.split("/")[-1], "task_categories": TASKS}
    about["size_categories"] = [size_category(report["triplets"]["total"])]
    data = DatasetCardData(
        **about | header,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "triplets/train-*.parquet"}]}],
        dataset_info={"config_name": "default", **info._to_yaml_dict()},
    )
    card = DatasetCard.from_template(
        data, template_path=str(template), name=name, report=report, figures=list(figures), source=text
    )
    card.save(folder / "README.md")


def publish(folder: Path, name: str, *, public: bool = False) -> None:
    """
    Push data, report, figures and card of a run to the Hub. The ledger is not uploaded.

    Args:
        folder (`Path`): The folder of the run.
        name (`str`): Name of the dataset on the Hub, created if missing.
        public (`bool`, defaults to `False`): Whether a new dataset is public.
    """
    # Files of an earlier, larger run are removed.
    from contextcir.data.hub import upload_dataset  # loads pyarrow, see `write_results`

    upload_dataset(folder, name, public=public, allow=PUBLISHED, replace=("triplets/*", "figures/*"))
