"""Read an error of a chat server: what it is about, by its code and its words, and last by its status.

Servers agree on no status. A flagged image is a 400 or a 403, an unknown model a 400, 404 or 410, a wrong key a 400 or
401, and some say with a 200 that something went wrong. So each error is read in the same way, and has one kind.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

WEB_PAGE = "web page"  # the code of a message in HTML
MAX_READ = 4000  # characters of a message in which to look for what it is about

_TAGS = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]{0,2000}>", re.DOTALL | re.IGNORECASE)


class Error(NamedTuple):
    """
    An error of a server.

    Args:
        status (`int`): The HTTP status, or that which the body names.
        message (`str`): The server's words.
        codes (`frozenset[str]`): All codes and types that it names, in lower case.
        seconds (`float`, *optional*): How long to wait, by the header Retry-After.
    """

    status: int
    message: str
    codes: frozenset[str] = frozenset()
    seconds: float | None = None


class Kind(NamedTuple):
    """What an error is about: one of its codes, or words of its message."""

    name: str
    codes: frozenset[str]
    words: re.Pattern[str]


def _kind(name: str, codes: str, *words: str) -> Kind:
    return Kind(name, frozenset(codes.split()), re.compile("|".join(words) or r"(?!)", re.IGNORECASE))


_PICTURES = r"(?:image|vision|multi-?modal)\w*(?: (?:input|content|url|part)s?)?"
_SUPPORTED = r"(?:support|enabl|allow|accept|tak|process|handl|permit)\w*"
_MODEL = r"\b(?:model|deployment)s?\b\S{0,150}(?: \S{1,150})? (?:(?:is|was|has been|does|could|can) ?)?"

ANY_STATUS = ("invalid_json", "filtered", "quota", "images", "one_image", "schema")  # by words, also if 500 and above
BY_STATUS = {401: "key", 402: "quota", 403: "forbidden", 404: "model", 405: "address", 410: "model", 413: "large"}

KINDS = (  # in the order in which they are looked for
    _kind("invalid_json", "json_validate_failed", r"failed to generate json|generated json does not match"),
    _kind(
        "filtered",
        "content_filter content_policy_violation image_content_policy_violation responsibleaipolicyviolation"
        " moderation_blocked content_moderation data_inspection_failed safety prohibited_content sanitizer_error"
        " contentfiltered content_filtered",
        r"moderation|content.{0,5}(?:filter|policy|management)|\bflagged\b|safety (?:system|filter|policy)",
        r"inappropriate content|usage polic|responsible.?ai",
    ),
    _kind("queue", "token_limit_exceeded", r"enqueued token limit"),
    _kind(
        "quota",
        "insufficient_quota billing_hard_limit_reached billing_not_active insufficient_balance insufficient_credits",
        r"exceeded your (?:current )?quota|insufficient (?:balance|credit|fund|quota)|out of credit|more credits",
    ),
    _kind(
        "key",
        "invalid_api_key api_key_invalid authentication_error invalid_authentication incorrect_api_key"
        " unauthorized unauthenticated",
        r"api.?key.{0,30}(?:not valid|invalid|incorrect|missing|expired|required|not found|disabled|revoked)",
        r"(?:invalid|incorrect|missing|wrong|expired|no|bad) (?:api.?key|credential|auth)",
    ),
    _kind(
        "one_image",
        "",
        r"at most (?:1|one) image|(?:only|exactly) (?:supports? |accepts? )?(?:1|one|a single) image|too many images",
        rf"(?:multiple|several) images (?:is|are)?(?:n't| ?not| ?un) ?{_SUPPORTED}",
        rf"(?:not|n't|cannot) {_SUPPORTED} (?:multiple|several|more than (?:1|one)) images?",
    ),
    _kind(
        "images",
        "",
        rf"{_PICTURES} (?:is|are|was|were)?(?:n't| ?not| ?un)(?: yet)? ?{_SUPPORTED}",
        rf"(?:not|n't|cannot)(?: currently| yet)? {_SUPPORTED} (?:any )?{_PICTURES}",
        r"no endpoints? found that supports? image|(?:only|just) (?:supports?|accepts?|takes?) text|text-only",
        r"unknown variant .?image_url|at most 0 image|content must be a string|mmproj",
    ),
    _kind(
        "large",
        "request_too_large payload_too_large request_entity_too_large",
        r"(?:payload|request|entity|body) (?:is )?too large|image.{0,40}(?:exceeds?|larger than|too large)",
    ),
    _kind(
        "schema",
        "",
        r"response_?format|response_?(?:json_?)?schema|json_?schema|json schema|structured output|guided|grammar",
        r"\$ref|\$defs|additionalProperties",
    ),
    _kind(
        "model",
        "model_not_found deploymentnotfound invalid_model model_decommissioned unknown_model model_not_supported",
        _MODEL + r"(?:not (?:be )?(?:found|exist|available|supported)|n't exist|no longer)",
        _MODEL + r"(?:unknown|decommissioned|retired|deprecated)\b",
        r"(?:invalid|unknown|unsupported|no such|not a valid) (?:model|deployment)|not found, try pulling",
    ),
    _kind(
        "address",
        "unknown_url method_not_allowed route_not_found",
        r"unexpected endpoint|invalid url \(|cannot (?:post|get) /|unknown (?:endpoint|route|path|url)",
        r"no route|method not allowed|page not found|^\s*not found\.?\s*$|resource not found",
    ),
)


def read_error(status: int, payload: Any, seconds: float | None = None) -> Error:
    """
    Read an error in any of the forms that servers use.

    Args:
        status (`int`): The HTTP status.
        payload (`Any`): The JSON of the body, or its text.
        seconds (`float`, *optional*): See [`Error`].
    """
    if isinstance(payload, list) and payload:  # Gemini
        payload = payload[0]
    body = payload if isinstance(payload, Mapping) else {}
    error = body.get("error") or body.get("detail") or body
    error = error if isinstance(error, Mapping) else {"message": error}
    message = error.get("message") or error.get("msg") or (error if error and not body else "") or payload
    named = [error.get("code"), error.get("type"), error.get("status"), body.get("code"), body.get("type")]
    for more in (error.get("innererror"), error.get("metadata")):
        if isinstance(more, Mapping):
            named += [more.get("code"), more.get("reason")]
            message = f"{_words(message)} {_words(more.get('raw') or '')}".strip()
    inside = next((code for code in named if type(code) is int and 400 <= code < 600), status)
    codes = {name.lower() for name in named if isinstance(name, str)} | ({WEB_PAGE} if _is_page(payload) else set())
    return Error(inside if status == 200 else status, _words(message), frozenset(codes), seconds)


def _words(message: Any) -> str:
    """Return a message without the tags of a web page, and any value but text as JSON."""
    if not isinstance(message, str):
        return json.dumps(message, ensure_ascii=False) if message else ""
    if _is_page(message):
        message = _TAGS.sub(" ", message[: 2 * MAX_READ])
    return message


def error_inside(payload: Any) -> bool:
    """Return whether the body of a response with status 200 is an error: it says so, or it is a web page."""
    if not isinstance(payload, Mapping):
        return _is_page(payload)
    choices = payload.get("choices")
    return bool(payload.get("error")) and not (isinstance(choices, list) and choices)


def _is_page(payload: Any) -> bool:
    return isinstance(payload, str) and payload.lstrip()[:1] == "<"


def kind_of(error: Error) -> str:
    """
    Return what an error is about.

    Returns:
        `str`: The name of one of `KINDS`; "busy" for a server that takes no more at the moment, "forbidden" for a 403
        that gives no reason, and "other" for anything else that concerns one request.
    """
    for kind in KINDS:
        if error.codes & kind.codes:
            return kind.name
    message = error.message[:MAX_READ]
    matching = [kind.name for kind in KINDS if kind.words.search(message)]
    if error.status == 429 or (error.status == 503 and error.seconds):
        if "too large" in message.lower():  # for the limit of tokens a minute
            return "other"
        return "quota" if "quota" in matching else "busy"
    if WEB_PAGE in error.codes:  # whose words are not about the request
        return BY_STATUS.get(error.status, "other" if error.status >= 400 else "address")
    if error.status >= 500 and error.status != 501:
        matching = [name for name in matching if name in ANY_STATUS]
    return matching[0] if matching else BY_STATUS.get(error.status, "other")


def refuses(error: Error, option: str) -> bool:
    """Return whether an error says that a server does not know or support an option of a request, by its name."""
    name = re.escape(option)
    words = "not supported|unsupported|not support|n't support|unrecogni[sz]ed|not permitted|not allowed|unknown"
    after = rf"\b{name}\b.{{0,60}}(?:{words}|unexpected)"
    before = rf"(?:{words}|unexpected|invalid) (?:\w+:? ){{0,4}}(?:supplied: )?\W{{0,3}}{name}\b"
    message = error.message[:MAX_READ]
    return 400 <= error.status < 500 and bool(re.search(f"{after}|{before}", message, re.IGNORECASE))
