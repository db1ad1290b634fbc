"""The limit of concurrent requests follows the load of the server."""

import asyncio

from contextcir.chat.pace import WINDOW, Limit


def responses(limit, *rejected):
    for one in rejected:
        limit.note(one)


def test_the_limit_falls_while_many_are_rejected_and_rises_again():
    limit = Limit(16)
    responses(limit, *[True] * WINDOW)
    assert limit.now == 8
    responses(limit, *[True] * 10 * WINDOW)
    assert limit.now == 1
    responses(limit, *[False] * WINDOW)
    assert limit.now == 2
    responses(limit, *[False] * 20 * WINDOW)
    assert limit.now == 16


def test_a_few_rejected_requests_change_nothing():
    limit = Limit(16)
    for _ in range(50):
        responses(limit, True, *[False] * (WINDOW - 1))
    assert limit.now == 16


def test_a_changed_limit_applies_to_those_who_enter():
    async def run():
        limit, inside, most = Limit(8), 0, []

        async def one():
            nonlocal inside
            async with limit:
                inside += 1
                most.append(inside)
                await asyncio.sleep(0.01)
                inside -= 1

        first = [asyncio.create_task(one()) for _ in range(8)]
        await asyncio.sleep(0.005)
        responses(limit, *[True] * 2 * WINDOW)  # to 2, while 8 are inside
        await asyncio.gather(*first)
        most.clear()
        await asyncio.gather(*[one() for _ in range(8)])
        low = max(most)
        responses(limit, *[False] * 10 * WINDOW)
        most.clear()
        await asyncio.gather(*[one() for _ in range(20)])
        return low, max(most)

    assert asyncio.run(run()) == (2, 8)
