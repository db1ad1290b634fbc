"""A model of your own as a retriever: two functions in a file, or an object that has them.

    def encode_images(images): ...           # list of RGB images -> (len(images), dim)
    def encode_queries(images, texts): ...   # reference images (None where there is none) and texts -> the same

Rows are arrays or tensors of any scale: they are normalised here, and the score is their dot product. Instead of
`encode_queries`, there may be `encode_texts(texts)`; then a composition is chosen. An optional text `revision`, which
changes with the weights, lets the embeddings of galleries be kept. An object with `search` is a retriever already, see
[`~contextcir.retrieval.base.Retriever`].
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from contextcir.retrieval.base import Retriever
from contextcir.retrieval.dense import DenseRetriever, GalleryEmbeds, normalize
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.towers import Towers
from contextcir.retrieval.zero_shot.compose import COMPOSITIONS, compose


def load_object(spec: str) -> tuple[Any, str]:
    """
    Load the object that embeds.

    Args:
        spec (`str`): `file.py` (the functions are in the file), `file.py:name` or `module:name`. A class or a function
            is called without arguments, and returns the object.

    Returns:
        `tuple[Any, str]`: The object, and 16 hex digits of the SHA-256 of its file.

    Raises:
        `ValueError`: There is no such file, module or name.
    """
    where, _, name = spec.partition(":")
    module = _file(where) if where.endswith(".py") else _module(where, spec)
    found: Any = module
    if name:
        if not hasattr(module, name):
            raise ValueError(f"{where} has no {name!r}. Expected a function, a class or an object of this name.")
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            found = found()
    code = Path(module.__file__).read_bytes() if module.__file__ else b""
    return found, hashlib.sha256(code).hexdigest()[:16]


def function_retriever(
    found: Any, spec: str, how: str | None = None, *, autocast: torch.dtype | None = None, **options: Any
) -> Retriever:
    """
    Retrieve with an object of the contract above.

    Args:
        found: The object.
        spec (`str`): Its name, for errors and records.
        how (`str`, *optional*): One of `COMPOSITIONS`, for an object with `encode_texts`.
        autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
        **options: `batch_size`, `num_workers` and `keep`, as for [`~contextcir.retrieval.dense.DenseRetriever`].

    Raises:
        `ValueError`: The object lacks a function, or `keep` is given and it has no `revision`.
    """
    if hasattr(found, "search"):
        if how:
            raise ValueError(f"{spec} searches by itself: leave out --compose.")
        return found
    needed = "encode_texts" if how else "encode_queries"
    lacking = [one for one in ("encode_images", needed) if not hasattr(found, one)]
    if "encode_images" not in lacking and lacking and hasattr(found, "encode_texts"):
        raise ValueError(
            f"{spec} has encode_texts and no encode_queries. Say how an image and a text become one query:"
            f" --compose {'|'.join(COMPOSITIONS)}."
        )
    if lacking:
        raise ValueError(
            f"{spec} has no {' and no '.join(lacking)}. Expected encode_images(images) and"
            f" {needed}({'texts' if how else 'images, texts'}), each returning one row for each item."
        )
    revision = getattr(found, "revision", None)
    if options.get("keep") is not None and revision is None:
        raise ValueError(
            f"{spec} has no revision: kept galleries could be those of other weights. Set revision to a text that"
            " changes with them, or leave out --gallery_cache."
        )

    def encoder(name: str) -> Callable[..., torch.Tensor]:
        def encode(*inputs: list[Any]) -> torch.Tensor:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
                return _rows(getattr(found, name)(*inputs), len(inputs[0]), f"{name} of {spec}")

        return encode

    encode_images = encoder("encode_images")
    precision = None if autocast is None else str(autocast).removeprefix("torch.")
    who = None if revision is None else Identity(spec, str(revision), autocast=precision)
    if how is None:
        encode_queries: Callable[[list[Image.Image | None], list[str]], torch.Tensor] = encoder("encode_queries")
        return DenseRetriever(encode_images, encode_queries, identity=who, galleries=GalleryEmbeds(), **options)
    return compose(Towers(encode_images, encoder("encode_texts"), identity=who), how, **options)


def _rows(output: Any, length: int, what: str) -> torch.Tensor:
    rows = output if isinstance(output, torch.Tensor) else torch.from_numpy(np.asarray(output))
    if rows.ndim < 2 or len(rows) != length:
        raise ValueError(
            f"{what} returned the shape {tuple(rows.shape)} for {length} items, expected ({length}, dim)."
        )
    return normalize(rows.detach())


def _file(name: str) -> ModuleType:
    path = Path(name).resolve()
    if not path.is_file():
        raise ValueError(f"There is no file {name}.")
    specification = importlib.util.spec_from_file_location(f"_retriever_{path.stem}", path)
    assert specification and specification.loader  # a file that ends in .py has both
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def _module(name: str, spec: str) -> ModuleType:
    """Import a module, from the working folder as well."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise  # the module is there, and lacks one of its own
        raise ValueError(
            f"There is no module {name!r}. --retriever takes a model of this library (folder or Hub name), st:NAME"
            f" (sentence-transformers), hf:NAME (transformers), file.py:NAME or MODULE:NAME; got {spec!r}."
        ) from None
    finally:
        sys.path.remove(here)
