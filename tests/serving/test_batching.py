"""The queue: requests are joined into one forward pass, one that fails spoils no other, and a full queue refuses."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from contextcir.serving import Settings
from contextcir.serving.batching import Batcher, Lane
from contextcir.serving.errors import RefusedError
from contextcir.serving.search import Found, Wanted, search_batch


def passes(retriever, monkeypatch, *, seconds: float = 0.0) -> list[int]:
    """Count the queries of each forward pass."""
    sizes: list[int] = []
    encode = retriever.encode_queries

    def counted(images, texts):
        sizes.append(len(texts))
        time.sleep(seconds)
        return encode(images, texts)

    monkeypatch.setattr(retriever, "encode_queries", counted)
    return sizes


def ask_all(client, count: int, **form):
    """Search from several threads at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda n: client.post("/search", data={"text": f"text {n}"} | form), range(count)))


def test_requests_are_joined(gallery, start, retriever, monkeypatch):
    sizes = passes(retriever, monkeypatch)
    client = start(gallery, settings=Settings(wait=0.5, batch=8))
    answers = ask_all(client, 8)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sizes == [8]
    for number, answer in enumerate(answers):  # each has its own results
        hits = gallery.search(None, f"text {number}", 20)
        assert [result["id"] for result in answer.json()["results"]] == [hit.id for hit in hits]
    assert "contextcir_batch_size_sum 8.0" in client.get("/metrics").text


def test_a_batch_is_not_larger_than_it_may_be(gallery, start, retriever, monkeypatch):
    sizes = passes(retriever, monkeypatch)
    client = start(gallery, settings=Settings(wait=0.5, batch=4))
    assert all(answer.status_code == 200 for answer in ask_all(client, 10))
    assert sum(sizes) == 10 and max(sizes) == 4


def test_those_that_arrive_during_a_pass_share_the_next(gallery, start, retriever, monkeypatch):
    sizes = passes(retriever, monkeypatch, seconds=0.3)
    client = start(gallery, settings=Settings(wait=0.0))
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(client.post, "/search", data={"text": "first"})
        time.sleep(0.15)
        others = [pool.submit(client.post, "/search", data={"text": f"text {n}"}) for n in range(5)]
        assert [one.result().status_code for one in (first, *others)] == [200] * 6
    assert sizes == [1, 5]


@pytest.mark.slow
def test_a_full_queue_refuses(gallery, start, retriever, monkeypatch):
    passes(retriever, monkeypatch, seconds=0.5)
    client = start(gallery, settings=Settings(queue=3, batch=1))
    answers = ask_all(client, 9)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 6 and sum(answer.status_code == 200 for answer in answers) == 3
    assert all(int(answer.headers["Retry-After"]) >= 1 and "Try again" in answer.json()["error"] for answer in refused)
    assert client.post("/search", data={"text": "later"}).status_code == 200


def test_one_bad_search_spoils_no_other(gallery, monkeypatch):
    embed = gallery.embed

    def sometimes(images, texts, **options):
        if "bad" in texts:
            raise ZeroDivisionError
        return embed(images, texts, **options)

    monkeypatch.setattr(gallery, "embed", sometimes)
    results = search_batch(gallery, [Wanted(None, text, 3) for text in ("one", "bad", "two")])
    assert isinstance(results[1], ZeroDivisionError)
    for result, text in zip((results[0], results[2]), ("one", "two"), strict=True):
        assert isinstance(result, Found)
        assert [hit.id for hit in result.hits] == [hit.id for hit in gallery.search(None, text, 3)]


def test_a_batch_of_different_searches(gallery):
    """Numbers of results, weights, filters and what is left out differ, and each search gets what it asked for."""
    from contextcir.retrieval.filters import Condition

    image = gallery.image("circle/red 40.png")
    red = (Condition("colour", "=", ("red",)),)
    searches = [
        Wanted(image, "blue", 2),
        Wanted(image, "", 30, exclude=("circle/red 40.png",)),
        Wanted(image, "blue", 5, image_weight=0.5),
        Wanted(None, "blue", 50, where=red),
        Wanted(image, "blue", 5, where=red, exclude=("circle/red 60.png",)),
    ]
    for result, wanted in zip(search_batch(gallery, searches), searches, strict=True):
        hits = gallery.search(
            wanted.image,
            wanted.text,
            wanted.k,
            where=wanted.where,
            image_weight=wanted.image_weight,
            exclude=wanted.exclude,
        )
        assert isinstance(result, Found)
        assert [hit.id for hit in result.hits] == [hit.id for hit in hits]


def test_jobs_that_nobody_waits_for_are_not_worked_on():
    done = []

    async def use() -> None:
        batcher = Batcher(lambda jobs: done.extend(jobs) or jobs, Lane("test"), size=4, wait=0.1, limit=9)
        worker = asyncio.create_task(batcher.run())
        gone = asyncio.create_task(batcher.submit(1))
        stays = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0.02)
        gone.cancel()
        assert (await stays)[0] == 2 and batcher.pending == 0
        worker.cancel()

    asyncio.run(use())
    assert done == [2]


def test_an_error_of_the_work_reaches_every_waiter():
    async def use() -> list:
        def fail(jobs):
            raise OSError("the device is gone")

        batcher = Batcher(fail, Lane("test"), size=4, wait=0.05, limit=2)
        worker = asyncio.create_task(batcher.run())
        answers = await asyncio.gather(*map(batcher.submit, range(3)), return_exceptions=True)
        worker.cancel()
        return answers

    errors = asyncio.run(use())
    assert [type(error) for error in errors] == [OSError, OSError, RefusedError]
    assert errors[2].status == 429


def test_a_lane_works_in_its_own_thread_in_order():
    order = []

    async def use() -> None:
        lane = Lane("contextcir test")
        names = await asyncio.gather(
            *(lane.run(lambda n: order.append(n) or threading.current_thread().name, n) for n in range(5))
        )
        assert set(names) == {"contextcir test"}
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 / 0)
        lane.close()

    asyncio.run(use())
    assert order == [0, 1, 2, 3, 4]
