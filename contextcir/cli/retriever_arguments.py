"""Options of models that are not ours, and of zero-shot methods."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from transformers.hf_argparser import HfArg

ST, HF = "st:", "hf:"
BASIC, INVERSION, CIREVL = "basic", "pic2word", "cirevl"
ZERO_SHOT = (BASIC, INVERSION, CIREVL)


def kind_of(spec: str) -> str:
    """What a `--retriever` is: "st", "hf", "function", a zero-shot method, or "own". (`hf://user/name` is one of our
    own models, on the Hub.)"""
    if spec in ZERO_SHOT:
        return spec
    if spec.startswith("hf://"):
        return "own"
    if spec.startswith((ST, HF)):
        return spec[:2]
    head, colon, _ = spec.partition(":")
    return "function" if head.endswith(".py") or (colon and not Path(spec).exists()) else "own"


@dataclass
class RetrieverArguments:
    """How a model is loaded, and what a method needs."""

    _argument_group_name = "Models of others and zero-shot methods"

    compose: Literal["sum", "slerp", "product", "image", "text"] | None = HfArg(
        default=None, help="How an image and a text become one query, for models that embed each by itself."
    )
    revision: str | None = HfArg(default=None, help="Commit of the model on the Hub (st: and hf:).")
    trust_remote_code: bool = HfArg(
        default=False, help="Run code that comes with the model (st: and hf:). Needs the commit as --revision."
    )
    corpus: str | None = HfArg(default=None, help="basic: text file of objects, one a line.")
    corpus_styles: str | None = HfArg(default=None, help="basic: text file of styles and settings, one a line.")
    corpus_images: str | None = HfArg(
        default=None, help="basic: images for mean and range (folder, list or data set); by default the gallery's own."
    )
    phi: str | None = HfArg(default=None, help="pic2word: safetensors file of the network that makes the word.")
    template: str | None = HfArg(
        default=None, help='pic2word: sentence with $ for the image; "a photo of $ that {text}" by default.'
    )

    def check(self, spec: str | None, clip: str | None) -> None:
        """Raise a `ValueError` for options that miss, or have no effect with a retriever."""
        kind = kind_of(spec) if spec else "own"
        used = {
            "st": {"compose", "revision", "trust_remote_code"},
            "hf": {"compose", "revision", "trust_remote_code"},
            "function": {"compose"},
            BASIC: {"corpus", "corpus_styles", "corpus_images"},
            INVERSION: {"phi", "template"},
        }.get(kind, set())
        if idle := [field.name for field in fields(self) if getattr(self, field.name) and field.name not in used]:
            raise ValueError(f"--{idle[0]} has no effect with --retriever {spec}.")
        if self.trust_remote_code and spec and not Path(spec[3:]).is_dir():
            if not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
                raise ValueError(
                    f"--trust_remote_code runs code of others, which may change. Got the revision {self.revision},"
                    " expected --revision with the commit that you have read, 40 hex digits."
                )
        if kind in ZERO_SHOT and not clip:
            raise ValueError(f"--retriever {spec} searches with a CLIP: give --clip.")
        for needed, what in ((BASIC, "corpus"), (INVERSION, "phi")):
            if kind == needed and not getattr(self, what):
                raise ValueError(f"--retriever {spec} needs --{what}: {FILES[what]}.")


FILES = {
    "corpus": "a text file of objects (building, dog, ...), one a line, that are not taken from the benchmark",
    "phi": "the weights of the network in a safetensors file",
}
