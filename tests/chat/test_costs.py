"""What is booked: limits, usage that nobody believes, servers that charge too much, and what kills may have cost."""

import asyncio
import random

import pytest

from contextcir.chat.dispatch import Dispatcher
from contextcir.chat.exchange import Outcome
from contextcir.chat.ledger import Ledger
from contextcir.chat.prices import FREE, Price
from contextcir.cli.servers import ServerArguments
from tests.chat.conftest import COST, ask_all, bound_of, kinds, question, questions, server_at
from tests.chat.test_interruptions import kill_a_run
from tests.fake_chat_server import Reply, completion, error, user_text


def send(ledger, name, bound, role="role"):
    ledger.plan(name, role, 0)
    assert ledger.reserve(name, bound)
    ledger.mark_sent(name)


def answer(ledger, name, bound, usd, **options):
    send(ledger, name, bound)
    ledger.settle(name, Outcome("answered", "x", usd=usd, **options))


@pytest.mark.fault(
    "M01", "a limit or a price that is NaN, infinite or negative is refused, and a limit of what is free"
)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_limits_and_prices_that_are_none(tmp_path, number):
    with pytest.raises(ValueError, match=f"max_usd={number}"):
        ServerArguments(max_usd=number)
    with pytest.raises(ValueError, match=f"max_usd={number}"):
        Ledger(tmp_path, {}, number)
    for prices in ([number, 1.0], [1.0, number]):
        with pytest.raises(ValueError, match=f"{prices[0]} and {prices[1]}"):
            ServerArguments(usd_per_million=prices)


@pytest.mark.fault(
    "M01", "a limit or a price that is NaN, infinite or negative is refused, and a limit of what is free"
)
def test_what_is_free_has_no_limit():
    with pytest.raises(ValueError, match="free and max_usd"):
        ServerArguments(free=True, max_usd=5.0)
    assert ServerArguments(max_usd=0.0).max_usd == 0


@pytest.mark.fault("M02", "a server that charges above the bound cannot overshoot a limit by more than was in flight")
def test_a_server_that_charges_too_much(tmp_path, fake, caplog):
    fake.answer = lambda body: Reply(200, completion(usage=(2000, 1000)).body, delay=0.02)
    bound, cost = bound_of(fake, question("question 0")), 4000e-6
    assert cost > 10 * bound
    limit, places = 20.5 * cost, 4
    outcomes, report, (spent, _), _ = ask_all(tmp_path, fake, questions(60), max_usd=limit, concurrency=places)
    assert set(kinds(outcomes)) == {"answered", "budget"}
    assert limit / 2 < spent <= limit + places * cost  # not at all above it, once the first answer was there
    assert spent <= limit and sum(row["overcharged"] for row in report) == len(fake.bodies)
    (said,) = [record.getMessage() for record in caplog.records if "charged" in record.getMessage()]
    assert "$0.0040" in said and "a role" in said


@pytest.mark.fault("M02", "a server that charges above the bound cannot overshoot a limit by more than was in flight")
def test_later_runs_know_and_reservations_in_flight_are_raised(tmp_path):
    with Ledger(tmp_path, {}, 100.0) as ledger:
        send(ledger, "a", 1.0)
        send(ledger, "b", 1.0)
        send(ledger, "other", 1.0, role="another")
        ledger.settle("a", Outcome("answered", "x", usd=4.0))
        assert ledger.committed_usd == pytest.approx(4 + 5 + 1)  # a margin of a quarter
        assert ledger.unsure_usd == pytest.approx(6)
        ledger.settle("b", Outcome("answered", "x", usd=4.5))  # below what is reserved by now
        ledger.settle("other", Outcome("answered", "x", usd=1.0))
    with Ledger(tmp_path, {}, 100.0) as ledger:
        ledger.plan("c", "role", 0)
        assert ledger.reserve("c", 1.0) and ledger.committed_usd == pytest.approx(9.5 + 4.5 * 1.25)
        ledger.plan("d", "another", 0)
        assert ledger.reserve("d", 1.0) and ledger.committed_usd == pytest.approx(9.5 + 4.5 * 1.25 + 1)


