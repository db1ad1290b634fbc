"""A parsed chat request: its schema, the data in its prompt, its pictures, and its random generator.

The prompt holds data between tags, `<instruction>...</instruction>`. Data other than text are in JSON.
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
    """A request that cannot be answered, with an error `code`."""

    def __init__(self, message: str, code: str = "invalid_request"):
        super().__init__(message)
        self.code = code


def digest_of(body: Mapping[str, Any]) -> str:
    """Return a hash of the content of a request, independent of the order of its JSON."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class ChatRequest:
    """
    One request.

    Args:
        body (`Mapping[str, Any]`): The JSON of `POST /v1/chat/completions`.
        truth (`Truth`): The scenes of its pictures.
        seed (`int`): The seed of the server.

    Raises:
        [`BadRequestError`]: It has no messages, or parts that are neither text nor images.
    """

    def __init__(self, body: Mapping[str, Any], truth: Truth, seed: int):
        self.truth = truth
        self.digest = digest_of(body)
        self.rng = random.Random(f"{seed} {self.digest}")
        self._urls: list[str] = []
        texts = []
        try:
            for message in body["messages"]:
                content = message["content"]
                parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
                for part in parts:
                    if part["type"] == "text":
                        texts.append(part["text"])
                    else:
                        self._urls.append(part["image_url"]["url"])
        except (KeyError, TypeError) as error:
            raise BadRequestError(f"messages are missing or malformed ({error!r}).") from error
        self.text = "\n".join(texts)
        self.schema = self._schema(body.get("response_format") or {})

    def _schema(self, response_format: Mapping[str, Any]) -> str:
        """Return the name of the schema of the answer, or an empty string for free text.

        Servers without schema support find the name in the prompt: `<schema name="...">`.
        """
        if "json_schema" in response_format:
            return response_format["json_schema"]["name"]
        found = re.findall(r'<schema name="(\w+)">', self.text)
        return found[-1] if found else ""

    def data(self, tag: str) -> str:
        """Return the text between the last `<tag>` and `</tag>`, or an empty string."""
        before, closing, _ = self.text.rpartition(f"</{tag}>")
        return before.rpartition(f"<{tag}>")[2].strip() if closing else ""

    def json(self, tag: str) -> list[Any]:
        """Return the JSON list between the last `<tag>` and `</tag>`, or an empty list."""
        try:
            found = json.loads(self.data(tag) or "[]")
        except ValueError as error:
            raise BadRequestError(f"<{tag}> does not hold JSON ({error}).") from error
        if not isinstance(found, list):
            raise BadRequestError(f"<{tag}> holds {type(found).__name__}, expected a list.")
        return found

    @cached_property
    def pictures(self) -> list[Picture]:
        """The recognised images of the request."""
        try:
            return [self.truth.find(_decode(url)) for url in self._urls]
        except UnknownPictureError as error:
            raise BadRequestError(str(error), "unknown_picture") from error
        except ImageError as error:
            raise BadRequestError(str(error), "invalid_image") from error

    def only_picture(self) -> Picture:
        """Return the image of a request that must have exactly one."""
        if len(self._urls) != 1:
            raise BadRequestError(f"Got {len(self._urls)} images for {self.schema or 'a caption'}, expected 1.")
        return self.pictures[0]

    @property
    def num_images(self) -> int:
        """`int`: Number of images in the request."""
        return len(self._urls)


def _decode(url: str) -> bytes:
    head, _, content = url.partition(";base64,")
    if not head.startswith("data:image/"):
        raise BadRequestError(f"image_url is {url[:40]!r}, expected data:image/...;base64,...", "invalid_image_url")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise BadRequestError(f"image_url is not base64 ({error}).", "invalid_image_url") from error
