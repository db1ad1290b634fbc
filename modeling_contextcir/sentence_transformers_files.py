"""The three JSON files by which sentence-transformers (6.2 or newer) loads a saved model as it is.

    SentenceTransformer("user/model").encode([{"image": image, "text": "make it blue"}])

Its own `Transformer` module calls our methods: an image is embedded as one of a gallery, an image with a text as a
query, and a text alone as a query without an image. A module class of ours would need `trust_remote_code` even where
this package is installed.
"""

import json
from os import PathLike
from pathlib import Path

METHODS = {"text": "get_text_features", "image": "get_image_features", "image+text": "get_query_features"}
FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            inputs: {"method": method, "method_output_name": None} for inputs, method in METHODS.items()
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "similarity_fn_name": "cosine",
        "prompts": {"query": "", "document": ""},
    },
}


def write_sentence_transformers_files(folder: str | PathLike) -> None:
    """Write the files beside a saved model. Those that sentence-transformers itself has written there stay: they may
    hold more, such as prompts or a layer that cuts the embedding."""
    if Path(folder, "modules.json").exists():
        return
    for name, content in FILES.items():
        Path(folder, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