@pytest.mark.fault("M03", "an answer whose usage cannot be believed is booked at the bound and counted")
def test_doubtful_usage_is_counted_and_teaches_nothing(tmp_path):
    with Ledger(tmp_path, {}) as ledger:
        answer(ledger, "a", 1.0, 9.0, doubtful=True)  # as after several attempts
        answer(ledger, "b", 1.0, 0.1)
        (row,) = ledger.report()
        assert (row["requests"], row["doubtful"], row["overcharged"]) == (2, 1, 0)
        assert ledger.find("a").outcome(None).doubtful is True and ledger.find("b").outcome(None).doubtful is False
        send(ledger, "c", 1.0)
        assert ledger.unsure_usd == pytest.approx(1.0)


# --- kills -----------------------------------------------------------------------------------------------------------


def ledger_with_kills(folder, costs, kills, bound=1.0):
    """A ledger with answers of some costs, that was killed with requests in flight."""
    with Ledger(folder, {}) as ledger:
        for place, usd in enumerate(costs):
            answer(ledger, f"answered {place}", bound, usd)
        for place in range(kills):
            send(ledger, f"killed {place}", bound)
    return Ledger(folder, {}, max_usd=1e6)


@pytest.mark.fault("M04", "a request in flight at a kill counts by what its role has cost, never above its bound")
def test_killed_requests_count_by_the_costs_of_their_role(tmp_path):
    with ledger_with_kills(tmp_path / "few", [0.01] * 19, 8) as ledger:
        assert ledger.killed() == {"requests": 8, "usd": 8.0, "most_usd": 8.0}  # too few costs to judge by
        assert ledger.find("killed 0").state == "planned"
        answer(ledger, "another", 1.0, 0.01)
        assert ledger.killed()["usd"] == pytest.approx(8 * 0.01)
        assert ledger.unsure_usd == pytest.approx(8 * 0.01)
    with ledger_with_kills(tmp_path / "dear", [1.0] * 20 + [0.1] * 20, 8) as ledger:
        assert ledger.killed()["usd"] == pytest.approx(8.0)  # the bounds
    with ledger_with_kills(tmp_path / "free", [], 3, bound=0.0) as ledger:
        assert ledger.killed()["usd"] == 0


@pytest.mark.fault("M04", "a request in flight at a kill counts by what its role has cost, never above its bound")
def test_the_limit_uses_what_has_been_learnt_since_the_start(tmp_path):
    with ledger_with_kills(tmp_path, [0.01] * 19, 8) as ledger:
        ledger.max_usd = 8.5
        ledger.plan("next", "role", 0)
        assert not ledger.reserve("next", 1.0)
        answer(ledger, "twentieth", 0.1, 0.01)
        assert ledger.reserve("next", 1.0)


@pytest.mark.fault("M04", "a request in flight at a kill counts by what its role has cost, never above its bound")
def test_the_estimate_is_above_what_such_requests_cost(tmp_path):
    """Answers take as long as they cost, one in a hundred up to the bound. A kill meets long ones more often."""
    rng = random.Random(0)

    def cost():
        return 1.0 if rng.random() < 0.01 else rng.lognormvariate(-4, 0.5)

    pool = [cost() for _ in range(2000)]
    with ledger_with_kills(tmp_path, pool[:500], 32) as ledger:
        estimate = ledger.killed()["usd"]
    real = [sum(rng.choices(pool, weights=pool, k=32)) for _ in range(1000)]
    assert sum(one > estimate for one in real) < 20  # in a thousand kills
    assert estimate < 0.8 * 32


