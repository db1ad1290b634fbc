"""Secrets are removed from addresses, texts, commands and options."""

import pytest

from contextcir.runtime.secrets import redact, redact_options, redact_words

fault = pytest.mark.fault("M06", "no record, message or command names a password, a key or the query of an address")


@fault
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pa55@host:8000/v1?token=pa55", "http://host:8000/v1"),
        ("http://pa55@host/v1?a=pa55#x", "http://host/v1#x"),
        (
            "see http://me:p@55@host/v1?x=p@55, and 'https://b/?q=p@55' twice",
            "see http://host/v1 and 'https://b/' twice",
        ),
        ("postgresql://me:pa55@host/base", "postgresql://host/base"),
        ("key sk-pa55word-1, Bearer pa55", "key [key], Bearer [key]"),
        ("token hf_pa55pa55pa55", "token [key]"),
        ("what? a@b.c and photos/a?b.png", "what? a@b.c and photos/a?b.png"),
    ],
)
def test_texts(text, shown):
    assert redact(text) == shown


@fault
def test_commands_and_options():
    words = [
        "--base_url",
        "http://me:pa55@host/v1",
        "--captioner_url=http://a:pa55@b/",
        "--header",
        "X: pa55",
        "Y: pa55",
    ]
    words += ["--max_tokens", "50", "--token", "pa55", "--extra_header=X: pa55", "--pairs", "a b.json"]
    shown = redact_words(words)
    assert "pa55" not in " ".join(shown) and len(shown) == len(words)
    assert shown[1] == "http://host/v1" and shown[6:8] == ["--max_tokens", "50"] and shown[-2:] == words[-2:]
    options = {"base_url": "http://me:pa55@h/", "headers": ["X: pa55"], "max_tokens": 5, "more": {"password": "pa55"}}
    options |= {"header": None, "prices": (1.0, "sk-pa55")}
    found = redact_options(options)
    assert "pa55" not in repr(found)
    assert found["max_tokens"] == 5 and found["header"] is None and found["prices"] == [1.0, "[key]"]
