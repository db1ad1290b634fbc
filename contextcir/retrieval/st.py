"""Any model of sentence-transformers that embeds images, as a retriever."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from contextcir.retrieval.dense import DenseRetriever, GalleryEmbeds, normalize
from contextcir.retrieval.identity import Identity, ModelIdentity
from contextcir.retrieval.towers import Towers
from contextcir.retrieval.zero_shot.compose import COMPOSITIONS, compose
from contextcir.runtime.inference import evaluation_mode, weights_state

EXTRA = 'sentence-transformers is not installed. Run `pip install "contextcir[sentence-transformers]"`.'


def load_sentence_transformer(
    name: str, device: torch.device, *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """
    Load a model in float32.

    Args:
        name (`str`): Folder, or name on the Hub.
        device (`torch.device`): Where it runs.
        revision (`str`, *optional*): Its commit on the Hub.
        trust_remote_code (`bool`): Whether to run code that comes with it.

    Raises:
        `ValueError`: sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(EXTRA) from None
    return SentenceTransformer(
        name,
        device=str(device),
        revision=revision,
        trust_remote_code=trust_remote_code,
        model_kwargs={"dtype": torch.float32},
    )


def st_retriever(
    model: Any,
    *,
    how: str | None = None,
    name: str = "",
    autocast: torch.dtype | None = None,
    **options: Any,
) -> DenseRetriever:
    """
    Retrieve with a model of sentence-transformers. Queries are embedded by its `encode_query`, as `{"image", "text"}`,
    and the gallery by its `encode_document`; its own prompts apply.

    Args:
        model (`SentenceTransformer`): On the device to run on.
        how (`str`, *optional*): One of `COMPOSITIONS`, to embed images and texts by themselves and combine them.
        name (`str`, *optional*): Its name, for errors and records.
        autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
        **options: `batch_size`, `num_workers` and `keep`, as for [`~contextcir.retrieval.dense.DenseRetriever`].

    Raises:
        `ValueError`: It does not embed images, or no pairs of an image and a text and `how` is not given, or it
            compares by a distance.
    """
    if not model.supports("image"):
        raise ValueError(f"{name} embeds {_listed(model)} and no images: there is no gallery that it could search.")
    if how is None and not model.supports(("image", "text")):
        raise ValueError(
            f"{name} embeds {_listed(model)}, and no image together with a text. Say how the two become one query:"
            f" --compose {'|'.join(COMPOSITIONS)}."
        )
    if how not in (None, "image") and not model.supports("text"):
        raise ValueError(f"{name} embeds {_listed(model)} and no texts: give --compose image.")

    distance = model.similarity_fn_name or "cosine"
    if distance not in ("cosine", "dot"):
        raise ValueError(f"{name} compares by {distance} distance, expected cosine or dot: a dot product is searched.")

    def encode(method: Any, inputs: list[Any]) -> torch.Tensor:
        with evaluation_mode(model, autocast):
            found = method(
                inputs, batch_size=len(inputs), convert_to_tensor=True, convert_to_numpy=False, show_progress_bar=False
            )
        return found.float() if distance == "dot" and how is None else normalize(found)

    def encode_queries(images: list[Image.Image | None], texts: list[str]) -> torch.Tensor:
        """Queries with and without an image are encoded by themselves: a batch is of one kind."""
        embeds: dict[int, torch.Tensor] = {}
        for places in (
            [place for place, image in enumerate(images) if image is not None],
            [place for place, image in enumerate(images) if image is None],
        ):
            inputs = [
                texts[place] if images[place] is None else {"image": images[place], "text": texts[place]}
                for place in places
            ]
            if inputs and images[places[0]] is None and not model.supports("text"):
                raise ValueError(f"{name} embeds no text without an image, and there are queries without one.")
            if inputs:
                embeds |= zip(places, encode(model.encode_query, inputs), strict=True)
        return torch.stack([embeds[place] for place in range(len(texts))])

    encode_images = partial(encode, model.encode_document)
    galleries, identity = GalleryEmbeds(partial(weights_state, model)), _identity(model, name, autocast)
    if how is None:
        return DenseRetriever(encode_images, encode_queries, identity=identity, galleries=galleries, **options)
    towers = Towers(encode_images, partial(encode, model.encode_query), identity=identity, galleries=galleries)
    return compose(towers, how, **options)


def _listed(model: Any) -> str:
    return ", ".join(one if isinstance(one, str) else " with ".join(one) for one in model.modalities)


def _identity(model: Any, name: str, autocast: torch.dtype | None):
    of_weights = ModelIdentity(model, _Settings(model), autocast)
    config = getattr(getattr(model[0], "auto_model", None), "config", None)

    def identity() -> Identity:
        return replace(of_weights(), model=name, revision=getattr(config, "_commit_hash", None))

    return identity


class _Settings:
    """What decides the embeddings beside the weights: the modules, their settings, the processor and the prompts."""

    def __init__(self, model: Any):
        self.model = model

    def to_dict(self) -> dict[str, Any]:
        processor = getattr(self.model[0], "processor", None)
        images = getattr(processor, "image_processor", None)
        return {
            "modules": [
                [type(module).__name__, module.get_config_dict() if hasattr(module, "get_config_dict") else {}]
                for module in self.model
            ],
            "images": images.to_dict() if images is not None else str(type(processor)),
            "prompts": self.model.prompts,
            "dimensions": self.model.truncate_dim,
        }
