"""Servers that differ from OpenAI's: what they reject, and the forms of their answers and counts.

Each is a function with a name, which is a value of an option of [`~contextcir.scenes.oracle.faults.Faults`].
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from contextcir.scenes.oracle.loopback import Reply, failure

Body = dict[str, Any]


def _images(body: Body) -> int:
    contents = [message.get("content") for message in body.get("messages") or []]
    return sum(part.get("type") == "image_url" for parts in contents if isinstance(parts, list) for part in parts)


def _no_limit(name: str, other: str) -> Callable[[Body], Reply | None]:
    message = f"Unsupported parameter: '{name}' is not supported with this model. Use '{other}' instead."
    return lambda body: failure(400, message, "unsupported_parameter") if name in body else None


def _has_references(body: Body) -> bool:
    return '"$ref"' in json.dumps(body.get("response_format"))


REJECTIONS: dict[str, Callable[[Body], Reply | None]] = {  # of a request, by a server
    "no_max_tokens": _no_limit("max_tokens", "max_completion_tokens"),
    "no_max_completion_tokens": _no_limit("max_completion_tokens", "max_tokens"),
    "no_temperature": lambda body: (
        failure(400, "Unsupported value: 'temperature' does not support this value.", "unsupported_value")
        if "temperature" in body
        else None
    ),
    "no_references": lambda body: (
        failure(400, "Unknown name \"$ref\" at 'response_schema': Cannot find field.", "INVALID_ARGUMENT")
        if _has_references(body)
        else None
    ),
    "no_grammar": lambda body: (
        failure(400, "failed to parse grammar", "invalid_request") if "response_format" in body else None
    ),
    "text_only": lambda body: (
        failure(400, "This model does not support image inputs.", "invalid_request") if _images(body) else None
    ),
    "one_image": lambda body: (
        failure(400, "At most 1 image(s) may be provided in one request.", "BadRequestError")
        if _images(body) > 1
        else None
    ),
    "no_model_400": lambda body: failure(400, f"{body.get('model')} is not a valid model ID", "model_not_found"),
    "no_model_410": lambda body: failure(410, "The model is no longer available.", "gone"),
    "bad_key_400": lambda body: failure(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT"),
    "no_v1": lambda body: Reply(200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
    "web_page": lambda body: Reply(200, b"<!doctype html><html><title>Welcome</title></html>"),
}


def _content(change: Callable[[str], Any]) -> Callable[[Body], None]:
    def apply(payload: Body) -> None:
        message = payload["choices"][0]["message"]
        message["content"] = change(message["content"])

    return apply


def _refuse(payload: Body) -> None:
    payload["choices"][0]["message"] |= {"content": None, "refusal": {"reason": ["no"]}}


def _reason_only(payload: Body) -> None:
    payload["choices"][0]["message"] |= {"content": "", "reasoning_content": "Let me look at it."}


def _bare_list(content: str) -> str:
    values = list(json.loads(content).values())
    return json.dumps(values[0]) if len(values) == 1 and isinstance(values[0], list) else content


FORMS: dict[str, Callable[[Body], None]] = {  # of answers, which they change in place
    "surrogate": _content(lambda content: content.replace('"}', ' \\ud83d"}', 1)),
    "parts": _content(lambda content: [{"type": "text", "text": content[:9]}, {"type": "text", "text": content[9:]}]),
    "odd_refusal": _refuse,
    "thinking": _content(lambda content: f"<think>Is it {content}? Yes.</think>\n{content}"),
    "unclosed_thinking": _content(lambda content: f"<think>Perhaps it is {content}"),
    "reasoning_only": _reason_only,
    "example_after": _content(lambda content: f"{content}\nAn example of another form: {content}"),
    "raw_newlines": _content(lambda content: content.replace(" ", "\n")),
    "bare_list": _content(_bare_list),
    "capitals": _content(lambda content: content.replace('"add"', '"Add"').replace('"yes"', '"Yes."')),
    "no_choices": lambda payload: payload.update(choices=None),
}

USAGES: dict[str, Callable[[dict[str, int]], Any]] = {  # what servers count
    "none": lambda usage: None,
    "total": lambda usage: {"total_tokens": usage["total_tokens"]},
    "negative": lambda usage: {name: -count for name, count in usage.items()},
    "float": lambda usage: {name: count + 0.5 for name, count in usage.items()},
    "infinite": lambda usage: dict.fromkeys(usage, float("inf")),
    "bool": lambda usage: dict.fromkeys(usage, True),
    "text": lambda usage: {name: str(count) for name, count in usage.items()},
    "huge": lambda usage: dict.fromkeys(usage, 10**12),
}

DAMAGES: tuple[Callable[[dict[str, Any]], bytes], ...] = (  # of lines of a batch's answers
    lambda line: b"",
    lambda line: json.dumps(line).encode()[:40],
    lambda line: json.dumps({name: value for name, value in line.items() if name != "custom_id"}).encode(),
    lambda line: json.dumps(line | {"response": "odd"}).encode(),
    lambda line: b"\xff\xfe",
)


def odd(payload: Body, form: str, usage: str) -> Body:
    """Return a completion in another form, with another count of tokens; empty names change nothing."""
    payload = copy.deepcopy(payload)
    if form and payload["choices"][0]["message"]["content"]:
        FORMS[form](payload)
    if usage:
        payload["usage"] = USAGES[usage](payload["usage"])
    return payload
