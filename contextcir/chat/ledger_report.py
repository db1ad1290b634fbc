"""Sums over the requests of a ledger: outcomes and costs by role, and what killed runs may have cost.

The functions take `query`, which runs an SQL statement on a ledger and returns its rows, for a run or a reader.
"""

import math
from collections.abc import Callable
from typing import Any

from contextcir.chat.prices import MARGIN

Query = Callable[..., list[Any]]

ENOUGH = 20  # costs of a role that say what another request may cost
# Costs of single answers: not of requests that were charged several times, or by a usage that nobody believes
_SINGLE = "usd > 0 and not doubtful and sends = kills + 1"
_ABOVE = 1 + 1e-6  # times the bound: more than a rounding error
_COLUMNS = {
    "role": "role",
    "state": "state",
    "kind": "kind",
    "requests": "count(*)",
    "sends": "sum(sends)",
    "prompt_tokens": "sum(prompt_tokens)",
    "completion_tokens": "sum(completion_tokens)",
    "usd": "total(usd)",
    "doubtful": "sum(doubtful)",
    "overcharged": f"sum(not doubtful and bound_usd > 0 and usd > bound_usd * sends * {_ABOVE})",
}


def report_rows(query: Query) -> list[dict[str, Any]]:
    """Return rows of `role`, `state`, `kind`, `requests`, `sends`, `prompt_tokens`, `completion_tokens`, `usd`, and of
    the `requests` those that are `doubtful` (booked at the bound) or `overcharged` (above it)."""
    rows = query(f"select {', '.join(_COLUMNS.values())} from requests group by 1, 2, 3 order by 1, 2, 3")
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def killed_usd(query: Query) -> dict[str, float]:
    """
    Judge what requests may have cost that were in flight when a run ended.

    From 20 costs of a role on, its killed requests count with these instead of their bounds: with their mean, and
    three standard deviations of the sum more. Both are weighted by cost, since a long answer is in flight for longer
    than a short one. Never more than the bounds.

    Returns:
        `dict`: `requests`, `usd`, and `most_usd`, the sum of their bounds.
    """
    found = {"requests": 0, "usd": 0.0, "most_usd": 0.0}
    for role, kills, most in query(
        "select role, sum(kills), total(kill_usd) from requests where kills > 0 group by role"
    ):
        sums = "count(*), total(usd), total(usd * usd), total(usd * usd * usd)"
        ((count, total, squares, cubes),) = query(f"select {sums} from requests where role = ? and {_SINGLE}", role)
        likely = most
        if count >= ENOUGH:
            mean = squares / total
            deviation = math.sqrt(max(cubes / total - mean**2, 0.0))
            likely = kills * mean + 3 * deviation * math.sqrt(kills)
        found["requests"] += kills
        found["usd"] += min(likely, most)
        found["most_usd"] += most
    return found


def charged_above(query: Query) -> dict[str, float]:
    """Return role -> by what its bounds are to be multiplied, of roles that were charged above them."""
    ratios = query(
        "select role, max(usd / (bound_usd * sends)) from requests where not doubtful and bound_usd > 0 and sends > 0"
        " group by role"
    )
    return {role: MARGIN * ratio for role, ratio in ratios if ratio > _ABOVE}
