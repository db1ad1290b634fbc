"""Random batches with realistic sizes: images for ViT-B/32, and texts with the lengths of CIRR's."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPVisionConfig

# Tokens of CIRR's validation captions with start and end token, at equally spaced quantiles (mean 14.1).
CIRR_LENGTHS = [8, 9, 10, 11, 12, 12, 13, 14, 14, 15, 16, 17, 18, 20, 22, 26]
# Longer captions have more noun phrases: CIRR's lengths with three, about twice as long with eight.
LENGTH_FACTOR = {3: 1, 8: 2}


def encoder_configs(quick: bool) -> dict[str, Any]:
    """Return configs of CLIP's encoders in the size of ViT-B/32, or tiny ones."""
    text: dict[str, Any] = {}
    vision: dict[str, Any] = {}
    if quick:
        text = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
        vision = {**text, "image_size": 32, "patch_size": 8}
    return {"text_config": CLIPTextConfig(**text), "vision_config": CLIPVisionConfig(**vision)}


def random_ids(lengths: Sequence[int], config: Any, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, `(num_texts, longest)`, of texts with these lengths, including start and end token."""
    start, end = config.empty_text_ids
    ids = torch.full((len(lengths), max(lengths)), end)
    for row, length in zip(ids, lengths, strict=True):
        row[0] = start
        row[1 : length - 1] = torch.randint(1000, 40000, (length - 2,), generator=generator)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()


def random_batch(model: Any, batch_size: int, num_phrases: int, device: str) -> dict[str, torch.Tensor]:
    """Return arguments of `forward`. Of the noun phrases of a text, two are long (half and a third of it)."""
    generator = torch.Generator().manual_seed(batch_size + num_phrases)
    size, factor = model.config.vision_config.image_size, LENGTH_FACTOR[num_phrases]
    lengths = [CIRR_LENGTHS[(5 * i) % 16] * factor for i in range(batch_size)]
    ids, mask = random_ids(lengths, model.config, generator)
    phrases, samples, token_masks = [], [], []
    for sample, length in enumerate(lengths):
        words = length - 2
        for i in range(num_phrases):
            phrase_length = max(2, words // (2 + i)) if i < 2 else 2 + i % 3
            # Not the first word: its two maps are equal, so that rounding would decide the gradient of the naive step.
            first = 2 + int(torch.randint(0, words - phrase_length, (), generator=generator))
            phrases.append(ids[sample, first : first + phrase_length])
            samples.append(sample)
            token_masks.append(
                (torch.arange(ids.shape[1]) >= first) & (torch.arange(ids.shape[1]) < first + phrase_length)
            )
    phrase_ids, phrase_mask = random_ids([len(phrase) + 2 for phrase in phrases], model.config, generator)
    for row, phrase in zip(phrase_ids, phrases, strict=True):
        row[1 : 1 + len(phrase)] = phrase
    batch = {
        "input_ids": ids,
        "pixel_values": torch.randn(2 * batch_size, 3, size, size, generator=generator),
        "reference_index": torch.arange(batch_size),
        "target_index": torch.arange(batch_size, 2 * batch_size),
        "attention_mask": mask,
        "phrase_input_ids": phrase_ids,
        "phrase_attention_mask": phrase_mask,
        "phrase_sample": torch.tensor(samples),
        "phrase_token_mask": torch.stack(token_masks),
    }
    return {key: value.to(device) for key, value in batch.items()}
