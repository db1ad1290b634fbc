"""Find out what a data card lacks for a complete Croissant record of the data set on the Hub.

The Hub makes the record (`/api/datasets/NAME/croissant`) from the card and the Parquet files: licence, keywords,
language and size from the header, the description from the first paragraph, the fields from the files, and the creator
from the owner. The header has no place for descriptions of columns: they are a table in the text.
"""

import re

from huggingface_hub import DatasetCard

HEADER = ("license", "language", "pretty_name", "task_categories", "size_categories", "tags")
TASKS = ["image-feature-extraction"]  # of the Hub's tasks, the one that retrieval belongs to
SIZES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")


def size_category(rows: int) -> str:
    """The Hub's category of a number of rows, such as `1K<n<10K`."""
    place = next((place for place, size in enumerate(SIZES) if rows < size), None)
    if place is None:
        return "n>1B"
    return f"{NAMES[place - 1]}<n<{NAMES[place]}" if place else "n<1K"


def lacking(card: DatasetCard) -> list[str]:
    """
    Find what a card lacks.

    Args:
        card (`DatasetCard`): The card of a data set.

    Returns:
        `list[str]`: Fields of the header, `description` (a first paragraph of the text), `citation` (a BibTeX entry).
    """
    missing = [field for field in HEADER if not card.data.get(field)]
    blocks = [block.strip() for block in card.text.split("\n\n") if block.strip()]
    if not any(len(block) > 40 and block[0] not in "#|`-<!{" for block in blocks[:3]):
        missing.append("description")
    if not re.search(r"@\w+\{", card.text):
        missing.append("citation")
    return missing
