"""What tokens cost: a dated table for well-known models, or a price of the user's own.

Prices change without notice, so every entry carries the day on which it was looked up, and a model that the table does
not know costs nothing only where somebody says so. Left out: discounts for cached prompts, which would make a bound of
the cost one no longer.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

TABLE = Path(__file__).parent / "prices.json"
IMAGE_TOKENS = 5000  # of an unknown model: more than those with open weights make of 1024 x 1024 pixels

_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")


@dataclass(frozen=True)
class Price:
    """
    A model's price.

    Args:
        prompt (`float`), completion (`float`): In USD per million tokens.
        image_tokens (`int`, defaults to 5000): The most that one image may count for.
        source (`str`): Where it is from and of which day.

    Raises:
        ValueError: A price is negative.
    """

    prompt: float
    completion: float
    image_tokens: int = IMAGE_TOKENS
    source: str = "given by the user"

    def __post_init__(self):
        if not (self.prompt >= 0 and self.completion >= 0):
            raise ValueError(f"A price must not be negative, got {self.prompt} and {self.completion} USD.")

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of a request, in USD."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Price(0.0, 0.0, source="a server of one's own")


def price_of(model: str, *, batch: bool = False, table: str | Path = TABLE) -> Price:
    """
    The price of a model by the table, where a date behind the model's name makes no difference.

    Args:
        model (`str`): As the server calls it.
        batch (`bool`, defaults to `False`): Whether requests go in batches, which cost less.
        table (`str` or `Path`, *optional*): A file like `contextcir/chat/prices.json`.

    Raises:
        ValueError: The table does not know the model.
    """
    content = json.loads(Path(table).read_text(encoding="utf-8"))
    entry = content["models"].get(model) or content["models"].get(_DATE.sub("", model))
    if entry is None:
        raise ValueError(
            f"There is no price for {model!r} (known: {', '.join(content['models'])}). Give the USD per million"
            " tokens of prompts and of answers, or say that it is free."
        )
    source = f"{Path(table).name} of {entry['date']}"
    price = Price(entry["prompt"], entry["completion"], entry["image_tokens"], source)
    if batch:
        factor = content["batch_factor"]
        price = replace(price, prompt=price.prompt * factor, completion=price.completion * factor)
    return price
