"""Images, modification texts and the character spans of their noun phrases -> tensors for ConText-CIR.

Paper: ConText-CIR (CVPR 2025), section 3.3: a noun phrase is needed twice, by itself (its own token ids) and in
context (which tokens of the whole text are its own). Spans are found by the offsets of the tokenizer, exactly or not
at all.
"""

import operator

import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import logging

from .clip_processor import AroundCLIPProcessor, refuse_unread_images

logger = logging.get_logger(__name__)


class ContextCIRProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": "longest", "truncation": True}}


class ContextCIRProcessor(AroundCLIPProcessor):
    r"""
    CLIP's image processor and tokenizer, and the noun-phrase tensors of the concept-consistency loss.

    `ContextCIRProcessor.from_pretrained` takes a saved processor as well as the folder or Hub name of any CLIP model.

    Args:
        image_processor (`CLIPImageProcessorPil`):
            Pixels; always the PIL version, so that they are the same with and without torchvision.
        tokenizer (`CLIPTokenizer`):
            Token ids; must be able to return character offsets.

    Raises:
        ValueError: for a tokenizer without even the bytes. Where the files of the vocabulary are missing, transformers
            makes one of begin and end alone, which reads every text as the same unknown token.
    """

    @property
    def model_input_names(self) -> list[str]:
        phrases = ["phrase_input_ids", "phrase_attention_mask", "phrase_sample", "phrase_token_mask"]
        return ["pixel_values", "input_ids", "attention_mask", *phrases]

    def __call__(self, images=None, text=None, noun_phrases=None, return_tensors="pt", **kwargs) -> BatchFeature:
        r"""
        Args:
            images (`PIL.Image.Image` or list of them, *optional*):
                RGB images. `contextcir.data.images.load_image` makes one of any file, array or Pillow image.
            text (`str` or `list[str]`, *optional*):
                Modification texts. The empty text is allowed.
            noun_phrases (`list[list[dict]]`, *optional*):
                For each text its noun phrases: `{"text", "start", "end"}` or `(start, end)`, characters of the text.
            return_tensors (`str`, defaults to `"pt"`):
                Only `"pt"` with noun phrases.
            **kwargs: options of the image processor and the tokenizer, as for any processor (`padding`, ...).

        Returns:
            `BatchFeature`:

            - with images: `pixel_values` `(num_images, 3, height, width)`,
            - with texts: `input_ids`, `attention_mask` `(batch_size, length)`, padded on the right to the longest,
            - with noun phrases (there may be none): `phrase_input_ids`, `phrase_attention_mask`
              `(num_phrases, phrase_length)`, each by itself with begin and end token; `phrase_sample`
              `(num_phrases,)`, the row of its text; `phrase_token_mask` `(num_phrases, length)`, bool, its tokens in
              that row; and two counts, 0-dim: `num_truncated_texts`, and `num_dropped_phrases`, which begin or end
              inside a token or were cut off with their text.

        Raises:
            ValueError: for noun phrases in another form, outside their text or with another text than their own, and
                lists of different lengths, naming the row; and for paths and Pillow images of more than 8 bits.
        """
        if noun_phrases is not None and text is None:
            raise ValueError("`noun_phrases` are spans of `text`, which is missing.")
        if images is None and text is None:
            raise ValueError("Give `images`, `text` or both.")
        # Not the tokenizer's `init_kwargs`: after a save, these hold the padding and truncation of its last call.
        merged = self._merge_kwargs(ContextCIRProcessorKwargs, return_tensors=return_tensors, **kwargs)
        data = {}
        if images is not None:
            refuse_unread_images(images)
            data.update(self.image_processor(images, **merged["images_kwargs"]))
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            encoding = self._tokenize(texts, **merged["text_kwargs"])
            data.update(input_ids=encoding["input_ids"], attention_mask=encoding["attention_mask"])
            num_truncated = sum(bool(row.overflowing) for row in encoding.encodings)
            if noun_phrases is not None:
                data.update(self._encode_noun_phrases(texts, noun_phrases, encoding, **merged["text_kwargs"]))
                data["num_truncated_texts"] = torch.tensor(num_truncated)
            elif num_truncated:
                logger.warning_once(f"Texts are cut to {self.max_length} tokens.")
        return BatchFeature(data)

    def _encode_noun_phrases(self, texts, noun_phrases, encoding, **kwargs) -> dict[str, torch.Tensor]:
        if len(noun_phrases) != len(texts):
            raise ValueError(f"`noun_phrases` has {len(noun_phrases)} entries for {len(texts)} texts.")
        length = encoding["input_ids"].shape[1]
        phrases, samples, masks, num_dropped = [], [], [], 0
        for row, (text, spans) in enumerate(zip(texts, noun_phrases, strict=True)):
            offsets = encoding.encodings[row].offsets
            special = encoding.encodings[row].special_tokens_mask
            if not isinstance(spans, (list, tuple)):
                raise ValueError(f"Row {row}: got {spans!r}, expected the list of the noun phrases of one text.")
            for span in spans:
                start, end = _start_and_end(span, row)
                if not 0 <= start < end <= len(text):
                    raise ValueError(
                        f"Row {row}: noun phrase {span!r} lies outside its text of {len(text)} characters: {text!r}."
                    )
                if isinstance(span, dict) and span.get("text", text[start:end]) != text[start:end]:
                    raise ValueError(
                        f"Row {row}: at the span of {span!r}, the text reads {text[start:end]!r}: {text!r}."
                    )
                tokens = find_span(offsets, special, start, end)
                if tokens is None:
                    num_dropped += 1
                    continue
                phrases.append(text[start:end])
                samples.append(row)
                masks.append([position in tokens for position in range(length)])
        if phrases:
            isolated = self._tokenize(phrases, **kwargs)
            input_ids, attention_mask = isolated["input_ids"], isolated["attention_mask"]
        else:  # a batch of captions without noun phrases is normal
            input_ids = attention_mask = torch.zeros(0, 2, dtype=torch.long)
        return {
            "phrase_input_ids": input_ids,  # (num_phrases, phrase_length)
            "phrase_attention_mask": attention_mask,
            "phrase_sample": torch.tensor(samples, dtype=torch.long),
            "phrase_token_mask": torch.tensor(masks, dtype=torch.bool).reshape(len(masks), length),
            "num_dropped_phrases": torch.tensor(num_dropped),
        }


def _start_and_end(span, row: int) -> tuple[int, int]:
    try:
        start, end = (span["start"], span["end"]) if isinstance(span, dict) else span
        return operator.index(start), operator.index(end)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"Row {row}: got the noun phrase {span!r}, expected {{'text', 'start', 'end'}} or (start, end) in whole"
            " characters of the text, in one list for each text."
        ) from None


def find_span(offsets, special_tokens_mask, start: int, end: int) -> range | None:
    """
    The tokens that cover exactly the characters `start` to `end` of a text.

    Args:
        offsets (`list[tuple[int, int]]`): characters of each token. Several byte-level tokens of one character share
            its offsets.
        special_tokens_mask (`list[int]`): 1 for begin, end and padding.
        start (`int`): first character.
        end (`int`): one past the last character.

    Returns:
        `range` of positions, or `None` where the span begins or ends inside a token, or its text was cut off.
    """
    inside = [
        position
        for position, ((first, last), special) in enumerate(zip(offsets, special_tokens_mask, strict=True))
        if not special and first < end and last > start
    ]
    if not inside or offsets[inside[0]][0] != start or offsets[inside[-1]][1] != end:
        return None
    return range(inside[0], inside[-1] + 1)


__all__ = ["ContextCIRProcessor"]
