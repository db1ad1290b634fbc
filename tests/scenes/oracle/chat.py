"""Chat requests to the oracle, in process and over HTTP."""

import base64
import http.client
import json
import random
from functools import cache

import openai

from contextcir.retrieval.imagescope.roles import Reasoning
from contextcir.scenes import describe, realise


def data(**tags):
    """Data between tags, as prompts hold them."""
    texts = ((tag, value if isinstance(value, str) else json.dumps(value)) for tag, value in tags.items())
    return "\n".join(f"<{tag}>{text}</{tag}>" for tag, text in texts)


def body_of(schema, prompt="", images=(), **options):
    """The body of a chat request."""
    urls = [f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in images]
    parts = [{"type": "text", "text": prompt}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    body = {"model": "oracle", "messages": [{"role": "user", "content": parts}], **options}
    if schema is not None:
        json_schema = {"name": schema.__name__, "strict": True, "schema": schema.model_json_schema()}
        body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    return body


def about(instruction, **options):
    """The body of a request for reasoning about an instruction."""
    return body_of(Reasoning, data(instruction=instruction), **options)


REQUEST = about("has a cat")


def content_of(reply):
    assert reply.status == 200, reply.body
    return reply.body["choices"][0]["message"]["content"]


def answer(oracle, schema, prompt="", images=()):
    """The answer of the oracle, without HTTP."""
    return schema.model_validate_json(content_of(oracle.respond(body_of(schema, prompt, images))))


def code_of(reply):
    """Status and error code of a reply."""
    return reply.status, reply.body["error"]["code"]


def caption(scene, seed=0):
    return realise(describe(random.Random(seed), scene))[0]


def port_of(url):
    return int(url.split(":")[2].removesuffix("/v1"))


def post(url, body, key="any"):
    """Send a request over HTTP, and return status, headers and JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(url), timeout=20)
    body = body if isinstance(body, (str, bytes)) else json.dumps(body)
    connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {key}"})
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), json.loads(response.read())
    connection.close()
    return found


@cache
def _shared_client():
    return openai.OpenAI(base_url="http://127.0.0.1", api_key="any", max_retries=0)  # slow to set up


def client_of(url, key="any"):
    """The official client of a server."""
    return _shared_client().with_options(base_url=url, api_key=key)
