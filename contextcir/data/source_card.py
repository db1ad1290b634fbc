"""Cards of derived data sets, which carry on the licence, the tags and the text of what they were made from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from contextcir.data.card_fields import TASKS, size_category

# Of the header of a source: what describes its files, and not what is in them.
_OF_FILES = ("configs", "dataset_info", "viewer", "size_categories")
_MARK = "<!-- the card of the source follows -->"


def read_card(name_or_path: str) -> DatasetCard | None:
    """
    Read the card of a data set.

    Args:
        name_or_path (`str`): A folder, or a name on the Hub.

    Returns:
        `DatasetCard`, *optional*: `None` if it has none.
    """
    folder = Path(name_or_path)
    path = folder / "README.md"
    if folder.exists() and not path.is_file():
        return None
    try:
        return DatasetCard.load(str(path if path.is_file() else name_or_path), ignore_metadata_errors=True)
    except Exception:  # the Hub's client has many errors for "no such file", and a source without a card is none
        return None


def inherited(source: str | None, *, tags: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """
    Return what the card of a derived data set takes from its source.

    Args:
        source (`str`, *optional*): Folder or Hub name of the source.
        tags (`Sequence[str]`): Further tags.

    Returns:
        `tuple[dict, str]`: The header (`license`, `tags`, `language`, ... of the source, its name as
        `source_datasets`), and the source's text under a heading; an empty text if it has no card.
    """
    card = read_card(source) if source else None
    header = {key: value for key, value in (card.data.to_dict() if card else {}).items() if key not in _OF_FILES}
    of_source = header.get("tags") or []
    header["tags"] = list(dict.fromkeys([*(of_source if isinstance(of_source, list) else [of_source]), *tags]))
    header.setdefault("license", "other")
    if source and not os.path.exists(source):
        header["source_datasets"] = [source]
    if card is None:
        return header, ""
    label = Path(source or "").resolve().name if os.path.exists(source or "") else source
    text = card.text.strip()
    return header, f"## Source: {label}\n\n{_MARK}\n\n{text}\n" if text else ""


def write_derived_card(
    folder: str | os.PathLike,
    title: str,
    note: str,
    *,
    source: str,
    configs: Sequence[dict[str, Any]] | None = None,
    tags: Sequence[str] = ("composed-image-retrieval",),
    rows: int | None = None,
) -> None:
    """
    Write `README.md` of a data set that was made from another one.

    Args:
        folder (`str` or `os.PathLike`): The data set.
        title (`str`): Its name.
        note (`str`): What was changed, and by what.
        source (`str`): Folder or Hub name of the source, whose card is carried on.
        configs (`Sequence[dict]`, *optional*): The configurations, `config_name` and `data_files`. Without them,
            `datasets` finds the splits by the names of the files. For a local folder, leave them out: with them,
            `datasets` 5.2 takes what it has cached of any folder of that name, whatever the files hold now.
        tags (`Sequence[str]`): Further tags.
        rows (`int`, *optional*): Number of rows, for the category of its size.
    """
    header, text = inherited(source, tags=tags)
    header["pretty_name"] = title
    header.setdefault("task_categories", TASKS)
    header |= {"size_categories": [size_category(rows)]} if rows else {}
    data = DatasetCardData(**header, configs=configs and list(configs))
    content = f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{note}\n\n{text}"
    Path(folder, "README.md").write_text(content.rstrip() + "\n", encoding="utf-8")
