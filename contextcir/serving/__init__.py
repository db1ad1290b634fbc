"""Serve a stored gallery over HTTP: an API, and a page that uses it.

    from contextcir.serving import create_app
    app = create_app(Gallery.open("my-gallery", retriever))

`contextcir serve` does this for a model of this library; any retriever can be served from Python. Needs the extra
`serve` (FastAPI).
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextcir.serving.app import create_app
    from contextcir.serving.rerank import Answer, Judged
    from contextcir.serving.settings import Settings

_HOMES = {"create_app": "app", "Answer": "rerank", "Judged": "rerank", "Settings": "settings"}
__all__ = ["Answer", "Judged", "Settings", "create_app"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'contextcir.serving' has no attribute {name!r}. It has {', '.join(__all__)}.")
    found = globals()[name] = getattr(importlib.import_module(f"contextcir.serving.{_HOMES[name]}"), name)
    return found
