"""Finish a data set: its card, the printed number of rows, and the upload."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from contextcir.data.hub import DATA_FILES, upload_dataset


def write_card(
    folder: Path,
    template: str,
    splits: Mapping[str, Sequence[str]],
    *,
    header: Mapping[str, Any],
    default: str | None = None,
    **values: Any,
) -> None:
    """
    Render the card of a data set of files `<configuration>/<split>-*.parquet`.

    Args:
        folder (`Path`): The data set. The card is its `README.md`.
        template (`str`): Name of a template in `cards/`.
        splits (`Mapping[str, Sequence[str]]`): Configuration -> its splits.
        header (`Mapping[str, Any]`): Metadata, such as `license` and `tags`.
        default (`str`, *optional*): The configuration that `load_dataset` reads if none is named.
        values (`Any`): Variables of the template.
    """
    configs: list[dict[str, Any]] = []
    for config, names in splits.items():
        files = [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in names]
        configs.append({"config_name": config, "data_files": files} | ({"default": True} if config == default else {}))
    path = Path(__file__).parent / "cards" / template
    data = DatasetCardData(**header, configs=configs)
    DatasetCard.from_template(card_data=data, template_path=str(path), **values).save(folder / "README.md")


def finish(folder: Path, counts: Mapping[str, int], push_to_hub: str | None) -> None:
    """Print the numbers of rows by name, and upload the data set if it has a name on the Hub."""
    for name, count in counts.items():
        print(f"{name}: {count:,}")
    print(f"Written: {folder}")
    if push_to_hub:
        upload_dataset(folder, push_to_hub, allow=(*DATA_FILES, "scenes.json"))
