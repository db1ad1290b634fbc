import random

import pytest

from contextcir.scenes import MAX_EDITS, sample_query


@pytest.fixture(scope="session")
def queries():
    """300 random queries with 1 to 5 edits."""
    rng = random.Random(0)
    return [sample_query(rng, 1 + number % MAX_EDITS) for number in range(300)]
