"""The Batch API of the oracle, through the official client."""

import json
import time

import openai
import pytest

from contextcir.scenes.oracle import Faults, Oracle
from tests.scenes.oracle.chat import REQUEST, about, client_of

ENDPOINT = "/v1/chat/completions"


def line(number):
    """A line of an input file."""
    return {"custom_id": f"line-{number}", "method": "POST", "url": ENDPOINT, "body": about(f"has {number} cats")}


LINES = [line(number) for number in range(9)]


def create(client, content):
    """Upload a file and create a batch."""
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert client.files.content(file.id).content == content
    assert client.files.retrieve(file.id).bytes == len(content)
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")


def finished(client, batch):
    """Wait for the end of a batch."""
    deadline = time.monotonic() + 20
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
        batch = client.batches.retrieve(batch.id)
    return batch


def work(truth, faults=None, lines=LINES, cancel=False):
    """Run a batch: the batch, its results by id, and the oracle."""
    oracle = Oracle(truth, faults=faults)
    with oracle as url:
        client = client_of(url)
        batch = create(client, "\n".join(map(json.dumps, lines)).encode())
        if cancel:
            assert client.batches.cancel(batch.id).status == "cancelling"
        batch = finished(client, batch)
        names = filter(None, (batch.output_file_id, batch.error_file_id))
        rows = [json.loads(row) for name in names for row in client.files.content(name).text.splitlines()]
        assert [listed.id for listed in client.batches.list()] == [batch.id]
    return batch, {row["custom_id"]: row for row in rows}, oracle


def outcomes(results):
    """Status code or error code of each result, in the order of the lines."""
    rows = [results[name] for name in sorted(results)]
    return [row["error"]["code"] if row["error"] else row["response"]["status_code"] for row in rows]


def test_a_batch_gives_the_answers_of_online_requests(truth):
    batch, results, oracle = work(truth)
    assert batch.error_file_id is None and batch.request_counts.total == batch.request_counts.completed == 9
    for one in LINES:
        assert results[one["custom_id"]]["response"]["body"] == Oracle(truth).respond(one["body"]).body
    for kind in ("prompt", "completion"):
        delivered = [result["response"]["body"]["usage"][f"{kind}_tokens"] for result in results.values()]
        assert oracle.tokens[kind] == sum(delivered) > 0


@pytest.mark.parametrize(
    "faults, end, expected",
    [
        ({}, "completed", [200] * 9),
        ({"failed_batches": 1}, "failed", []),
        ({"expired_batches": 1}, "expired", [200] * 4 + ["batch_expired"] * 5),
        ({"partly_failed_batches": 1}, "completed in part", [500, 200, 200] * 3),
        ({"batch_seconds": 0.2}, "cancelled", []),
    ],
)
def test_ends_of_batches(truth, faults, end, expected):
    batch, results, oracle = work(truth, Faults(**faults), cancel=end == "cancelled")
    assert batch.status == end.removesuffix(" in part") and oracle.ends_of_batches == {end: 1}
    assert outcomes(results) == expected and oracle.num_answered == expected.count(200)
    assert batch.request_counts.failed == expected.count(500)
    assert (batch.errors and batch.errors.data[0].code) == ("token_limit_exceeded" if end == "failed" else None)
    assert bool(batch.expired_at) == (end == "expired")


def test_a_request_that_cannot_be_answered_is_an_error_of_its_line(truth):
    batch, results, _ = work(truth, lines=[line(0), line(1) | {"body": REQUEST | {"model": "gpt-0"}}])
    assert batch.status == "completed" and batch.error_file_id
    assert outcomes(results) == [200, 404]


@pytest.mark.parametrize(
    "lines",
    [
        [line(0), line(0)],
        [line(0) | {"url": "/v1/embeddings"}],
        [line(0) | {"body": "text"}],
        [{"body": REQUEST, "url": ENDPOINT}],
        [],
    ],
    ids=["id twice", "another url", "body", "no id", "empty"],
)
def test_an_invalid_file_fails_the_batch(truth, lines):
    batch, results, _ = work(truth, lines=lines)
    assert batch.status == "failed" and batch.errors.data[0].code == "invalid_json_line" and not results


def test_only_the_first_batches_fail(truth):
    with Oracle(truth, faults=Faults(failed_batches=1, expired_batches=1)) as url:
        client, content = client_of(url), json.dumps(line(0)).encode()
        found = [finished(client, create(client, content)).status for _ in range(3)]
    assert found == ["failed", "expired", "completed"]


def test_unknown_files_and_batches(truth):
    with Oracle(truth) as url:
        client = client_of(url)
        for call in (client.files.content, client.files.retrieve, client.batches.retrieve, client.batches.cancel):
            with pytest.raises(openai.NotFoundError, match="'batch_77'"):
                call("batch_77")
        with pytest.raises(openai.BadRequestError, match="'file-77'"):
            client.batches.create(input_file_id="file-77", endpoint=ENDPOINT, completion_window="24h")
