"""The best recall@1 that anybody can reach who sees only a part of each query.

Queries that look the same to him get the same ranking from him, whatever he knows. So of those that share a text, the
text alone answers at most as many as one image is a target of: where a text goes with four references and four
targets, one in four. This holds for every model, and needs nothing but the targets.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence


def recall_at_1_bound(seen: Sequence[Hashable], targets: Sequence[Collection[str]]) -> float:
    """
    Upper bound of recall@1, in percent.

    Args:
        seen (`Sequence[Hashable]`): What is seen of each query, such as its text.
        targets (`Sequence[Collection[str]]`): The relevant ids of each query that could be ranked first.

    Returns:
        `float`: In [0, 100]: the recall of who answers all queries that look alike with the best image for them.

    Raises:
        `ValueError`: There are no queries, or the lengths differ.

    Example:

    ```python
    >>> recall_at_1_bound(["make it red", "make it red", "remove it"], [{"a"}, {"b"}, {"c"}]).__round__()
    67
    ```"""
    if not len(seen) or len(seen) != len(targets):
        raise ValueError(f"Got {len(seen)} queries and {len(targets)} sets of targets, expected equally many.")
    answers: dict[Hashable, Counter[str]] = {}
    for look, relevant in zip(seen, targets, strict=True):
        answers.setdefault(look, Counter()).update(set(relevant))
    return 100 * sum(max(counts.values(), default=0) for counts in answers.values()) / len(seen)
