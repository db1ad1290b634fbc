"""Requests and answers of the oracle, in process and over HTTP."""

import http.client
import io
import json
import re
import socket
import time

import openai
import pytest

from contextcir.captions.schemas import Differences, ImageCaption, ReferenceObjects
from contextcir.retrieval.imagescope.roles import Evaluation, Reasoning, Verification
from contextcir.scenes import render
from contextcir.scenes.oracle import Faults, Oracle
from contextcir.scenes.reading import read_caption
from tests.scenes.oracle.chat import REQUEST, about, body_of, client_of, code_of, content_of, data, port_of, post


def sent(url, body):
    """A connection on which a request was sent."""
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(content)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port_of(url)), timeout=20)
    connection.sendall(head.encode() + content)
    return connection


class TestRequests:
    def test_content_and_seed_determine_the_answer(self, truth, pictures, queries):
        image = pictures[queries[0].reference]
        body = body_of(ReferenceObjects, "list", [image])
        reordered = dict(reversed(body.items()))
        assert Oracle(truth).respond(body).body == Oracle(truth).respond(reordered).body
        contents = {
            content_of(oracle.respond(body_of(ReferenceObjects, prompt, [image])))
            for oracle, prompt in ((Oracle(truth), "list"), (Oracle(truth, seed=1), "list"), (Oracle(truth), "list!"))
        }
        assert len(contents) == 3

    def test_without_schema_support(self, truth, pictures, queries):
        """The schema is named in the prompt, or the answer is a caption."""
        scene = queries[0].reference
        for prompt in ('Answer by <schema name="ImageCaption">{}</schema>', "What do you see?"):
            content = content_of(Oracle(truth).respond(body_of(None, prompt, [pictures[scene]])))
            named = "schema" in prompt
            assert read_caption(ImageCaption.model_validate_json(content).caption if named else content) == scene

    def test_data_of_prompts(self, truth):
        """The last of equal tags counts, and plain strings are read."""
        prompt = "The data are in <instruction>; <instruction>old</instruction>\n" + data(instruction="has a cat")
        body = body_of(Reasoning) | {"messages": [{"role": "system", "content": prompt}]}
        assert '"core": "has a cat"' in content_of(Oracle(truth).respond(body))

    @pytest.mark.parametrize(
        "change, expected",
        [
            ({"model": "gpt-0"}, (404, "model_not_found")),
            ({"messages": None}, (400, "invalid_request")),
            ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, (400, "invalid_request")),
            ({"response_format": {"type": "json_schema", "json_schema": {"name": "Poem"}}}, (400, "unknown_schema")),
        ],
    )
    def test_invalid_requests(self, truth, pictures, queries, change, expected):
        oracle = Oracle(truth)
        body = body_of(ImageCaption, "", [pictures[queries[0].reference]])
        assert code_of(oracle.respond(body | change)) == expected
        assert oracle.outcomes == {expected[1]: 1} and not oracle.answered

    @pytest.mark.parametrize(
        "schema, prompt, images, code",
        [
            (ImageCaption, "", [], "invalid_request"),
            (ImageCaption, "", ["known", "known"], "invalid_request"),
            (Evaluation, "", [], "invalid_request"),
            (ImageCaption, "", ["damaged"], "invalid_image"),
            (ImageCaption, "", ["unknown"], "unknown_picture"),
            (Verification, data(questions="[1,"), ["known"], "invalid_request"),
            (Verification, data(questions={"a": 1}), ["known"], "invalid_request"),
            (Differences, data(reference_objects=["star"], target_objects=[{}]), [], "invalid_data"),
        ],
    )
    def test_invalid_images_and_data(self, truth, pictures, queries, schema, prompt, images, code):
        buffer = io.BytesIO()
        render(queries[0].reference, 12345).save(buffer, format="PNG")
        files = {"unknown": buffer.getvalue(), "known": pictures[queries[0].reference], "damaged": b"GIF89a"}
        reply = Oracle(truth).respond(body_of(schema, prompt, [files[image] for image in images]))
        assert code_of(reply) == (400, code), reply.body

    @pytest.mark.parametrize("url", ["http://example.org/a.jpg", "data:image/jpeg;base64,%%%"])
    def test_images_must_be_in_the_request(self, truth, url):
        body = body_of(ImageCaption)
        body["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": url}})
        assert code_of(Oracle(truth).respond(body)) == (400, "invalid_image_url")

    def test_usage_grows_with_text_images_and_answer(self, truth, pictures, queries):
        image = pictures[queries[0].reference]

        def usage(*request):
            return Oracle(truth).respond(body_of(*request)).body["usage"]

        short, long = (usage(Reasoning, "x" * length) for length in (400, 800))
        assert long["prompt_tokens"] - short["prompt_tokens"] == 100
        one, two = (usage(Evaluation, data(instruction="a cat"), [image] * count) for count in (1, 2))
        assert two["prompt_tokens"] - one["prompt_tokens"] == 255
        assert one["total_tokens"] == one["prompt_tokens"] + one["completion_tokens"] > 255


