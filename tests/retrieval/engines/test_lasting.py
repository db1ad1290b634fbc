"""What engines promise that keep vectors elsewhere: in a folder, on object storage, in a database."""

import threading

import pytest

from contextcir.retrieval.filters import parse_filters
from tests.retrieval.engines.conftest import LASTING
from tests.retrieval.engines.rows import DIM, FACTS, IDS, QUERY, VECTORS, ids_of, unit

pytestmark = pytest.mark.parametrize("place", LASTING, indirect=True)


def test_another_handle_sees_what_is_there_and_what_is_added(place):
    writer, reader = place.open(), place.open()
    assert reader.search(QUERY, 3) == [[]]
    writer.add(IDS[:30], VECTORS[:30], {"colour": FACTS["colour"][:30]})
    assert ids_of(reader.search(QUERY, 3)) == [IDS[:3]] and len(reader) == 30
    writer.build()
    writer.add(IDS[30:], VECTORS[30:], {"price": FACTS["price"][30:]})
    writer.build()
    assert ids_of(reader.search(-QUERY, 3, parse_filters(["price>=0"]))) == [[IDS[69], IDS[68], IDS[67]]]
    writer.remove(IDS[:1])
    writer.close()
    assert ids_of(reader.search(QUERY, 3)) == [IDS[1:4]] and reader.exact is False
    reader.close()
    again = place.open()
    assert len(again) == 69 and ids_of(again.search(QUERY, 1, parse_filters(["colour=blue"]))) == [[IDS[1]]]
    with pytest.raises(ValueError, match=f"{DIM}"):
        again.add(["x"], unit(1, dim=DIM + 8))


def test_two_threads_add_the_same_ids(place):
    index, errors = place.open(), []

    def add(vectors):
        try:
            for start in range(0, 60, 20):
                index.add(IDS[start : start + 20], vectors[start : start + 20])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=(vectors,)) for vectors in (VECTORS, VECTORS, VECTORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(index) == 60 and ids_of(index.search(QUERY, 99)) == [IDS[:60]]
