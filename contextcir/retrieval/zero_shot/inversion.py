"""Textual inversion: a small network turns the reference image into a word, and CLIP reads that word in a sentence.

Pic2Word (Saito et al., CVPR 2023) and SEARLE (Baldrati et al., ICCV 2023) train the network, phi, on images alone. It
maps CLIP's image feature (after the projection, not normalised) to one token embedding. The token stands for `$` in a
template such as "a photo of $ that {text}", and the query is the text feature of the whole. Only the use of phi is
here: its weights are the user's. Left out is SEARLE's optimisation of a token for each image (OTI).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import nn

from contextcir.retrieval.dense import DenseRetriever, normalize
from contextcir.retrieval.towers import model_towers, pooled
from contextcir.runtime.inference import evaluation_mode

TEMPLATE = "a photo of $ that {text}"
WORD = "$"
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class Phi(nn.Module):
    """
    From an image feature to a token embedding: linear layers with an activation between them.

    Args:
        layers (`list[nn.Linear]`): The first takes the dimension of the features, the last gives that of the tokens.
        activation (`str`): "gelu" (SEARLE) or "relu" (Pic2Word).
    """

    def __init__(self, layers: list[nn.Linear], activation: str = "gelu"):
        super().__init__()
        self.layers, self.activation = nn.ModuleList(layers), ACTIVATIONS[activation]()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch_size, feature_dim)` to `(batch_size, token_dim)`."""
        for layer in self.layers[:-1]:
            features = self.activation(layer(features))
        return self.layers[-1](features)


def read_phi(path: str | Path) -> Phi:
    """
    Read a network.

    Args:
        path (`str` or `Path`): A safetensors file with `layers.0.weight` `(out, in)`, `layers.0.bias` `(out,)`,
            `layers.1.weight` and so on. Its metadata may name the `activation`, "gelu" by default, or "relu".

    Returns:
        [`Phi`]: In float32.

    Raises:
        `ValueError`: The file holds other tensors, or their shapes do not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}). Give the weights of phi in one.") from error
    names = [f"layers.{number}.{kind}" for number in range(len(tensors) // 2) for kind in ("weight", "bias")]
    if not tensors or sorted(tensors) != sorted(names):
        raise ValueError(
            f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}. Expected layers.0.weight, layers.0.bias,"
            " layers.1.weight, ... in order: rename the tensors of your checkpoint."
        )
    activation = metadata.get("activation", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{path} names the activation {activation!r}, expected {' or '.join(ACTIVATIONS)}.")
    layers: list[nn.Linear] = []
    for number in range(len(tensors) // 2):
        weight, bias = tensors[f"layers.{number}.weight"], tensors[f"layers.{number}.bias"]
        before = layers[-1].out_features if layers else weight.shape[-1]
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != before:
            raise ValueError(
                f"{path}: layer {number} has the weight {tuple(weight.shape)} and the bias {tuple(bias.shape)},"
                f" expected (out, {before}) and (out,)."
            )
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return Phi(layers, activation)


def textual_inversion(
    clip_model: Any,
    processor: Any,
    phi: Phi,
    template: str = TEMPLATE,
    *,
    autocast: torch.dtype | None = None,
    **options: Any,
) -> DenseRetriever:
    """
    Retrieve by textual inversion.

    Args:
        clip_model (`CLIPModel`): On the device to run on.
        processor: Its processor, with a tokenizer that returns offsets.
        phi ([`Phi`]): Made for this CLIP.
        template (`str`): Has `$`, where the image goes, and `{text}`.
        autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
        **options: `batch_size`, `num_workers` and `keep`, as for [`~contextcir.retrieval.dense.DenseRetriever`].

    Returns:
        [`~contextcir.retrieval.dense.DenseRetriever`]: Embeds galleries as CLIP does. All queries need a reference.

    Raises:
        `ValueError`: The template lacks a place, or phi was made for another CLIP.
    """
    if [template.count(place) for place in (WORD, "{text}")] != [1, 1]:
        raise ValueError(f"Got the template {template!r}, expected one {WORD} and one {{text}}, as in {TEMPLATE!r}.")
    words = clip_model.text_model.get_input_embeddings()
    got = phi.layers[0].in_features, phi.layers[-1].out_features
    expected = clip_model.config.projection_dim, words.embedding_dim
    if got != expected:
        raise ValueError(f"phi maps {got[0]} to {got[1]} dimensions, this CLIP needs {expected[0]} to {expected[1]}.")
    phi = phi.to(words.weight.device).eval()
    towers = model_towers(clip_model, processor, autocast=autocast)
    before = template.partition(WORD)[0]
    max_length = clip_model.config.text_config.max_position_embeddings

    def encode_queries(images: list[Image.Image | None], texts: list[str]) -> torch.Tensor:
        prepared = towers.prepared(images)
        pixels = torch.stack([one["pixel_values"] for one in prepared])
        starts = [len(before.replace("{text}", text)) for text in texts]
        # Not `format`: a text may hold braces.
        inputs = processor.tokenizer(
            [template.replace("{text}", text) for text in texts],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            return_tensors="pt",
            padding_side="right",
        )
        places = [_place(row, start) for row, start in zip(inputs["offset_mapping"].tolist(), starts, strict=True)]
        with evaluation_mode(clip_model, autocast) as device:
            features = pooled(clip_model.get_image_features(pixels.to(device)))
            with replaced(words, places, phi(features)):
                ids = {name: inputs[name].to(device) for name in ("input_ids", "attention_mask")}
                return normalize(pooled(clip_model.get_text_features(**ids)))

    options |= {"prepare": towers.prepare, "identity": towers.identity, "galleries": towers.galleries}
    return DenseRetriever(towers.encode_images, encode_queries, **options)


@contextmanager
def replaced(words: nn.Module, places: list[int], vectors: torch.Tensor) -> Iterator[None]:
    """Inside the block, the embedding layer gives `vectors` `(batch_size, dim)` at one place of each row."""

    def put(vectors: torch.Tensor, _: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[torch.arange(len(places)), places] = vectors.to(output)
        return output

    handle = words.register_forward_hook(partial(put, vectors))
    try:
        yield
    finally:
        handle.remove()


def _place(offsets: list[list[int]], start: int) -> int:
    """The token that is exactly the character at `start`."""
    for place, (first, last) in enumerate(offsets):
        if (first, last) == (start, start + len(WORD)):
            return place
    raise ValueError(
        f"The {WORD} of the template is no token of its own, or was cut off with the end of the text. Put spaces"
        " around it, and {text} behind it."
    )
