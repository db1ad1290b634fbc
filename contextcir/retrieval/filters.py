"""Conditions on the facts of images: `colour=red`, `price<20`, `brand=a|b`. All of them must hold."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """
    One condition.

    Args:
        column (`str`): The fact.
        operator (`str`): One of `=`, `!=`, `<`, `<=`, `>`, `>=`.
        values (`tuple`): What to compare with: one value, or for `=` and `!=` several, of which one (none) must be
            equal. Numbers (truth values are 0 and 1) are compared with numbers, texts with texts, by code points. An
            image without this fact fulfils no condition.

    Raises:
        `ValueError`: There is no such operator, or no value, or one that is neither text nor a finite number.
    """

    column: str
    operator: str
    values: tuple[Any, ...]

    def __post_init__(self):
        if self.operator not in OPERATORS:
            raise ValueError(f"Got the operator {self.operator!r}, expected one of {', '.join(OPERATORS)}.")
        if not self.values or (len(self.values) > 1 and self.operator not in ("=", "!=")):
            raise ValueError(f"{self.column}: {self.operator} takes one value, got {self.values}.")
        for value in self.values:
            if scalar(value) is None:
                raise ValueError(f"{self.column}: got the value {value!r}, expected a text or a finite number.")

    @property
    def texts(self) -> list[str]:
        """`list[str]`: The values that texts are compared with."""
        return [value for value in self.values if isinstance(value, str)]

    @property
    def numbers(self) -> list[float]:
        """`list[float]`: The values that numbers are compared with."""
        return [value for value in self.values if not isinstance(value, str)]

    def holds(self, value: Any) -> bool:
        """Whether a value fulfils the condition. Values of other types than asked for do not."""
        if scalar(value) is None:
            return False
        compare = OPERATORS[self.operator]
        some = [compare(value, wanted) for wanted in self.values if _comparable(value, wanted)]
        return bool(some) and (all(some) if self.operator == "!=" else any(some))


Where = Sequence[Condition]


def parse_filters(texts: Sequence[str]) -> list[Condition]:
    """
    Read conditions as people write them.

    Args:
        texts (`Sequence[str]`): Such as `price<20`, `colour=red` or `colour=red|blue`. A value that reads as a number,
            or as `true` or `false`, is one, unless it is in quotes: `size="42"`.

    Raises:
        `ValueError`: A text is no condition.
    """
    found = []
    for text in texts:
        match = _CONDITION.fullmatch(text)
        if not match:
            raise ValueError(f"Got the filter {text!r}, expected a column, one of {' '.join(OPERATORS)}, and a value.")
        column, sign, value = match.groups()
        values = value.split("|") if sign in ("=", "!=") and not value.startswith('"') else [value]
        found.append(Condition(column, sign, tuple(map(_value, values))))
    return found


def as_conditions(where: Mapping[str, Any] | Where | None) -> list[Condition]:
    """Conditions from a mapping of columns to values (or lists of them), or as they are."""
    if where is None:
        return []
    if isinstance(where, Mapping):
        return [
            Condition(column, "=", tuple(value) if isinstance(value, (list, tuple, set)) else (value,))
            for column, value in where.items()
        ]
    return list(where)


def matches(facts: Mapping[str, Sequence[Any]], where: Where, size: int) -> torch.Tensor:
    """
    Find the images that fulfil all conditions.

    Args:
        facts (`Mapping[str, Sequence]`): Column -> one value for each image.
        where (`Sequence[Condition]`): The conditions.
        size (`int`): Number of images.

    Returns:
        `torch.Tensor` of shape `(size,)`: bool.

    Raises:
        `ValueError`: There is no such column.
    """
    allowed = torch.ones(size, dtype=torch.bool)
    for condition in where:
        require_column(condition.column, facts)
        allowed &= torch.tensor([condition.holds(value) for value in facts[condition.column]], dtype=torch.bool)
    return allowed


def require_column(column: str, known: Mapping[str, Any] | Sequence[str]) -> None:
    """Raise a `ValueError` that lists the columns if there is none of this name."""
    if column not in known:
        there = f"There are {', '.join(sorted(known))}." if known else "The images have none."
        raise ValueError(f"There is no column {column!r} to filter by. {there}")


def scalar(value: Any) -> str | float | None:
    """A value as it is if one can filter by it: a text, a truth value or a finite number. `None` for NaN, infinity and
    everything else."""
    if isinstance(value, str):
        return value
    try:
        return value if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def _comparable(value: Any, wanted: Any) -> bool:
    return isinstance(value, str) == isinstance(wanted, str)


def _value(text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return text if scalar(number) is None else number  # "nan" and "infinity" are words, as in the facts
    return text
