"""Upper bound of recall@1 for any model that sees only a part of each query.

Queries that look the same to a model get the same ranking. A model that reads only the text ranks one image first for
all queries with the same text. If the text has four references and four targets, at most one answer in four is right.
The bound holds for every model and needs only the targets.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence


def recall_at_1_bound(seen: Sequence[Hashable], targets: Sequence[Collection[str]]) -> float:
    """
    Upper bound of recall@1, in percent.

    Args:
        seen (`Sequence[Hashable]`): The part of each query that the model sees, such as its text.
        targets (`Sequence[Collection[str]]`): The relevant ids of each query that could be ranked first.

    Returns:
        `float`: In [0, 100]: recall@1 when equal queries get the best common answer.

    Raises:
        `ValueError`: There are no queries, or the lengths differ.

    Example:

    ```python
    >>> recall_at_1_bound(["make it red", "make it red", "remove it", "remove it"], [{"a"}, {"b"}, {"c"}, {"c"}])
    75.0
    ```"""
    if not len(seen) or len(seen) != len(targets):
        raise ValueError(f"Got {len(seen)} queries and {len(targets)} sets of targets, expected equally many.")
    answers: dict[Hashable, Counter[str]] = {}
    for part, relevant in zip(seen, targets, strict=True):
        answers.setdefault(part, Counter()).update(set(relevant))
    return 100 * sum(max(counts.values(), default=0) for counts in answers.values()) / len(seen)
