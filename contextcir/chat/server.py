"""The one door to chat servers: a question in, and one of six outcomes out, or a stop that says why to stop.

A server is OpenAI's or any that speaks its chat completions (vLLM, llama.cpp, Ollama, a router). The `openai`
client, which only this file imports, retries by itself (408, 409, 429, 5xx, time-outs, Retry-After). Whoever asks,
such as caption generation (good4cir, section 3), is given an [`Ask`] and sees no server, key, budget or cache.

A request's id is the SHA-256 of what its answer depends on: model, parameters, schema, prompts and the content of the
images. The address is not part of it, since a server of one's own moves with every job, nor the way a schema travels,
which the server decides. Left out: streams, tools, and several answers to one request.
"""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from contextcir.chat.answers import read_completion, schema_prompt, strict_schema
from contextcir.chat.attempts import QUOTA, Attempts, count_request, current_attempts, judge_response
from contextcir.chat.exchange import OUTCOMES, STOPS, Ask, ChatRequest, ChatStop, Outcome
from contextcir.chat.images import image_digest, image_url
from contextcir.data.images import ImageError

__all__ = ["MAX_ERROR", "OPENAI_URL", "OUTCOMES", "STOPS", "Ask", "ChatRequest", "ChatServer", "ChatStop", "Outcome"]

OPENAI_URL = "https://api.openai.com/v1"  # said aloud: the client would follow OPENAI_BASE_URL, and ids would not tell

MAX_ERROR = 500  # characters of what a server says

_DATE = re.compile(r"(-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}))?")
_SECRET = re.compile(r"\bsk-[\w*.-]+|(?<=Bearer )\S+")
_SCHEMA_REFUSED = re.compile(r"response_format|json_schema|structured output|guided|grammar", re.IGNORECASE)
_FILTERED = ("content_filter", "content_policy_violation")
_MESSAGE_BYTES = 64  # what a message and its role cost beside their text, in tokens, with room to spare


