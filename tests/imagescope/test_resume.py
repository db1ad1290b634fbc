"""Resume a search from the ledger: an answered request is never sent again, whatever interrupted the run."""

import os
import signal

import pytest

from contextcir.chat.exchange import ChatStop, Outcome
from contextcir.retrieval.imagescope import ImageScope
from tests.imagescope_world import ROLES, composed, trace_of, world
from tests.tiny_triplets import png

QUERIES = [composed(3, place, f"q{place}") for place in range(1, 6)]
ALL = {"captioner": 40, "reasoner": 2 * 5, "verifier": 20 * 5, "evaluator": 3 * 5}  # requests of one search


def search(pictures, folder, *, verified=20, evaluated=3, tau=0.15, **options) -> list[list[str]]:
    with pictures.panel_with_ledger(folder, **options) as panel:
        scope = ImageScope(panel, pictures.reasoned(panel, tau), verified=verified, evaluated=evaluated)
        return scope.search(QUERIES, pictures.gallery(), 10, exclude_reference=True).gallery_ids


def sent_by(pictures, folder, **options) -> dict[str, int]:
    """Requests that a search sends."""
    before = pictures.counts()
    search(pictures, folder, **options)
    return dict(pictures.counts() - before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> list[list[str]]:
    """The results of a search that nothing interrupts."""
    return search(world(), tmp_path_factory.mktemp("uninterrupted"))


def test_other_settings_send_only_new_requests(tmp_path, uninterrupted):
    pictures = world()
    assert sent_by(pictures, tmp_path) == ALL
    trace = (tmp_path / "trace.jsonl").read_bytes()
    assert sent_by(pictures, tmp_path) == {}
    assert (tmp_path / "trace.jsonl").read_bytes() == trace  # the costs too are those of the answers
    assert sent_by(pictures, tmp_path, evaluated=4) == {"evaluator": 5}
    assert sent_by(pictures, tmp_path, verified=22) == {"verifier": 10}
    assert sent_by(pictures, tmp_path, models={"verifier": "other"}) == {"verifier": 100}
    assert sent_by(pictures, tmp_path, models={"evaluator": "other"}) == {"evaluator": 15}
    assert sent_by(pictures, tmp_path, models={"reasoner": "other"}) == {"reasoner": 10}  # with the same answers
    assert sent_by(pictures, tmp_path, models={"captioner": "other"}) == {"captioner": 40}
    assert sent_by(pictures, tmp_path, tau=0.16) == {}
    assert search(pictures, tmp_path) == uninterrupted and sent_by(pictures, tmp_path) == {}


def test_a_repeated_search_costs_nothing(tmp_path):
    pictures, calls = world(), []
    for _ in range(2):
        with pictures.panel_with_ledger(tmp_path) as panel:
            scope = ImageScope(panel, pictures.reasoned(panel))
            scope.search(QUERIES, pictures.gallery(), 10)
            calls.append(scope.report()["calls"])
    assert {role: (count["asked"], count["usd"]) for role, count in calls[0].items()} == {
        role: (number, number / 2) for role, number in ALL.items()
    }
    # The caption of the reference is used twice more: for the descriptions, and for the propositions.
    assert calls[1] == {role: {"reused": number} for role, number in (ALL | {"captioner": 42}).items()}


def test_captions_are_kept_by_captioner_and_prompt(tmp_path):
    pictures = world()
    search(pictures, tmp_path, verified=0, evaluated=0)
    pictures.texts["captioner"] = lambda request: '{"caption": "picture 30"}'
    search(pictures, tmp_path, verified=0, evaluated=0, models={"captioner": "other"})
    assert [record["descriptions"][1] for record in trace_of(tmp_path).values()] == [
        f"picture {30 + place}" for place in range(1, 6)
    ]
    pictures.texts.clear()
    assert sent_by(pictures, tmp_path, verified=0, evaluated=0, benchmark="fashioniq")["captioner"] == 40


def test_images_are_identified_by_their_content(tmp_path):
    pictures = world()
    search(pictures, tmp_path)
    for number in range(40):
        (tmp_path / f"renamed-{number}.png").write_bytes(png(number))
    pictures.pictures = {number: tmp_path / f"renamed-{number}.png" for number in range(40)}
    assert sent_by(pictures, tmp_path) == {}
    assert sent_by(pictures, tmp_path / "new") == ALL  # another cache and another ledger


def test_failed_requests_are_sent_again(tmp_path):
    pictures, failed = world(), Outcome("failed", error="time-out")
    pictures.faults["verifier"] = lambda request: failed if pictures.number(request.images[0]) == 4 else None
    search(pictures, tmp_path)
    pictures.faults.clear()
    assert sent_by(pictures, tmp_path)["verifier"] == 5


@pytest.mark.parametrize("after", [0, 30, 45, 55, 90, 140, 164])
def test_a_run_that_a_server_stops_continues(tmp_path, after, uninterrupted):
    pictures = world()

    def stop(request):
        if pictures.answered >= after:
            raise ChatStop("quota", "no more than that")

    pictures.faults = dict.fromkeys(ROLES, stop)
    with pytest.raises(ChatStop, match=r"(\w+) \(model-\1\): no more than that") as stopped:
        search(pictures, tmp_path)
    assert stopped.value.reason == "quota" and pictures.answered == after
    pictures.faults.clear()
    assert search(pictures, tmp_path) == uninterrupted
    assert pictures.answered == sum(ALL.values())


@pytest.mark.fault("G05", "SIGTERM ends a run as Ctrl-C does: what is in flight is finished, exit code 75")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_answers(tmp_path, uninterrupted, number):
    pictures = world()

    def interrupt(request):
        if pictures.answered == 60:
            os.kill(os.getpid(), number)

    pictures.faults["verifier"] = interrupt
    with pytest.raises(KeyboardInterrupt) as stopped:
        search(pictures, tmp_path, concurrency=1)
    assert getattr(stopped.value, "exit_code", 130) == {signal.SIGINT: 130, signal.SIGTERM: 75}[number]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert 60 < pictures.answered < sum(ALL.values())
    pictures.faults.clear()
    assert search(pictures, tmp_path, concurrency=1) == uninterrupted
    assert pictures.answered == sum(ALL.values())


def test_a_killed_run_continues(tmp_path, uninterrupted):
    pictures = world()

    def kill(request):
        if pictures.answered == 100:
            os.kill(os.getpid(), signal.SIGKILL)

    pictures.faults["verifier"] = kill
    if not (process := os.fork()):
        try:
            search(pictures, tmp_path, concurrency=1)
        finally:
            os._exit(1)  # not reached by a killed process
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    pictures.faults.clear()
    assert search(pictures, tmp_path, concurrency=1) == uninterrupted
    assert pictures.answered == sum(ALL.values()) - 100
