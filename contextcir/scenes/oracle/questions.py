"""A chat request as the oracle understands it: the schema to fill in, its data, its pictures, its own dice.

Data stands in the prompt between tags, `<instruction>...</instruction>`, in JSON where it is more than a text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import random
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from contextcir.data.images import ImageError
from contextcir.scenes.truth import Picture, Truth, UnknownPictureError


class BadRequestError(ValueError):
    """A request that cannot be answered; `code` is for machines, the message for people."""

    def __init__(self, message: str, code: str = "invalid_request"):
        super().__init__(message)
        self.code = code


def digest_of(body: Mapping[str, Any]) -> str:
    """A hash of a request's content, however its JSON is laid out."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Question:
    """
    One request.

    Args:
        body (mapping): The JSON of `POST /v1/chat/completions`.
        truth (`Truth`): What its pictures show.
        seed (`int`): The server's.

    Raises:
        [`BadRequestError`]: It holds no messages, or parts that are neither text nor images.
    """

    def __init__(self, body: Mapping[str, Any], truth: Truth, seed: int):
        self.truth = truth
        self.digest = digest_of(body)
        self.rng = random.Random(f"{seed} {self.digest}")
        texts, self._urls = [], []
        try:
            for message in body["messages"]:
                content = message["content"]
                for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                    if part["type"] == "text":
                        texts.append(part["text"])
                    else:
                        self._urls.append(part["image_url"]["url"])
        except (KeyError, TypeError) as error:
            raise BadRequestError(f"messages are missing or not as a chat has them ({error!r}).") from error
        self.text = "\n".join(texts)
        self.schema = self._schema(body.get("response_format") or {})

    def _schema(self, response_format: Mapping[str, Any]) -> str:
        """The name of the schema to answer by; in the prompt it stands in `<schema name="...">`. None: free text."""
        if "json_schema" in response_format:
            return response_format["json_schema"]["name"]
        found = re.findall(r'<schema name="(\w+)">', self.text)
        return found[-1] if found else ""

    def data(self, tag: str) -> str:
        """What stands between `<tag>` and `</tag>`, the last time; empty where it does not occur."""
        before, closing, _ = self.text.rpartition(f"</{tag}>")
        return before.rpartition(f"<{tag}>")[2].strip() if closing else ""

    def json(self, tag: str) -> list:
        """The JSON list between `<tag>` and `</tag>`; empty where it does not occur."""
        try:
            found = json.loads(self.data(tag) or "[]")
        except ValueError as error:
            raise BadRequestError(f"<{tag}> does not hold JSON ({error}).") from error
        if not isinstance(found, list):
            raise BadRequestError(f"<{tag}> holds {type(found).__name__}, expected a list.")
        return found

    @cached_property
    def pictures(self) -> list[Picture]:
        """The request's images, recognised."""
        try:
            return [self.truth.find(_decode(url)) for url in self._urls]
        except UnknownPictureError as error:
            raise BadRequestError(str(error), "unknown_picture") from error
        except ImageError as error:
            raise BadRequestError(str(error), "invalid_image") from error

    def only_picture(self) -> Picture:
        """The one image of a question about one."""
        if len(self._urls) != 1:
            raise BadRequestError(f"{self.schema or 'a description'} is about one image, got {len(self._urls)}.")
        return self.pictures[0]

    @property
    def num_images(self) -> int:
        """`int`: How many images the request holds."""
        return len(self._urls)


def _decode(url: str) -> bytes:
    head, _, content = url.partition(";base64,")
    if not head.startswith("data:image/"):
        raise BadRequestError(f"image_url is {url[:40]!r}, expected data:image/...;base64,...", "invalid_image_url")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise BadRequestError(f"image_url is not base64 ({error}).", "invalid_image_url") from error