class ChatServer:
    """
    A model on a server.

    Args:
        model (`str`): As the server calls it. An answer by another model, but for a date behind its name, is a
            [`ChatStop`]: pass the name that the server uses.
        base_url (`str`, *optional*): Such as `http://localhost:8000/v1`; OpenAI's by default.
        key_file (`str`, *optional*): A file with the key, which is otherwise the variable `OPENAI_API_KEY`. A server
            at a `base_url` may do without.
        price ([`~contextcir.chat.prices.Price`]): What tokens cost.
        temperature (`float`, *optional*): The server's own by default.
        max_tokens (`int`, defaults to 2048): Of an answer, thinking included; what a request may cost grows with it.
        max_image_side (`int`, defaults to 1024): In pixels; larger images are scaled down.
        schema_support (`str`, defaults to `"auto"`): `"prompt"` puts the schema in the prompt at once; `"auto"` does
            so after the server has turned down a schema.
        timeout (`float`, defaults to 300): Seconds that one attempt may take.
        max_retries (`int`, defaults to 5): By the client, with growing pauses.

    Raises:
        [`ChatStop`]: The file holds no key.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        price,
        key_file: str | os.PathLike | None = None,
        temperature: float | None = None,
        max_tokens: int = 2048,
        max_image_side: int = 1024,
        schema_support: Literal["auto", "prompt"] = "auto",
        timeout: float = 300.0,
        max_retries: int = 5,
    ):
        self.model = model
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        self.price = price
        self.max_tokens = max_tokens
        self.max_image_side = max_image_side
        self._temperature = {} if temperature is None else {"temperature": temperature}
        self._schema_in_prompt = schema_support == "prompt"
        self._key = _read_key(key_file)
        self._timeout, self._max_retries = timeout, max_retries

    def __repr__(self) -> str:
        return f"ChatServer({self.model!r}, {self.address!r})"

    @property
    def address(self) -> str:
        """The server without the user and password that an address may hold."""
        parts = urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    @property
    def settings(self) -> dict[str, Any]:
        """What all answers of one output folder should have in common."""
        return {
            "model": self.model,
            "service": "OpenAI" if self.base_url == OPENAI_URL else "a server at base_url",
            **self._temperature,
            "max_tokens": self.max_tokens,
            "max_image_side": self.max_image_side,
        }

    # --- a request ---------------------------------------------------------------------------------------------------

    def request_id(self, request: ChatRequest) -> str:
        """
        SHA-256, in hex, of all that the answer depends on. Reads the images and decodes none.

        Raises:
            [`~contextcir.data.images.ImageError`]: An image cannot be read.
        """
        schema = request.schema and [request.schema.__name__, strict_schema(request.schema)]
        parameters = [self.model, self._temperature, self.max_tokens, self.max_image_side]
        texts = [request.system, request.prompt, request.attempt]
        digest = hashlib.sha256(json.dumps(["contextcir 1", parameters, schema, texts]).encode())
        for image in request.images:
            digest.update(image_digest(image))
        return digest.hexdigest()

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """
        The JSON body of a request: the same for a single request, for a line of a batch and for a dry run.

        Raises:
            [`~contextcir.data.images.ImageError`]: An image cannot be used.
        """
        body = {"model": self.model, "messages": [], **self._temperature}
        # OpenAI's newer models refuse the old name of the limit, and older servers know no other.
        body["max_completion_tokens" if self.base_url == OPENAI_URL else "max_tokens"] = self.max_tokens
        prompt = request.prompt
        if request.schema and not self._schema_in_prompt:
            schema = {"name": request.schema.__name__, "strict": True, "schema": strict_schema(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.schema and (self._schema_in_prompt or request.attempt):
            prompt += "\n\n" + schema_prompt(request.schema)
        if request.system:
            body["messages"].append({"role": "system", "content": request.system})
        urls = [image_url(image, self.max_image_side) for image in request.images]
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [*parts, {"type": "text", "text": prompt}] if parts else prompt
        body["messages"].append({"role": "user", "content": content})
        return body

    def estimate(self, request: ChatRequest) -> float:
        """An upper bound in USD: no text has more tokens than bytes, and no answer more than `max_tokens`."""
        text = request.system + request.prompt
        if request.schema:  # sent in the format, in the prompt, or in both
            text += 2 * schema_prompt(request.schema)
        tokens = len(text.encode()) + 2 * _MESSAGE_BYTES + len(request.images) * self.price.image_tokens
        return self.price.usd(tokens, self.max_tokens)

    # --- an answer ---------------------------------------------------------------------------------------------------

    async def complete(self, request: ChatRequest, on_response: Callable[[bool], None] | None = None) -> Outcome:
        """
        Send a request and wait for what becomes of it.

        Args:
            request ([`ChatRequest`]): The question.
            on_response (`Callable[[bool], None]`, *optional*): Called at each of the server's responses, retried ones
                included, with whether it was a 429.

        Raises:
            [`ChatStop`]: Going on is pointless.
        """
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
            payload = await self._post(body)
            attempts.chargeable -= 1
            return self.read_response(payload, request)
        except ImageError as error:
            return Outcome("failed", error=str(error))
        except openai.APIStatusError as error:
            if "response_format" in body and self.turns_down_schema(error.status_code, str(error)):
                return await self._complete(request, attempts)
            return self.read_error(error.status_code, error.body)
        except openai.APIConnectionError as error:
            return self._unconnected(error)

    async def _post(self, body: dict[str, Any]) -> Any:
        try:  # the client's typed methods take a millisecond to walk through the images
            return await self.client.post("/chat/completions", cast_to=object, body=body)
        except json.JSONDecodeError as error:
            return error.doc

    def read_response(self, payload: Any, request: ChatRequest) -> Outcome:
        """
        The outcome that a chat completion tells of.

        Args:
            payload (`dict`): The body of a response with status 200, alone or in a batch; text where it is no JSON.
            request ([`ChatRequest`]): What was asked.

        Raises:
            [`ChatStop`]: Another model has answered.
        """
        try:
            read = read_completion(payload, request.schema)
        except ValueError as error:
            return Outcome("failed", error=self._redact(f"{self.address}: {error}"), usd=self.estimate(request))
        usd = self.price.usd(read["prompt_tokens"], read["completion_tokens"])
        if not payload.get("usage"):
            usd = self.estimate(request)
        self._check_model(read["model"] or self.model, usd)
        return Outcome(**read | {"error": self._redact(read["error"])}, usd=usd)

    def read_error(self, status: int, body: Any) -> Outcome:
        """
        The outcome that an error of the server tells of.

        Args:
            status (`int`): Of HTTP.
            body (`dict` or `str`): Of the response, or the `error` inside of it.

        Raises:
            [`ChatStop`]: The key is wrong, the model unknown, or the quota exhausted.
        """
        error = body.get("error", body) if isinstance(body, dict) else body
        error = error if isinstance(error, dict) else {"message": error}
        codes = {str(error.get("code")), str(error.get("type"))}
        said = self._redact(f"{self.address} said {status}: {error.get('message') or 'nothing more'}")
        # "from None": what the client raised repeats what the server said, word for word
        if status == 402 or codes & set(QUOTA):
            raise ChatStop("quota", f"The quota is exhausted ({said}). Raise it and run again.") from None
        if status in (401, 403):
            raise ChatStop(
                "key", f"The key was turned down ({said}). Set OPENAI_API_KEY or give a file with the key."
            ) from None
        if status == 404:
            raise ChatStop(
                "model", f"There is no model {self.model!r} ({said}). Check the model and the base_url."
            ) from None
        return Outcome("filtered" if codes & set(_FILTERED) else "failed", error=said)

    def turns_down_schema(self, status: int, message: str) -> bool:
        """Whether an error says that the server knows no schemas. From then on they travel in the prompt."""
        turned_down = status in (400, 422, 501) and bool(_SCHEMA_REFUSED.search(message))
        self._schema_in_prompt |= turned_down
        return turned_down

    def _check_model(self, answered: str, usd: float) -> None:
        if not answered.startswith(self.model) or not re.fullmatch(_DATE, answered[len(self.model) :]):
            raise ChatStop(
                "model",
                f"Asked {self.model!r} at {self.address}, and {answered!r} answered. Pass the name of the model that"
                " is to answer, as the server calls it.",
                usd,
            )

    def _unconnected(self, error: Exception) -> Outcome:
        """A server that took no connection is not there; one that was cut off or kept silent may have charged."""
        cause = type(error.__cause__).__name__
        if cause.startswith("Connect"):  # ConnectError, ConnectTimeout
            raise ChatStop(
                "unreachable", f"There is no server at {self.address}. Start it, or check the base_url."
            ) from None
        return Outcome("failed", error=self._redact(f"{self.address}: {error} ({cause})"))

    def _redact(self, text: str) -> str:
        text = text.replace(self._key, "[key]") if self._key else text
        return _SECRET.sub("[key]", text)[:MAX_ERROR]

    # --- the connection ----------------------------------------------------------------------------------------------

    @cached_property
    def client(self):
        """The `openai` client, made at the first request: estimates and dry runs need neither library nor key."""
        openai = _openai()
        if not self._key and self.base_url == OPENAI_URL:
            raise ChatStop("key", "There is no key. Set OPENAI_API_KEY, or give a file with the key.") from None
        timeout = openai.Timeout(self._timeout, connect=10.0)
        hooks = {"request": [count_request], "response": [judge_response]}
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

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    @contextmanager
    def speaking(self):
        """A context in which the faults of the `openai` client become a [`ChatStop`]: for what is not a request."""
        openai = _openai()
        try:
            yield
        except openai.APIStatusError as error:
            if error.status_code == 404:  # not the model, which no batch or file is asked for
                said = self._redact(f"{self.address} said 404: {error.message}")
                raise ChatStop("batch", f"The batch or its file is not there ({said}). Is it another key's?") from None
            outcome = self.read_error(error.status_code, error.body)
            raise ChatStop("unreachable", outcome.error) from None
        except openai.APIConnectionError as error:
            raise ChatStop("unreachable", self._unconnected(error).error) from None


def _openai():
    """The library, which takes a second to import."""
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
        raise ChatStop("key", f"The file {key_file} does not hold a key and nothing else.")
    return key
