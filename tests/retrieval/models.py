"""A tiny model, its processor, a CLIP, and a gallery with queries."""

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from contextcir.retrieval.base import Gallery, Query

NUM_IMAGES = 13
MAX_LENGTH = 8


class Processor:
    """A minimal processor: raw pixels, and one token for each letter, truncated like CLIP's."""

    def __call__(self, images=None, text=None, return_tensors=None, padding=None, truncation=None, max_length=None):
        inputs = {}
        if images is not None:
            pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
            inputs["pixel_values"] = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        if text is not None:
            rows = [[97, *(ord(letter) % 90 for letter in one), 98] for one in text]
            if truncation:
                rows = [row[: max_length - 1] + [98] if len(row) > max_length else row for row in rows]
            longest = max(map(len, rows))
            inputs["input_ids"] = torch.tensor([row + [98] * (longest - len(row)) for row in rows])
            inputs["attention_mask"] = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return inputs


class Model(torch.nn.Module):
    """A minimal composed image retrieval model."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.image = torch.nn.Linear(3 * 8 * 8, 16)
        self.text = torch.nn.Embedding(99, 16)
        self.dropout = torch.nn.Dropout(0.5)

    def get_image_features(self, pixel_values):
        return normalize(self.image(self.dropout(pixel_values.flatten(1))), dim=-1)

    def get_query_features(self, pixel_values, input_ids, attention_mask=None):
        text = (self.text(input_ids) * attention_mask[..., None]).sum(1)
        return normalize(self.image(self.dropout(pixel_values.flatten(1))) + text, dim=-1)


def make_images(number=NUM_IMAGES):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(number)]


def make_gallery(images=None):
    images = images or make_images()
    return Gallery([f"g{i}" for i in range(len(images))], images)


def make_queries():
    candidates = ("g7", "g0", "g3", "g9")
    own = Image.fromarray(np.full((8, 8, 3), 50, np.uint8))
    return [
        Query("q0", "add a bird", reference_id="g0", candidate_ids=candidates),
        Query("q1", "two of them", reference_id="g5"),
        Query("q2", "", reference_image=own, reference_id="elsewhere", candidate_ids=("g1", "g2")),
        *(Query(f"q{i}", f"text {i}" * i, reference_id=f"g{i}") for i in range(3, 10)),
    ]


def make_clip():
    sizes = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4)
    text = dict(sizes, vocab_size=99, max_position_embeddings=MAX_LENGTH, bos_token_id=97, eos_token_id=98)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=dict(sizes, image_size=8, patch_size=4), projection_dim=24)
    return CLIPModel(config).eval()
