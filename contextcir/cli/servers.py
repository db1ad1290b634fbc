"""Options of chat servers: where they are, what they may cost, and how they are asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.hf_argparser import HfArg

from contextcir.chat.prices import FREE, Price, check_limit, price_of

if TYPE_CHECKING:
    from contextcir.chat.server import ChatServer


@dataclass
class ServerArguments:
    """Which server is asked, how, and what it may cost."""

    _argument_group_name = "Chat server"

    base_url: str | None = HfArg(default=None, help="Address, such as http://localhost:8000/v1; OpenAI's by default.")
    key_file: str | None = HfArg(default=None, help="File with the key; by default the variable OPENAI_API_KEY.")
    max_usd: float | None = HfArg(default=None, help="Most that the folder may cost in all, in USD.")
    usd_per_million: list[float] | None = HfArg(
        default=None, help="Price of a million tokens of prompts and of answers, if not the table's."
    )
    free: bool = HfArg(default=False, help="Tokens cost nothing, as on a server of your own.")
    max_tokens: int = HfArg(default=2048, help="Most tokens of an answer. Longer ones are cut and count as failed.")
    temperature: float | None = HfArg(default=None, help="Temperature; the server's own by default.")
    timeout: float = HfArg(default=300.0, help="Seconds that one attempt may take, from the first byte to the last.")
    concurrency: int = HfArg(default=32, help="Most requests at a time, to each server.")
    accept_model: list[str] | None = HfArg(
        default=None, help="Names under which the model may answer: those of a deployment, a router or an alias."
    )
    extra_header: list[str] | None = HfArg(default=None, help="NAME=VALUE, headers of each request.")
    extra_body: dict | str | None = HfArg(
        default=None, help="""JSON object, further keys of each request, such as '{"options": {"num_ctx": 8192}}'."""
    )
    insecure: bool = HfArg(default=False, help="Send a key to another machine unencrypted, over http.")

    def __post_init__(self):
        if self.usd_per_million and len(self.usd_per_million) != 2:
            raise ValueError(f"usd_per_million has two prices, of prompts and of answers, got {self.usd_per_million}.")
        if self.max_usd is not None:
            check_limit(self.max_usd)
        if self.free and self.max_usd is not None:
            raise ValueError("free and max_usd contradict each other: what costs nothing needs no limit.")
        if self.usd_per_million:
            Price(self.usd_per_million[0], self.usd_per_million[1])  # which refuses what is no price
        if self.free and self.usd_per_million:
            raise ValueError("free and usd_per_million contradict each other. Leave one of them out.")
        self.headers()
        self.body()

    def headers(self) -> dict[str, str]:
        """Return the further headers of requests. Raises a `ValueError` if one is no NAME=VALUE."""
        pairs = [text.partition("=") for text in self.extra_header or []]
        for name, equals, value in pairs:
            if not (name.replace("-", "").replace("_", "").isalnum() and name.isascii() and equals):
                raise ValueError(f"extra_header is NAME=VALUE, got {name!r} and {len(value)} characters.")
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"The value of the header {name} has characters that no header may have.")
        return {name: value for name, _, value in pairs}

    def body(self) -> dict[str, Any]:
        """Return the further keys of requests. Raises a `ValueError` if they are no JSON object."""
        try:
            body = json.loads(self.extra_body) if isinstance(self.extra_body, str) else self.extra_body or {}
        except ValueError as error:
            raise ValueError(f"extra_body is no JSON ({error}): {self.extra_body}") from None
        if not isinstance(body, dict):
            raise ValueError(f"extra_body is a JSON object, got {self.extra_body}.")
        return body

    def build(self, model: str, base_url: str | None = None, *, batch: bool = False) -> ChatServer:
        """
        Connect to a model, with its price.

        Args:
            model (`str`): As the server calls it.
            base_url (`str`, *optional*): Another address than that of the options.
            batch (`bool`, defaults to `False`): Whether requests go in batches, which cost less.

        Returns:
            [`~contextcir.chat.server.ChatServer`]

        Raises:
            `ValueError`: The price of the model is not known.
        """
        from contextcir.chat.server import ChatServer

        if self.free:
            price = FREE
        elif self.usd_per_million:
            prompt, answer = self.usd_per_million
            price = Price(prompt, answer)
        else:
            price = price_of(model, batch=batch)
        return ChatServer(
            model,
            base_url or self.base_url,
            price=price,
            key_file=self.key_file,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            timeout=self.timeout,
            accept_model=self.accept_model or (),
            extra_headers=self.headers(),
            extra_body=self.body(),
            insecure=self.insecure,
        )
