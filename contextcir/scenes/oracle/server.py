"""The oracle: an OpenAI-compatible server that answers about pictures of scenes without a model.

It chooses the kind of answer by the name of the requested schema, and varies its words. An answer depends only on the
content of the request and the seed of the server. It is therefore the same online and in a batch, and after a restart;
wrong answers, too.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from contextcir.scenes.oracle import captioning, reasoning
from contextcir.scenes.oracle.batches import Batches
from contextcir.scenes.oracle.chat_request import BadRequestError, ChatRequest, digest_of
from contextcir.scenes.oracle.faults import CONNECTION, FORM, Faults, malform
from contextcir.scenes.oracle.loopback import Call, LoopbackServer, Reply, failure
from contextcir.scenes.oracle.quirks import REJECTIONS, odd
from contextcir.scenes.truth import Truth

ANSWERS: dict[str, Callable[[ChatRequest, Faults], dict[str, Any]]] = {  # name of a schema -> function that fills it
    "ReferenceObjects": captioning.reference_objects,
    "TargetObjects": captioning.target_objects,
    "Differences": captioning.differences,
    "ImageCaption": captioning.image_caption,
    "Reformulation": captioning.reformulation,
    "Reasoning": reasoning.reasoning,
    "Propositions": reasoning.propositions,
    "Verification": reasoning.verification,
    "Evaluation": reasoning.evaluation,
}
TOKENS_OF_AN_IMAGE = 255
REFUSAL = "I'm sorry, but I can't help with that."
UNANSWERED = {  # faults of the form of an answer that are errors: status, message and code
    "moderated": (403, "Your input was flagged by moderation.", "403"),
    "errors_inside": (200, "The upstream provider has an error.", "upstream_error"),
    "invalid_json": (400, "Failed to generate JSON. Please adjust your prompt.", "json_validate_failed"),
}


class Oracle:
    """
    A server that runs while its `with` block does. The block gets its base URL: `with Oracle(truth) as url:`.

    Args:
        truth (`Truth`): Scenes of pictures, and targets of queries.
        faults (`Faults`, *optional*): Simulated faults; none by default.
        seed (`int`, *optional*): Seed of wording and faults.
        models (`Sequence[str]`, *optional*): Names of the models. Requests for other models get 404.
        api_key (`str`, *optional*): The required key; any key is accepted by default.
        port (`int`, *optional*): The port; a free one by default.

    Attributes:
        received (`Counter`): Digest of a request -> number of times it arrived online.
        answered (`Counter`): Digest of a request -> number of times it was answered, online or in a batch.
        outcomes (`Counter`): `"answered"`, the name of a fault, or an error code -> count.
        tokens (`Counter`): `"prompt"` and `"completion"` -> number of tokens of all answers.
    """

    def __init__(
        self,
        truth: Truth,
        *,
        faults: Faults | None = None,
        seed: int = 0,
        models: Sequence[str] = ("oracle",),
        api_key: str = "",
        port: int = 0,
    ) -> None:
        self.truth, self.faults, self.seed = truth, faults or Faults(), seed
        self.models, self.api_key = tuple(models), api_key
        self.received: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._batches = Batches(self.respond, self.faults)
        self._server = LoopbackServer(self._handle, port)

    def __enter__(self) -> str:
        return f"http://127.0.0.1:{self._server.__enter__().port}/v1"

    def __exit__(self, *error: object) -> None:
        self._server.__exit__(*error)

    def summary(self) -> str:
        """Return one line with the counts of all outcomes and of the requests that were answered repeatedly."""
        outcomes = ", ".join(f"{count:,} {kind}" for kind, count in self.outcomes.most_common()) or "no requests"
        again = sum(count > 1 for count in self.answered.values())
        return f"{outcomes}; {len(self.answered):,} different requests answered, {again:,} of them more than once"

    @property
    def num_answered(self) -> int:
        """`int`: Number of delivered answers."""
        return self.answered.total()

    @property
    def ends_of_batches(self) -> Counter[str]:
        """`Counter`: End of a batch, such as `"completed"`, `"completed in part"` or `"expired"` -> count."""
        return self._batches.ends()

    async def _handle(self, call: Call) -> Reply | None:
        if self.api_key and call.headers.get("authorization") != f"Bearer {self.api_key}":
            return self._reject(401, "Incorrect API key provided.", "invalid_api_key")
        try:
            if call.path == "/v1/models" and call.method == "GET":
                models = [{"id": name, "object": "model", "created": 0, "owned_by": "scenes"} for name in self.models]
                return Reply(200, {"object": "list", "data": models})
            if call.path == "/v1/chat/completions" and call.method == "POST":
                if self.faults.redirect:
                    return Reply(307, {}, {"Location": self.faults.redirect})
                if 0 < self.faults.max_bytes < len(call.body):
                    return self._reject(413, "Request entity too large.", "request_too_large")
                return await self._complete(_object(call.body))
            if call.path.startswith(("/v1/files", "/v1/batches")):
                return self._batches.route(call)
        except ValueError as error:
            return failure(400, f"Expected a JSON object as body: {error}", "invalid_json")
        return failure(404, f"There is no {call.method} {call.path}.", "unknown_url")

    async def _complete(self, body: dict[str, Any]) -> Reply | None:
        """Answer online, after the latency and with faults of the connection."""
        faults, digest = self.faults, digest_of(body)
        self.received[digest] += 1
        rng = random.Random(f"{self.seed} {digest} {self.received[digest]}")  # drawn again at each attempt
        await asyncio.sleep(faults.latency + rng.random() * faults.jitter)
        fault = faults.draw(rng, CONNECTION)
        if not fault:
            return replace(self.respond(body), drip=faults.drip)
        self.outcomes[fault] += 1
        if fault == "rate_429":
            wait = {"Retry-After": f"{faults.retry_after:g}"}
            return failure(429, "Rate limit reached. Try again later.", "rate_limit_exceeded", wait)
        if fault == "rate_5xx":
            return failure(rng.choice((500, 502, 503)), "The server had an error.", "server_error")
        await asyncio.sleep(faults.hang)
        return None

    def respond(self, body: dict[str, Any]) -> Reply:
        """Return the reply to the body of a chat request, without faults of the connection."""
        for name in self.faults.rejects or ():
            if reply := REJECTIONS[name](body):
                self.outcomes[name] += 1
                return reply
        if body.get("model") not in self.models:
            return self._reject(404, f"The model {body.get('model')!r} does not exist.", "model_not_found")
        if self.faults.reject_schema and (body.get("response_format") or {}).get("type") == "json_schema":
            return self._reject(400, "response_format of type json_schema is not supported.", "unsupported")
        if self.faults.quota and self.num_answered >= self.faults.quota:
            return self._reject(429, "You exceeded your current quota.", "insufficient_quota")
        try:
            request = ChatRequest(body, self.truth, self.seed)
            content = self._content(request)
        except BadRequestError as error:
            return self._reject(400, str(error), error.code)
        except (AttributeError, KeyError, TypeError) as error:  # malformed data between tags
            return self._reject(400, f"The data of the request are malformed: {error!r}.", "invalid_data")
        return self._completion(body, request, content)

    def _reject(self, status: int, message: str, code: str) -> Reply:
        self.outcomes[code] += 1
        return failure(status, message, code)

    def _content(self, request: ChatRequest) -> str:
        if not request.schema:
            return captioning.caption_of(request, self.faults)
        if request.schema not in ANSWERS:
            raise BadRequestError(
                f"Got the schema {request.schema!r}, expected one of {', '.join(ANSWERS)}.", "unknown_schema"
            )
        return json.dumps(ANSWERS[request.schema](request, self.faults))

    def _completion(self, body: dict[str, Any], request: ChatRequest, answer: str) -> Reply:
        """Return the completion of an answer, with faults of its form."""
        kind = self.faults.draw(request.rng, FORM) or "answered"
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or _tokens(answer)
        if kind in UNANSWERED:
            return self._reject(*UNANSWERED[kind])
        content: str | None = answer
        refusal, finish = None, "stop"
        if kind == "refusals":
            content, refusal = None, REFUSAL
        elif kind == "content_filter":
            content, finish = "", "content_filter"
        elif kind == "cut" or limit < _tokens(answer):
            kind, finish = "cut", "length"
            content = answer[: min(4 * limit, len(answer) // 2)]
        elif kind == "malformed":
            content = malform(request.rng, answer)
        prompt_tokens = _tokens(request.text) + TOKENS_OF_AN_IMAGE * request.num_images
        completion_tokens = _tokens(content or refusal or "")
        message = {"role": "assistant", "content": content, "refusal": refusal}
        payload = {
            "id": f"chatcmpl-{request.digest[:24]}",
            "object": "chat.completion",
            "created": 0,
            "model": self.faults.answering_model or body["model"],
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }

        def delivered() -> None:
            self.answered[request.digest] += 1
            self.outcomes[kind] += 1
            self.tokens.update(prompt=prompt_tokens, completion=completion_tokens)

        payload = odd(payload, self.faults.form, self.faults.usage)
        return Reply(200, payload, {"x-request-id": f"req_{request.digest[:24]}"}, delivered)


def _object(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"got {type(found).__name__}")
    return found


def _tokens(text: str) -> int:
    """Estimate the number of tokens: English has about four characters per token."""
    return (len(text) + 3) // 4
