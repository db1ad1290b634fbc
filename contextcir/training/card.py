"""Render the card of a trained model: metadata that the Hub reads, results with intervals, and how to load it."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from contextcir.data.portable import is_local_path, portable_path
from contextcir.runtime.locations import shipped

TASK = "image-feature-extraction"  # the Hub has no task of composed image retrieval
GRID = "figures/retrieval_grid.png"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def render_card(
    folder: str | os.PathLike,
    record: Mapping[str, Any],
    template: str | os.PathLike,
    *,
    title: str,
    hub_name: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
) -> None:
    """
    Write `README.md` of the folder of a model.

    Args:
        folder (`str` or `os.PathLike`): The folder. Its `metrics.json`, of `contextcir benchmark`, gives the results
            with intervals, and its `figures/retrieval_grid.png`, of `contextcir visualize`, is shown.
        record (`Mapping`): From [`CIRTrainer.record`], or `training.json`.
        template (`str` or `os.PathLike`): Jinja template, filled with the record and what this function adds.
        title (`str`): Name of the model.
        hub_name (`str`, *optional*): Name on the Hub, for the snippet and for the licence of the base model.
        revision (`str`, *optional*): Commit on the Hub, for the snippet.
        licence (`str`, *optional*): Licence of the model; by default that of the base model's card, or `"other"`.
    """
    folder = Path(folder)
    base, data = record["model"].get("base_model"), record.get("data") or {}
    base_name = hub_name_of(base) if base else None
    measured = read_measured(folder / "metrics.json")
    licence = licence or licence_of(base, online=hub_name is not None)
    adapter = (folder / "adapter_config.json").is_file()
    header = ModelCardData(
        license=licence or "other",
        library_name="peft" if adapter else "transformers",
        pipeline_tag=TASK,
        language="en",
        tags=["composed-image-retrieval", "contextcir"],
        base_model=base_name,
        datasets=list(dict.fromkeys(filter(None, map(hub_name_of, data.get("names") or [])))) or None,
        model_name=title,
        eval_results=evaluation_results(record, measured) or None,
    )
    card = ModelCard.from_template(
        header,
        template_path=str(template),
        **record,
        model_name=title,
        name_or_path=hub_name or "path/or/hub-name",
        revision=revision or "main",
        licence=licence,
        measured=measured,
        grid=GRID if (folder / GRID).is_file() else None,
        adapter=adapter,
    )
    card.save(folder / "README.md")


def hub_name_of(name: str) -> str | None:
    """Return the name on the Hub of a model or data set, or `None` for a local one, which the Hub would refuse."""
    if name.startswith("hf://"):
        return name.removeprefix("hf://")
    if is_local_path(name):
        cached = portable_path(name, ".")
        return cached if "/" in cached and "--" in name else None
    return name if _HUB_NAME.fullmatch(name) and not shipped(name).exists() else None


def licence_of(base: str | None, *, online: bool) -> str | None:
    """Return the licence in the card of a base model, or `None` if it is unknown. Without `online`, only a folder is
    looked at."""
    if base is None:
        return None
    path = shipped(base.removeprefix("hf://")) / "README.md"
    if not path.is_file() and not (online and hub_name_of(base)):
        return None
    try:
        licence = ModelCard.load(path if path.is_file() else str(hub_name_of(base))).data.license
    except Exception:  # no network, no card, no header: a missing licence must not cost the model its card
        return None
    return licence if isinstance(licence, str) else None


def read_measured(path: Path) -> dict[str, Any] | None:
    """Read the results of the model itself, not those of baselines, from a file of `contextcir benchmark`. `None` if
    there are none, or they are incomplete."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "incomplete" in content:
            return None
        own = content["arguments"]["retriever"]
        result = next(one for one in content["results"] if one["retriever"] == own)
        facts = {name: content[name] for name in ("benchmark", "protocol_id", "num_queries", "gallery_size")}
        split = content["arguments"].get("split")
        return {**facts, "split": split, "metrics": result["metrics"], "intervals": result["intervals"]}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def evaluation_results(record: Mapping[str, Any], measured: dict[str, Any] | None) -> list[EvalResult]:
    """Return what becomes the `model-index` of a card: the measured metrics with protocol and intervals, or else the
    metrics of the benchmark that was looked at in training."""
    data = record.get("data") or {}
    if measured:
        name, split = measured["benchmark"], measured["split"]
        metrics, intervals = measured["metrics"], measured["intervals"]
        arguments: dict[str, Any] = {"protocol_id": measured["protocol_id"]}
    else:
        name, split = data.get("benchmark"), data.get("benchmark_split")
        found = record.get("metrics") or {}
        metrics = {key.removeprefix("eval_"): found[key] for key in found if key.startswith("eval_") and "@" in key}
        intervals, arguments = {}, {"queries": data.get("benchmark_max_queries") or "all"}
        if record.get("protocol_id"):
            arguments = {"protocol_id": record["protocol_id"], **arguments}
    if not name:
        return []
    return [
        EvalResult(
            task_type="image-retrieval",
            task_name="Composed image retrieval",
            dataset_type=hub_name_of(name) or portable_path(name, "."),
            dataset_name=Path(name).name,
            dataset_split=split,
            dataset_args=arguments,
            metric_type=key,
            metric_name=key,
            metric_value=round(value, 4),
            metric_args={"interval_95": [round(bound, 4) for bound in intervals[key]]} if key in intervals else None,
        )
        for key, value in metrics.items()
    ]
