"""A model on a chat server: send a request, and return one of six outcomes or raise a reason to stop.

The server is OpenAI's or any that implements its chat completions (vLLM, llama.cpp, Ollama, a router). Callers such as
caption generation (good4cir, section 3) get an [`~contextcir.chat.exchange.Ask`] and know no server, key or budget.

Servers differ. What one of them rejects is sent once more in another form, and the form is remembered: a schema in the
prompt, the other name of the limit of tokens, a smaller image. What no form can mend ends the run with one sentence.

The id of a request is the SHA-256 of everything that its answer depends on: model, parameters, schema, prompts and the
content of the images. The address is not part of it, since a server of one's own moves with every job. Neither is the
form. Left out: streams, tools, and several answers to one request.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

from contextcir.chat.answers import read_completion, read_usage
from contextcir.chat.attempts import Attempts, current_attempts
from contextcir.chat.errors import Error, error_inside, kind_of, read_error, refuses
from contextcir.chat.exchange import ChatRequest, ChatStop, Outcome
from contextcir.chat.images import image_url
from contextcir.chat.keys import conceal, read_key, secrets_of
from contextcir.chat.model_names import same_model
from contextcir.chat.pace import MIN_PAUSE, Pause
from contextcir.chat.plain_text import printable, unicode_text
from contextcir.chat.prices import Price
from contextcir.chat.schemas import schema_prompt, sent_schema, strict_schema
from contextcir.chat.stops import ALWAYS, enough_images, stop_for
from contextcir.data.content import image_digest
from contextcir.data.images import ImageError
from contextcir.runtime.secrets import redact

OPENAI_URL = "https://api.openai.com/v1"  # explicit, since the client would follow OPENAI_BASE_URL
OWN_KEYS = "model messages temperature max_tokens max_completion_tokens response_format n stream".split()

_MESSAGE_BYTES = 64  # upper bound of the tokens of a message and its role beside the text


class ChatServer(AbstractAsyncContextManager):
    """
    A model on a server, a [`~contextcir.chat.exchange.ChatBackend`]. Use it as `async with` to close its connections.

    Args:
        model (`str`): The name of the model on the server. If another model answers, apart from a date, an owner or a
            tag that the server adds, the run stops.
        base_url (`str`, *optional*): Such as `http://localhost:8000/v1`, perhaps with `?api-version=...`; OpenAI's by
            default.
        price ([`~contextcir.chat.prices.Price`]): The price of tokens.
        key_file (`str` or `os.PathLike`, *optional*): A file with the key; by default the environment variable
            `OPENAI_API_KEY`. A server at a `base_url` may need none.
        temperature (`float`, *optional*): The server's own by default.
        max_tokens (`int`, defaults to 2048): The most tokens of an answer, including reasoning; the estimated cost of
            a request grows with it.
        max_image_side (`int`, defaults to 1024): In pixels; larger images are scaled down.
        timeout (`float`, defaults to 300): Seconds that one attempt may take.
        max_retries (`int`, defaults to 5): Retries by the client, with growing pauses.
        accept_model (`Sequence[str]`, *optional*): Names under which the model may answer.
        extra_headers (`Mapping[str, str]`, *optional*): Sent with each request.
        extra_body (`Mapping[str, Any]`, *optional*): Further keys of each request, such as `{"num_ctx": 8192}`; part
            of its id.
        insecure (`bool`, defaults to `False`): Whether a key may be sent to another machine unencrypted.

    Raises:
        [`~contextcir.chat.exchange.ChatStop`]: The file holds no key.
        ValueError: `extra_body` has a key that requests set themselves.
    """

    reports_sends = True  # to `contextcir.chat.attempts.on_send`

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        price: Price,
        key_file: str | os.PathLike | None = None,
        temperature: float | None = None,
        max_tokens: int = 2048,
        max_image_side: int = 1024,
        timeout: float = 300.0,
        max_retries: int = 5,
        accept_model: Sequence[str] = (),
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        insecure: bool = False,
    ):
        self.model = model
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        self.price = price
        self.max_tokens = max_tokens
        self.max_image_side = max_image_side
        self._temperature = {} if temperature is None else {"temperature": temperature}
        self._extra_body = dict(extra_body or {})
        if taken := sorted(self._extra_body.keys() & set(OWN_KEYS)):
            raise ValueError(f"extra_body has {', '.join(taken)}, which requests set themselves. Leave them out.")
        self._accept_model = tuple(accept_model)
        self._extra_headers = dict(extra_headers or {})
        self._key = read_key(key_file)
        self._secrets = secrets_of(self.base_url, self._key, self._extra_headers)
        self._options: dict[str, Any] = {"timeout": timeout, "max_retries": max_retries, "insecure": insecure}
        # The form of requests, which errors change. OpenAI's newer models reject the old name of the limit, and older
        # servers know only that one.
        limits = ("max_completion_tokens", "max_tokens")
        self._limit, self._other_limit = limits if self.base_url == OPENAI_URL else limits[::-1]
        self._limit_refused = self._schema_refused = False
        self._most_images = -1  # of a request that was answered
        self._pause = Pause()

    def __repr__(self) -> str:
        return f"ChatServer({self.model!r}, {self.address!r})"

    @property
    def address(self) -> str:
        """`str`: The address without a user and password."""
        return redact(self.base_url)

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: Settings that all answers in one output folder share."""
        return {
            "model": self.model,
            "service": "OpenAI" if self.base_url == OPENAI_URL else "a server at base_url",
            **self._temperature,
            "max_tokens": self.max_tokens,
            "max_image_side": self.max_image_side,
            **({"extra_body": self._extra_body} if self._extra_body else {}),
        }

    # --- a request ---------------------------------------------------------------------------------------------------

    def request_id(self, request: ChatRequest) -> str:
        """Compute the SHA-256, in hex, of everything that the answer depends on. Images are read, not decoded."""
        schema = request.schema and [request.schema.__name__, strict_schema(request.schema)]
        parameters = [self.model, self._temperature, self.max_tokens, self.max_image_side]
        if self._extra_body:
            parameters.append(sorted(self._extra_body.items()))
        texts = [request.system, request.prompt, request.attempt]
        digest = hashlib.sha256(json.dumps(["contextcir 1", parameters, schema, texts]).encode())
        for image in request.images:
            digest.update(image_digest(image))
        return digest.hexdigest()

    def body(self, request: ChatRequest, *, smaller: bool = False) -> dict[str, Any]:
        """
        Build the JSON body of a request: the same for a single request, a line of a batch and a dry run. `smaller`
        halves the sides of its images.

        Raises:
            [`~contextcir.data.images.ImageError`]: An image cannot be used.
        """
        in_prompt = self._schema_refused  # read once: another request may change it in the meantime
        messages: list[dict[str, Any]] = []
        prompt = unicode_text(request.prompt)
        if request.schema and (in_prompt or request.attempt):
            prompt += "\n\n" + schema_prompt(request.schema)
        if request.system:
            messages.append({"role": "system", "content": unicode_text(request.system)})
        urls = [image_url(image, self.max_image_side, smaller=smaller) for image in request.images]
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": prompt}] if parts else prompt})
        body: dict[str, Any] = {"model": self.model, "messages": messages, **self._temperature, **self._extra_body}
        body[self._other_limit if self._limit_refused else self._limit] = self.max_tokens
        if request.schema and not in_prompt:
            schema = {"name": request.schema.__name__, "strict": True, "schema": sent_schema(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def estimate(self, request: ChatRequest) -> float:
        """Compute an upper bound in USD: a text has at most as many tokens as bytes, an answer `max_tokens`."""
        text = unicode_text(request.system + request.prompt)
        if request.schema:  # sent in the format, in the prompt, or in both
            text += 2 * schema_prompt(request.schema)
        tokens = len(text.encode()) + 2 * _MESSAGE_BYTES + len(request.images) * self.price.image_tokens
        return self.price.usd(tokens, self.max_tokens)

    async def complete(self, request: ChatRequest, on_response: Callable[[bool], None] | None = None) -> Outcome:
        """Send a request and return its outcome. Arguments and errors as for [`ChatBackend.complete`]."""
        attempts = Attempts(on_response)
        current_attempts.set(attempts)
        try:
            outcome = await self._complete(request, attempts)
        except ChatStop as stop:
            stop.usd += attempts.chargeable * self.estimate(request)
            raise
        return replace(outcome, lost_usd=attempts.chargeable * self.estimate(request))

    async def _complete(self, request: ChatRequest, attempts: Attempts) -> Outcome:
        """Send a request, in other forms and after pauses where the server asks for these."""
        client = self.client
        from contextcir.chat.connection import ConnectionLost, post  # imports openai

        tried: set[str] = set()
        since: float | None = None  # the server has been busy
        while True:
            try:
                body = await asyncio.to_thread(self.body, request, smaller="large" in tried)  # decodes images
                await self._pause.over()
                response = await post(client, "/chat/completions", body)
            except ImageError as error:
                return Outcome("failed", error=printable(str(error)))
            except ConnectionLost as error:
                return Outcome("failed", error=self.say(f"{self.address}: {error}"))
            attempts.chargeable -= response.status < 400
            outcome = await asyncio.to_thread(self.read_reply, *response, request, tried)  # may have to be repaired
            if isinstance(outcome, Outcome):
                return outcome
            if outcome is not None:  # the server is busy
                since = since or time.monotonic()
                self._pause.extend(outcome, since, self.address)

    # --- a response --------------------------------------------------------------------------------------------------

    def read_reply(
        self, status: int, payload: Any, seconds: float | None, request: ChatRequest, tried: set[str]
    ) -> Outcome | float | None:
        """
        Read a response, alone or in a batch.

        Args:
            status (`int`): The HTTP status.
            payload (`Any`): The JSON or the text of the body.
            seconds (`float`, *optional*): How long the server asks to wait.
            request ([`~contextcir.chat.exchange.ChatRequest`]): The request.
            tried (`set[str]`): The forms in which the request was sent because of errors; added to.

        Returns:
            The outcome, or for a request that is to be sent again, the seconds to wait if the server is busy, else
            `None`.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: No further request can succeed.
        """
        if status == 200 and not error_inside(payload):
            return self.read_response(payload, request)
        error = read_error(status, payload, seconds)
        tokens = read_usage(payload.get("usage"), "") if isinstance(payload, dict) else None
        usd = self.price.usd(*tokens) if tokens else 0.0
        kind = kind_of(error)
        if kind == "busy":
            return MIN_PAUSE if error.seconds is None else error.seconds
        if self._changes_form(kind, error, request, tried):
            return None
        return self._outcome(kind, error, request, usd)

    def read_response(self, payload: Any, request: ChatRequest) -> Outcome:
        """
        Return the outcome of a chat completion.

        Args:
            payload (`dict`): The body of a response with status 200.
            request ([`~contextcir.chat.exchange.ChatRequest`]): The request.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: Another model answered.
        """
        usd = self.estimate(request)
        try:
            outcome = read_completion(payload, request.schema)
        except ValueError as error:
            return Outcome("failed", error=self.say(f"{self.address}: {error}"), usd=usd, doubtful=usd > 0)
        if outcome.doubtful:
            outcome = replace(outcome, usd=usd, doubtful=usd > 0)
        else:
            outcome = replace(outcome, usd=self.price.usd(outcome.prompt_tokens, outcome.completion_tokens))
        answered = outcome.model or self.model
        if not same_model(self.model, answered) and answered not in self._accept_model:
            name = printable(answered)
            raise ChatStop(
                "model",
                f"Requested {self.model!r} at {self.address}, but {name!r} answered. If that is the model you want,"
                f" add --accept_model {name}; else give the name of the model as the server calls it.",
                outcome.usd,
            )
        self._most_images = max(self._most_images, len(request.images))
        return replace(outcome, error=self.say(outcome.error))

    def _changes_form(self, kind: str, error: Error, request: ChatRequest, tried: set[str]) -> bool:
        """Return whether a request is to be sent again in another form, in which later ones are sent at once."""
        if refuses(error, self._limit):
            kind = "limit"
            self._limit_refused = True
        elif kind == "schema" and request.schema:
            self._schema_refused = True
        elif not (kind == "large" and request.images):
            return False
        again = kind not in tried
        tried.add(kind)
        return again

    def _outcome(self, kind: str, error: Error, request: ChatRequest, usd: float) -> Outcome:
        """Return the outcome of an error that concerns one request, or stop."""
        text = self.say(f"{self.address} returned {error.status}: {error.message or 'no message'}")
        options = [*self._temperature, *self._extra_body]
        if name := next((name for name in options if refuses(error, name)), None):
            raise ChatStop("option", f"The model takes no {name} ({text}). Leave it out.", usd) from None
        if kind == "filtered":
            return Outcome("filtered", error=text, usd=usd)
        if kind == "invalid_json":  # the server's own check of the schema
            return Outcome("malformed", error=text, usd=usd)
        stop = stop_for(kind, text, self.model, len(request.images))
        if stop and (kind in ALWAYS or self._most_images < enough_images(kind)):
            stop.usd = usd
            raise stop from None  # the client's exception repeats the server's message, with a key that may be in it
        return Outcome("failed", error=text, usd=usd)

    def say(self, text: str) -> str:
        """Return the words of a server without secrets, in one line that is safe to print."""
        return printable(conceal(text, self._secrets))

    # --- the connection ----------------------------------------------------------------------------------------------

    @cached_property
    def client(self) -> Any:
        """`openai.AsyncOpenAI`: Created at the first request: estimates and dry runs need neither library nor key."""
        try:
            from contextcir.chat.connection import connect
        except ImportError as error:
            raise ImportError(f"Chat servers need openai ({error}): pip install contextcir[captions]") from error
        if not self._key and self.base_url == OPENAI_URL:
            raise ChatStop("key", "There is no key. Set OPENAI_API_KEY, or give a file with the key.") from None
        private = bool(self._secrets)
        return connect(self.base_url, self._key, headers=self._extra_headers, private=private, **self._options)

    async def close(self) -> None:
        """Close the connections."""
        if "client" in self.__dict__:
            await self.client.close()

    async def __aexit__(self, *_: object) -> None:
        await self.close()
