"""A model on a chat server: send a request, and return one of six outcomes or raise a reason to stop.

The server is OpenAI's or any that implements its chat completions (vLLM, llama.cpp, Ollama, a router). Only this file
imports the `openai` client, which retries on its own (408, 409, 429, 5xx, time-outs, Retry-After). Callers such as
caption generation (good4cir, section 3) get an [`~contextcir.chat.exchange.Ask`] and know no server, key or budget.

The id of a request is the SHA-256 of everything that its answer depends on: model, parameters, schema, prompts and the
content of the images. The address is not part of it, since a server of one's own moves with every job. Neither is the
way in which a schema is sent, which the server decides. Left out: streams, tools, and several answers to one request.
"""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from contextcir.chat.answers import read_completion, schema_prompt, strict_schema
from contextcir.chat.attempts import QUOTA, Attempts, check_response, count_request, current_attempts
from contextcir.chat.exchange import ChatRequest, ChatStop, Outcome
from contextcir.chat.images import image_url
from contextcir.chat.prices import Price, without_date
from contextcir.data.content import image_digest
from contextcir.data.images import ImageError
from contextcir.runtime.secrets import redact

OPENAI_URL = "https://api.openai.com/v1"  # explicit, since the client would follow OPENAI_BASE_URL
MAX_ERROR = 500  # characters of a server's error message

_SCHEMA_REJECTED = re.compile(r"response_format|json_schema|structured output|guided|grammar", re.IGNORECASE)
_FILTERED = {"content_filter", "content_policy_violation"}
_MESSAGE_BYTES = 64  # upper bound of the tokens of a message and its role beside the text


