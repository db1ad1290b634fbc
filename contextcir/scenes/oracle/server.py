"""The oracle: an OpenAI-compatible server that knows what pictures of scenes show, for use without any model.

It answers as a multimodal model would, in varied words, by the name of the schema that it is asked to fill in. An
answer depends on the content of the request and the server's seed and on nothing else: asked online or in a batch, now
or after a restart, it is the same, wrong answers included.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from contextcir.scenes.oracle import captioning, reasoning
from contextcir.scenes.oracle.batches import Batches
from contextcir.scenes.oracle.faults import FORM, LINE, Faults, malform
from contextcir.scenes.oracle.loopback import Call, LoopbackServer, Reply, failure
from contextcir.scenes.oracle.questions import BadRequestError, Question, digest_of
from contextcir.scenes.truth import Truth

ANSWERS: dict[str, Callable[[Question, Faults], dict[str, Any]]] = {  # name of a schema -> who fills it in
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


class Oracle:
    """
    Serves as long as a `with` block lasts, which gets the base URL for clients: `with Oracle(truth) as url:`.

    Args:
        truth (`Truth`): What pictures show, and what queries ask for.
        faults (`Faults`, *optional*): What goes wrong; nothing by default.
        seed (`int`, *optional*): Of wording and faults.
        models (`Sequence[str]`, *optional*): The models that there are; requests for others get 404.
        api_key (`str`, *optional*): The key that requests must bring; by default any will do.
        port (`int`, *optional*): A free one by default.

    Attributes:
        received (`Counter`): Digest of a request -> how often it arrived online.
        answered (`Counter`): Digest of a request -> how often its answer was delivered, online or in a batch.
        outcomes (`Counter`): `"answered"`, the name of a fault, or the code of an error -> how often.
        tokens (`Counter`): `"prompt"` and `"completion"` -> how many were delivered, which is what a bill is made of.
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
    ):
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

    def __exit__(self, *error) -> None:
        self._server.__exit__(*error)

    def summary(self) -> str:
        """One line for people: what came of everything, and how much was answered more than once."""
        outcomes = ", ".join(f"{count:,} {kind}" for kind, count in self.outcomes.most_common()) or "nothing asked"
        again = sum(count > 1 for count in self.answered.values())
        return f"{outcomes}; {len(self.answered):,} different requests answered, {again:,} of them more than once"

    @property
    def num_answered(self) -> int:
        """`int`: How many answers were delivered."""
        return self.answered.total()

    @property
    def ends_of_batches(self) -> Counter[str]:
        """`Counter`: How batches have ended, `"completed"` or otherwise, or `"completed in part"` -> how many."""
        return self._batches.ends()

    async def _handle(self, call: Call) -> Reply | None:
        if self.api_key and call.headers.get("authorization") != f"Bearer {self.api_key}":
            return self._turned_away(401, "Incorrect API key provided.", "invalid_api_key")
        try:
            if call.path == "/v1/models" and call.method == "GET":
                models = [{"id": name, "object": "model", "created": 0, "owned_by": "scenes"} for name in self.models]
                return Reply(200, {"object": "list", "data": models})
            if call.path == "/v1/chat/completions" and call.method == "POST":
                return await self._complete(_object(call.body))
            if call.path.startswith(("/v1/files", "/v1/batches")):
                return self._batches.route(call)
        except ValueError as error:
            return failure(400, f"expected a JSON object as body: {error}", "invalid_json")
        return failure(404, f"there is no {call.method} {call.path}", "unknown_url")

    async def _complete(self, body: dict[str, Any]) -> Reply | None:
        """An answer online: late, and only if the line holds."""
        faults, digest = self.faults, digest_of(body)
        self.received[digest] += 1
        rng = random.Random(f"{self.seed} {digest} {self.received[digest]}")  # each try has luck of its own
        await asyncio.sleep(faults.latency + rng.random() * faults.jitter)
        fault = faults.draw(rng, LINE)
        if not fault:
            return self.respond(body)
        self.outcomes[fault] += 1
        if fault == "rate_429":
            wait = {"Retry-After": f"{faults.retry_after:g}"}
            return failure(429, "Rate limit reached. Try again later.", "rate_limit_exceeded", wait)
        if fault == "rate_5xx":
            return failure(rng.choice((500, 502, 503)), "The server had an error.", "server_error")
        await asyncio.sleep(faults.hang)
        return None

    def respond(self, body: dict[str, Any]) -> Reply:
        """The reply to the body of a chat request on a line that holds."""
        if body.get("model") not in self.models:
            return self._turned_away(404, f"The model {body.get('model')!r} does not exist.", "model_not_found")
        if self.faults.no_schema and (body.get("response_format") or {}).get("type") == "json_schema":
            return self._turned_away(400, "response_format of type json_schema is not supported.", "unsupported")
        if self.faults.quota and self.num_answered >= self.faults.quota:
            return self._turned_away(429, "You exceeded your current quota.", "insufficient_quota")
        try:
            question = Question(body, self.truth, self.seed)
            content = self._content(question)
        except BadRequestError as error:
            return self._turned_away(400, str(error), error.code)
        except (AttributeError, KeyError, TypeError) as error:  # data between tags that is not as agreed
            return self._turned_away(400, f"the data of the request is not as expected: {error!r}", "invalid_data")
        return self._completion(body, question, content)

    def _turned_away(self, status: int, message: str, code: str) -> Reply:
        self.outcomes[code] += 1
        return failure(status, message, code)

    def _content(self, question: Question) -> str:
        if not question.schema:
            return captioning.caption_of(question, self.faults)
        if question.schema not in ANSWERS:
            raise BadRequestError(
                f"this server does not know the schema {question.schema!r}; it knows {', '.join(ANSWERS)}.",
                "unknown_schema",
            )
        return json.dumps(ANSWERS[question.schema](question, self.faults))

    def _completion(self, body: dict[str, Any], question: Question, content: str) -> Reply:
        """The answer as it leaves, with what may be wrong with its form."""
        kind = self.faults.draw(question.rng, FORM) or "answered"
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or _tokens(content)
        refusal, finish = None, "stop"
        if kind == "refusals":
            content, refusal = None, REFUSAL
        elif kind == "content_filter":
            content, finish = "", "content_filter"
        elif kind == "cut" or limit < _tokens(content):
            kind, finish = "cut", "length"
            content = content[: min(4 * limit, len(content) // 2)]
        elif kind == "malformed":
            content = malform(question.rng, content)
        prompt_tokens = _tokens(question.text) + TOKENS_OF_AN_IMAGE * question.num_images
        completion_tokens = _tokens(content or refusal or "")
        message = {"role": "assistant", "content": content, "refusal": refusal}
        payload = {
            "id": f"chatcmpl-{question.digest[:24]}",
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
            self.answered[question.digest] += 1
            self.outcomes[kind] += 1
            self.tokens.update(prompt=prompt_tokens, completion=completion_tokens)

        return Reply(200, payload, {"x-request-id": f"req_{question.digest[:24]}"}, delivered)


def _object(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"got {type(found).__name__}")
    return found


def _tokens(text: str) -> int:
    """About as many tokens as English has: four characters each."""
    return (len(text) + 3) // 4