@pytest.mark.slow
@pytest.mark.fault("M04", "a request in flight at a kill counts by what its role has cost, never above its bound")
def test_kills_cost_little_in_the_books(tmp_path, fake):
    """Real processes are killed; what the server answered twice is within what is booked."""
    fake.answer = lambda body: Reply(200, completion("echo " + user_text(body)).body, delay=0.15)
    for target in (8, 16, 24):
        kill_a_run(tmp_path, fake, lambda target=target: len(fake.bodies) >= target, "online", concurrency=4)
    outcomes, report, (spent, unsure), _ = ask_all(tmp_path, fake, questions(30))
    assert set(kinds(outcomes)) == {"answered"} and spent == pytest.approx(30 * COST)
    twice = len(fake.bodies) - 30
    assert 0 < twice <= 12 and twice * COST <= unsure + 1e-12
    assert unsure <= 12 * COST + 1e-12 < bound_of(fake, question("question 0")) * 12 / 10


@pytest.mark.fault(
    "M05", "a request whose headers never left costs nothing at a kill, and each attempt that did counts"
)
def test_only_what_was_sent_counts(tmp_path):
    with Ledger(tmp_path, {}) as ledger:
        for name in "abc":
            ledger.plan(name, "role", 0)
            assert ledger.reserve(name, 1.0)
        ledger.mark_sent("b")
        ledger.mark_sent("c")
        ledger.mark_sent("c", 3)  # after two time-outs
        assert ledger.committed_usd == pytest.approx(5)
        assert [ledger.find(name).state for name in "abc"] == ["planned", "sent", "sent"]
    with Ledger(tmp_path, {}) as ledger:
        assert ledger.unsure_usd == pytest.approx(4) == ledger.committed_usd
        assert ledger.killed() == {"requests": 2, "usd": 2.0, "most_usd": 2.0}  # the time-outs are lost for certain
        assert (ledger.report()[0]["requests"], ledger.report()[0]["sends"]) == (3, 2)


@pytest.mark.fault(
    "M05", "a request whose headers never left costs nothing at a kill, and each attempt that did counts"
)
def test_a_request_is_marked_when_it_leaves(tmp_path, fake):
    """While the body is made there is no mark yet; each attempt reserves one bound."""
    fake.faults.extend([error(500), completion()])
    seen = []

    async def run():
        async with server_at(fake, max_tokens=50) as server:
            with Ledger(tmp_path, server.settings) as ledger:
                make = server.body
                server.body = lambda request, **form: seen.append(states(ledger)) or make(request, **form)
                async with Dispatcher(server, ledger) as dispatcher:
                    dispatcher.ledger.mark_sent, marked = spy(ledger)
                    outcome = await dispatcher.ask(question())
                return outcome, marked

    outcome, marked = asyncio.run(run())
    assert outcome.kind == "answered" and seen == [["planned"]]
    assert marked == [1, 1]  # a rejected attempt costs nothing


def states(ledger):
    # called in a thread, where the connection may not be used
    from contextcir.chat.ledger_file import rows_of

    return [row["state"] for row in rows_of(ledger.path, "select state from requests")]


def spy(ledger):
    marked, mark = [], ledger.mark_sent
    return lambda id_, sends=1, **more: marked.append(sends) or mark(id_, sends, **more), marked


@pytest.mark.fault(
    "M05", "a request whose headers never left costs nothing at a kill, and each attempt that did counts"
)
def test_a_backend_that_does_not_report_is_marked_before(tmp_path):
    class Silent:
        settings = {"backend": "silent"}

        def request_id(self, request):
            return request.prompt

        def estimate(self, request):
            return 1.0

        async def complete(self, request, on_response=None):
            raise KeyboardInterrupt

    async def run(ledger):
        await Dispatcher(Silent(), ledger).ask(question("x"))

    with Ledger(tmp_path, {}) as ledger, pytest.raises(KeyboardInterrupt):
        asyncio.run(run(ledger))
    with Ledger(tmp_path, {}) as ledger:
        assert ledger.killed()["requests"] == 1


def test_free_requests_need_no_books(tmp_path):
    assert FREE.usd(5, 5) == 0 and Price(1.0, 2.0).usd(1e6, 1e6) == 3
