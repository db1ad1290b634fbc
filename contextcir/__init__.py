"""Composed image retrieval: search with a reference image and a text that says what should be different.

The names below are the public ones. They are imported when they are used, so that importing this package takes no
time. The models are in `modeling_contextcir`, and reach everything here as arguments.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from contextcir.benchmarks.registry import load_benchmark
    from contextcir.data.images import load_image
    from contextcir.data.streamed_triplets import stream_triplets
    from contextcir.data.triplets import load_triplets
    from contextcir.evaluation.measure import Record, measure
    from contextcir.phrases.extractor import NounPhraseExtractor
    from contextcir.retrieval.base import Gallery, Query, Ranking
    from contextcir.retrieval.dense import DenseRetriever
    from contextcir.retrieval.identity import Identity
    from contextcir.retrieval.imagescope import ImageScope
    from contextcir.retrieval.store.gallery import StoredGallery
    from contextcir.training.trainer import CIRTrainer
    from contextcir.training.training_args import CIRTrainingArguments

_HOMES = {
    "CIRTrainer": "contextcir.training.trainer",
    "CIRTrainingArguments": "contextcir.training.training_args",
    "DenseRetriever": "contextcir.retrieval.dense",
    "Gallery": "contextcir.retrieval.base",
    "Identity": "contextcir.retrieval.identity",
    "ImageScope": "contextcir.retrieval.imagescope",
    "NounPhraseExtractor": "contextcir.phrases.extractor",
    "Query": "contextcir.retrieval.base",
    "Ranking": "contextcir.retrieval.base",
    "Record": "contextcir.evaluation.measure",
    "StoredGallery": "contextcir.retrieval.store.gallery",
    "load_benchmark": "contextcir.benchmarks.registry",
    "load_image": "contextcir.data.images",
    "load_triplets": "contextcir.data.triplets",
    "measure": "contextcir.evaluation.measure",
    "stream_triplets": "contextcir.data.streamed_triplets",
}

__all__ = [
    "CIRTrainer",
    "CIRTrainingArguments",
    "DenseRetriever",
    "Gallery",
    "Identity",
    "ImageScope",
    "NounPhraseExtractor",
    "Query",
    "Ranking",
    "Record",
    "StoredGallery",
    "__version__",
    "load_benchmark",
    "load_image",
    "load_triplets",
    "measure",
    "stream_triplets",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'contextcir' has no attribute {name!r}. Its names are {', '.join(__all__)}.")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
