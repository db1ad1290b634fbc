"""Prices of tokens: a dated table of well-known models, or a price given by the user.

Prices change without notice, so every entry of the table has the date on which it was looked up. A model without an
entry is free only if the user says so. Left out: discounts for cached prompts, since estimates must be upper bounds.
"""

import json
import logging
import math
import re
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

logger = logging.getLogger("contextcir.chat")

TABLE = Path(__file__).parent / "prices.json"
MARGIN = 1.25  # on what a server has charged above the bound of a request
OLD_DAYS = 90  # after which a price is to be looked up again
IMAGE_TOKENS = 5000  # of an unknown model: more than open-weight models make of 1024 x 1024 pixels

_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")


@dataclass(frozen=True)
class Price:
    """
    The price of a model.

    Args:
        prompt (`float`), completion (`float`): In USD per million tokens.
        image_tokens (`int`, defaults to 5000): The most tokens that one image may count for.
        source (`str`): Where the price was found, and when.

    Raises:
        ValueError: A price is negative or not finite.
    """

    prompt: float
    completion: float
    image_tokens: int = IMAGE_TOKENS
    source: str = "given by the user"

    def __post_init__(self) -> None:
        if not all(math.isfinite(price) and price >= 0 for price in (self.prompt, self.completion)):
            raise ValueError(
                f"Got prices of {self.prompt} and {self.completion} USD for a million tokens, expected numbers of at"
                " least 0."
            )

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Compute the cost of a request, in USD."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Price(0.0, 0.0, source="a server of one's own")


def check_limit(max_usd: float) -> float:
    """Return a limit of the cost, in USD. Raise a `ValueError` if it is none: NaN, infinite or negative."""
    if not (math.isfinite(max_usd) and max_usd >= 0):
        raise ValueError(f"Got max_usd={max_usd}, expected a number of at least 0. Leave it out to have no limit.")
    return max_usd


def price_of(model: str, *, batch: bool = False, today: date | None = None) -> Price:
    """
    Look up the price of a model in `contextcir/chat/prices.json`. A date at the end of its name is ignored. A price
    that was looked up more than 90 days ago is a warning.

    Args:
        model (`str`): The name of the model on the server.
        batch (`bool`, defaults to `False`): Whether requests are sent in batches, which cost less.
        today (`date`, *optional*): The date to compare that of the price with; by default today's.

    Raises:
        ValueError: The table has no such model.
    """
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    entry = table["models"].get(model) or table["models"].get(without_date(model))
    if entry is None:
        raise ValueError(
            f"There is no price for {model!r} (known: {', '.join(table['models'])}). Give the price in USD per million"
            " prompt tokens and answer tokens, or say that it is free."
        )
    if (days := ((today or date.today()) - date.fromisoformat(entry["date"])).days) > OLD_DAYS:
        logger.warning(
            "The price of %s is %d days old (%s). Compare it with the provider's, and edit %s or give"
            " --usd_per_million.",
            *(model, days, entry["date"], TABLE),
        )
    price = Price(entry["prompt"], entry["completion"], entry["image_tokens"], f"{TABLE.name} of {entry['date']}")
    if batch:
        factor = table["batch_factor"]
        price = replace(price, prompt=price.prompt * factor, completion=price.completion * factor)
    return price


def without_date(model: str) -> str:
    """Remove the date at the end of a model's name, such as "-2024-08-06"."""
    return _DATE.sub("", model)
