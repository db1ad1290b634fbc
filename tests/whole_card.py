"""Check that the card of a built data set has what a complete Croissant record needs."""

from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard

from contextcir.data.card_fields import lacking, size_category


def check_card(folder: Path) -> None:
    """The header is complete, the text has a description, a citation and every column, and the size is true."""
    card, files = DatasetCard.load(folder / "README.md"), sorted(folder.rglob("*.parquet"))
    assert lacking(card) == []
    assert card.data.size_categories == [size_category(sum(pq.read_metadata(file).num_rows for file in files))]
    for file in files:
        for name in pq.read_schema(file).names:
            assert f"`{name}`" in card.text, name