class ChatServer(AbstractAsyncContextManager):
    """
    A model on a server, a [`~contextcir.chat.exchange.ChatBackend`]. Use it as `async with` to close its connections.

    Args:
        model (`str`): The name of the model on the server. If another model answers, apart from a date at the end of
            its name, the run stops.
        base_url (`str`, *optional*): Such as `http://localhost:8000/v1`; OpenAI's by default.
        price ([`~contextcir.chat.prices.Price`]): The price of tokens.
        key_file (`str` or `os.PathLike`, *optional*): A file with the key; by default the environment variable
            `OPENAI_API_KEY`. A server at a `base_url` may need none.
        temperature (`float`, *optional*): The server's own by default.
        max_tokens (`int`, defaults to 2048): The most tokens of an answer, including reasoning; the estimated cost of
            a request grows with it.
        max_image_side (`int`, defaults to 1024): In pixels; larger images are scaled down.
        timeout (`float`, defaults to 300): Seconds that one attempt may take.
        max_retries (`int`, defaults to 5): Retries by the client, with growing pauses.

    Raises:
        [`~contextcir.chat.exchange.ChatStop`]: The file holds no key.
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
    ):
        self.model = model
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        self.price = price
        self.max_tokens = max_tokens
        self.max_image_side = max_image_side
        self._temperature = {} if temperature is None else {"temperature": temperature}
        self._schema_in_prompt = False  # until the server rejects a schema
        self._key = _read_key(key_file)
        self._timeout, self._max_retries = timeout, max_retries

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
        }

    # --- a request ---------------------------------------------------------------------------------------------------

    def request_id(self, request: ChatRequest) -> str:
        """Compute the SHA-256, in hex, of everything that the answer depends on. Images are read, not decoded."""
        schema = request.schema and [request.schema.__name__, strict_schema(request.schema)]
        parameters = [self.model, self._temperature, self.max_tokens, self.max_image_side]
        texts = [request.system, request.prompt, request.attempt]
        digest = hashlib.sha256(json.dumps(["contextcir 1", parameters, schema, texts]).encode())
        for image in request.images:
            digest.update(image_digest(image))
        return digest.hexdigest()

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """
        Build the JSON body of a request: the same for a single request, a line of a batch and a dry run.

        Raises:
            [`~contextcir.data.images.ImageError`]: An image cannot be used.
        """
        in_prompt = self._schema_in_prompt  # read once: another request may change it in the meantime
        messages: list[dict[str, Any]] = []
        prompt = request.prompt
        if request.schema and (in_prompt or request.attempt):
            prompt += "\n\n" + schema_prompt(request.schema)
        if request.system:
            messages.append({"role": "system", "content": request.system})
        urls = [image_url(image, self.max_image_side) for image in request.images]
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": prompt}] if parts else prompt})
        body: dict[str, Any] = {"model": self.model, "messages": messages, **self._temperature}
        # OpenAI's newer models reject the old name of the limit, and older servers know only that one.
        body["max_completion_tokens" if self.base_url == OPENAI_URL else "max_tokens"] = self.max_tokens
        if request.schema and not in_prompt:
            schema = {"name": request.schema.__name__, "strict": True, "schema": strict_schema(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def estimate(self, request: ChatRequest) -> float:
        """Compute an upper bound in USD: a text has at most as many tokens as bytes, an answer `max_tokens`."""
        text = request.system + request.prompt
        if request.schema:  # sent in the format, in the prompt, or in both
            text += 2 * schema_prompt(request.schema)
        tokens = len(text.encode()) + 2 * _MESSAGE_BYTES + len(request.images) * self.price.image_tokens
        return self.price.usd(tokens, self.max_tokens)

    # --- an answer ---------------------------------------------------------------------------------------------------

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
        openai = _openai()
        try:
            body = await asyncio.to_thread(self.body, request)  # decodes and encodes images
            try:  # the client's typed methods spend a millisecond on the images
                payload = await self.client.post("/chat/completions", cast_to=object, body=body)
            except json.JSONDecodeError as error:
                payload = error.doc
            attempts.chargeable -= 1
            return self.read_response(payload, request)
        except ImageError as error:
            return Outcome("failed", error=str(error))
        except openai.APIStatusError as error:
            if "response_format" in body and self.rejects_schema(error.status_code, str(error)):
                return await self._complete(request, attempts)
            return self.read_error(error.status_code, error.body)
        except openai.APIConnectionError as error:
            return self._connection_error(error)

    def read_response(self, payload: Any, request: ChatRequest) -> Outcome:
        """
        Return the outcome of a chat completion.

        Args:
            payload (`dict`): The body of a response with status 200, alone or in a batch; text if it is not JSON.
            request ([`~contextcir.chat.exchange.ChatRequest`]): The request.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: Another model answered.
        """
        usd = self.estimate(request)
        try:
            outcome = read_completion(payload, request.schema)
        except ValueError as error:
            return Outcome("failed", error=self._redact(f"{self.address}: {error}"), usd=usd)
        if payload.get("usage"):
            usd = self.price.usd(outcome.prompt_tokens, outcome.completion_tokens)
        answered = outcome.model or self.model
        if self.model not in (answered, without_date(answered)):
            raise ChatStop(
                "model",
                f"Requested {self.model!r} at {self.address}, but {answered!r} answered. Give the name of the model"
                " that is to answer, as the server calls it.",
                usd,
            )
        return replace(outcome, error=self._redact(outcome.error), usd=usd)

    def read_error(self, status: int, body: Any) -> Outcome:
        """
        Return the outcome of an error response.

        Args:
            status (`int`): The HTTP status.
            body (`dict` or `str`): The body of the response, or the `error` inside of it.

        Raises:
            [`~contextcir.chat.exchange.ChatStop`]: The key is wrong, the model unknown, or the quota exhausted.
        """
        error = body.get("error", body) if isinstance(body, dict) else body
        error = error if isinstance(error, dict) else {"message": error}
        codes = {str(error.get("code")), str(error.get("type"))}
        text = self._redact(f"{self.address} returned {status}: {error.get('message') or 'no message'}")
        # "from None": the client's exception repeats the server's message, with a key that may be in it
        if status == 402 or codes & set(QUOTA):
            raise ChatStop("quota", f"The quota is exhausted ({text}). Raise it and run again.") from None
        if status in (401, 403):
            raise ChatStop(
                "key", f"The key was rejected ({text}). Set OPENAI_API_KEY or give a file with the key."
            ) from None
        if status == 404:
            raise ChatStop(
                "model", f"There is no model {self.model!r} ({text}). Check the model and the base_url."
            ) from None
        return Outcome("filtered" if codes & _FILTERED else "failed", error=text)

    def rejects_schema(self, status: int, message: str) -> bool:
        """Return whether an error says that the server supports no schemas. If so, later requests send the schema in
        the prompt."""
        rejected = status in (400, 422, 501) and bool(_SCHEMA_REJECTED.search(message))
        self._schema_in_prompt |= rejected
        return rejected

    def _connection_error(self, error: Exception) -> Outcome:
        """Stop if no connection was made. A request whose connection broke or timed out may have been charged."""
        cause = type(error.__cause__).__name__
        if cause.startswith("Connect"):  # ConnectError, ConnectTimeout
            raise ChatStop(
                "unreachable", f"There is no server at {self.address}. Start it, or check the base_url."
            ) from None
        return Outcome("failed", error=self._redact(f"{self.address}: {error} ({cause})"))

    def _redact(self, text: str) -> str:
        text = text.replace(self._key, "[key]") if self._key else text
        return redact(text)[:MAX_ERROR]

    # --- the connection ----------------------------------------------------------------------------------------------

    @cached_property
    def client(self) -> Any:
        """`openai.AsyncOpenAI`: Created at the first request: estimates and dry runs need neither library nor key."""
        openai = _openai()
        if not self._key and self.base_url == OPENAI_URL:
            raise ChatStop("key", "There is no key. Set OPENAI_API_KEY, or give a file with the key.") from None
        timeout = openai.Timeout(self._timeout, connect=10.0)
        hooks = {"request": [count_request], "response": [check_response]}
        return openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.base_url,
            max_retries=self._max_retries,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks=hooks),
        )

    async def close(self) -> None:
        """Close the connections."""
        if "client" in self.__dict__:
            await self.client.close()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise errors of the `openai` client as a [`~contextcir.chat.exchange.ChatStop`], outside of requests."""
        openai = _openai()
        try:
            yield
        except openai.APIStatusError as error:
            if error.status_code == 404:  # a batch or a file, since these calls name no model
                text = self._redact(f"{self.address} returned 404: {error.message}")
                raise ChatStop("batch", f"There is no such batch or file ({text}). Check the key.") from None
            outcome = self.read_error(error.status_code, error.body)
            raise ChatStop("unreachable", outcome.error) from None
        except openai.APIConnectionError as error:
            raise ChatStop("unreachable", self._connection_error(error).error) from None


def _openai() -> Any:
    """Import the library, which takes a second."""
    try:
        import openai
    except ImportError as error:
        raise ImportError(f"Chat servers need openai ({error}): pip install contextcir[captions]") from error
    return openai


def _read_key(key_file: str | os.PathLike | None) -> str:
    if key_file is None:
        return os.environ.get("OPENAI_API_KEY", "").strip()
    try:
        with open(key_file, encoding="utf-8") as file:
            key = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ChatStop("key", f"The file {key_file} cannot be read ({type(error).__name__}).") from None
    if len(key.split()) != 1:
        raise ChatStop("key", f"The file {key_file} must hold one key and nothing else.")
    return key