class TestHttp:
    def test_faults_of_the_connection_are_drawn_at_each_attempt(self, truth):
        def attempts(seed):
            with Oracle(truth, faults=Faults(rate_429=0.3, rate_5xx=0.2, retry_after=1.5), seed=seed) as url:
                return [post(url, REQUEST) for _ in range(40)]

        first = attempts(0)
        found = [status for status, _, _ in first]
        assert 5 < found.count(429) < 20 and found.count(200) > 10 and {500, 502, 503} & set(found)
        assert {headers["Retry-After"] for status, headers, _ in first if status == 429} == {"1.5"}
        assert len({json.dumps(content) for status, _, content in first if status == 200}) == 1
        assert [status for status, _, _ in attempts(0)] == found
        assert [status for status, _, _ in attempts(1)] != found

    def test_answers_are_counted(self, truth):
        oracle = Oracle(truth, faults=Faults(rate_5xx=0.5))
        with oracle as url:
            statuses = [post(url, REQUEST)[0] for _ in range(20)]
            post(url, body_of(None, "no image"))
        (digest,) = oracle.answered
        assert oracle.answered[digest] == oracle.num_answered == statuses.count(200) > 1
        usage = oracle.respond(REQUEST).body["usage"]
        assert oracle.tokens["prompt"] == oracle.num_answered * usage["prompt_tokens"]
        assert oracle.received[digest] == 20
        assert oracle.outcomes["rate_5xx"] + oracle.outcomes["answered"] + oracle.outcomes["invalid_request"] == 21
        outcomes, _, repeated = oracle.summary().partition(";")
        assert f"{oracle.outcomes['rate_5xx']} rate_5xx" in outcomes and re.findall(r"\d+", repeated) == ["1", "1"]

    def test_waiting_answers_do_not_block_others(self, truth):
        with Oracle(truth, faults=Faults(latency=0.2, jitter=0.05)) as url:
            start = time.perf_counter()
            connections = [sent(url, REQUEST) for _ in range(20)]
            for connection in connections:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
                connection.close()
            assert 0.2 <= time.perf_counter() - start < 0.5 * 20 * 0.2

    def test_one_core_answers_300_requests_a_second(self, truth, pictures):
        bodies = [json.dumps(body_of(ReferenceObjects, "", [picture])) for picture in pictures.values()]
        with Oracle(truth) as url:
            connection = http.client.HTTPConnection("127.0.0.1", port_of(url))
            start = time.process_time()  # of client and server, independent of other processes
            for body in bodies:
                connection.request("POST", "/v1/chat/completions", body)
                assert connection.getresponse().read()
            assert (time.process_time() - start) / len(bodies) < 1 / 300
            connection.close()

    def test_missing_answers(self, truth):
        """The server does not answer, or the client does not wait for the answer."""
        oracle = Oracle(truth, faults=Faults(rate_timeout=1.0, hang=0.1))
        with oracle as url, pytest.raises(ConnectionError):
            post(url, REQUEST)
        assert oracle.outcomes == {"rate_timeout": 1}
        oracle = Oracle(truth, faults=Faults(latency=0.2))
        with oracle as url:
            connection = sent(url, REQUEST)
            while not oracle.received:
                time.sleep(0.005)
            connection.close()
            assert post(url, about("a dog"))[0] == 200
        assert oracle.received.total() == 2 and oracle.num_answered == 1

    def test_keys_models_and_other_paths(self, truth):
        with Oracle(truth, api_key="right", models=("small", "large")) as url:
            status, _, content = post(url, REQUEST, key="wrong")
            assert (status, content["error"]["code"]) == (401, "invalid_api_key")
            client = client_of(url, "right")
            assert [model.id for model in client.models.list()] == ["small", "large"]
            with pytest.raises(openai.NotFoundError, match="'oracle'"):
                client.chat.completions.create(**REQUEST)
            with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings"):
                client.embeddings.create(model="small", input="a")
            for body in ("{", "[]"):
                assert post(url, body, key="right")[0] == 400

    def test_a_body_without_a_length(self, truth):
        with Oracle(truth) as url, socket.create_connection(("127.0.0.1", port_of(url)), timeout=20) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 411")

    def test_the_server_ends_with_its_block(self, truth):
        with Oracle(truth) as url:
            kept = http.client.HTTPConnection("127.0.0.1", port_of(url))
            kept.request("GET", "/v1/models")
            kept.getresponse().read()
            with pytest.raises(OSError), Oracle(truth, port=port_of(url)):  # the port is taken
                pass
        with pytest.raises(OSError):
            kept.request("GET", "/v1/models")  # on the open connection
            kept.getresponse()
        with pytest.raises(OSError):
            post(url, REQUEST)

    def test_the_official_client_parses_answers(self, truth, pictures, queries):
        with Oracle(truth) as url:
            body = body_of(None, "", [pictures[queries[0].reference]])
            completion = client_of(url).chat.completions.parse(**body, response_format=ImageCaption)
        assert read_caption(completion.choices[0].message.parsed.caption) == queries[0].reference
        assert completion.usage.total_tokens > 255
