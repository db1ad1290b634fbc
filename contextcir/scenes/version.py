"""Version of the scenes data, and a hash of the data of a seed. Data of two versions are never mixed."""

from __future__ import annotations

import hashlib
import random

from contextcir.scenes.benchmark import compose
from contextcir.scenes.blocks import sample_block
from contextcir.scenes.queries import sample_family
from contextcir.scenes.splits import SPLITS

VERSION = "3"


def fingerprint(seed: int = 0, n: int = 100) -> str:
    """Return a hash of scenes, texts, spans and a small gallery with its mistakes.

    Equal fingerprints mean equal data for the same seed. How scenes are drawn is not included.
    """
    rng = random.Random(seed)
    digest = hashlib.sha256(VERSION.encode())
    queries = [query for _ in range(n) for query in sample_family(rng)]
    queries += [query for split in SPLITS for row in sample_block(rng, split).queries for query in row]
    for query in queries:
        digest.update(repr((query.reference, query.target, query.text, query.noun_phrases)).encode())
    for question in compose("test", 24, None, seed).questions:
        asked = (question.reference_id, question.target_ids, question.candidate_ids, sorted(question.wrong.items()))
        digest.update(repr(asked).encode())
    return digest.hexdigest()[:16]
