"""A truth with the pictures of 25 queries and of their mistakes."""

import io
import random

import pytest

from contextcir.scenes import mistakes, render
from contextcir.scenes.truth import Truth


@pytest.fixture(scope="session")
def queries(queries):
    return queries[:25]


@pytest.fixture(scope="session")
def wrong_scenes(queries):
    """Text of a query -> scenes of its mistakes."""
    found = {query.text: mistakes(random.Random(query.text), query, query.edits).values() for query in queries}
    return {text: [scene for scenes in kinds for scene in scenes] for text, kinds in found.items()}


@pytest.fixture(scope="session")
def pictures(queries, wrong_scenes):
    """Scene -> its picture, as a JPEG file."""
    found = {}
    for query in queries:
        for scene in (query.reference, query.target, *wrong_scenes[query.text]):
            if scene not in found:
                buffer = io.BytesIO()
                render(scene, len(found)).save(buffer, format="JPEG", quality=92)
                found[scene] = buffer.getvalue()
    return found


@pytest.fixture(scope="session")
def truth(queries, pictures):
    truth = Truth()
    for scene, picture in pictures.items():
        truth.add(picture, scene)
    for query in queries:
        truth.add_query(query.text, query.target, query.reference, id=query.text)
    return truth
