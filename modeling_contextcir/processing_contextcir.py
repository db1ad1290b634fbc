"""Processor of ConText-CIR: images, modification texts and the character spans of their noun phrases -> tensors.

Paper: ConText-CIR (CVPR 2025), section 3.3. A noun phrase is needed twice: isolated (its own token ids) and in context
(its tokens in the whole text). Spans are matched to tokens by the tokenizer's offsets, exactly or not at all.
"""

import operator
from typing import Any

import torch
from transformers import BatchFeature

from .clip_processor import CLIPBasedProcessor


class ContextCIRProcessor(CLIPBasedProcessor):
    """[`CLIPBasedProcessor`] that also makes the noun-phrase tensors of the concept-consistency loss. Its tokenizer
    must return character offsets."""

    @property
    def model_input_names(self) -> list[str]:
        phrases = ["phrase_input_ids", "phrase_attention_mask", "phrase_sample", "phrase_token_mask"]
        return [*super().model_input_names, *phrases]

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        noun_phrases: list[list[dict[str, Any] | tuple[int, int]]] | None = None,
        *,
        return_phrase_places: bool = False,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        Prepare images, texts and noun phrases for the model. Arguments, results and errors as for
        [`CLIPBasedProcessor.__call__`], and for each text its `noun_phrases`: `{"text", "start", "end"}` or
        `(start, end)`, characters of the text. `return_tensors` must then be `"pt"`.

        Returns:
            `BatchFeature`, with noun phrases (there may be none) also:

            - `phrase_input_ids`, `phrase_attention_mask` `(num_phrases, phrase_length)`: each phrase alone, with begin
              and end token,
            - `phrase_sample` `(num_phrases,)`: the row of its text,
            - `phrase_token_mask` `(num_phrases, length)`, bool: its tokens in that row,
            - two counts, 0-dim: `num_truncated_texts`, and `num_dropped_phrases`, which begin or end inside a token or
              were cut off with their text,
            - with `return_phrase_places`, `phrase_place` `(num_phrases,)`: its place among the given phrases of its
              text.

        Raises:
            ValueError: Noun phrases of a row, which is named, have another form, another text than their own or are
                outside their text, or the lists differ in length.
        """
        if noun_phrases is None:
            return super().__call__(images, text, return_tensors=return_tensors, **kwargs)
        if text is None:
            raise ValueError("`noun_phrases` are spans of `text`, which is missing.")
        texts = [text] if isinstance(text, str) else list(text)
        inputs, encoding, options = self._encode(images, texts, True, return_tensors=return_tensors, **kwargs)
        phrases, places = self._encode_noun_phrases(texts, noun_phrases, encoding, options)
        inputs.update(phrases | ({"phrase_place": places} if return_phrase_places else {}))
        return inputs

    def _encode_noun_phrases(self, texts, noun_phrases, encoding, options) -> tuple[dict[str, torch.Tensor], Any]:
        if len(noun_phrases) != len(texts):
            raise ValueError(f"`noun_phrases` has {len(noun_phrases)} entries for {len(texts)} texts.")
        length = encoding["input_ids"].shape[1]
        phrases, samples, places, masks, num_dropped = [], [], [], [], 0
        for row, (text, spans) in enumerate(zip(texts, noun_phrases, strict=True)):
            offsets = encoding.encodings[row].offsets
            special = encoding.encodings[row].special_tokens_mask
            if not isinstance(spans, (list, tuple)):
                raise ValueError(f"Row {row}: got {spans!r}, expected the list of the noun phrases of one text.")
            for place, span in enumerate(spans):
                start, end = _start_and_end(span, row)
                if not 0 <= start < end <= len(text):
                    raise ValueError(f"Row {row}: {span!r} is outside its text of {len(text)} characters: {text!r}.")
                if isinstance(span, dict) and span.get("text", text[start:end]) != text[start:end]:
                    raise ValueError(f"Row {row}: {span!r} is {text[start:end]!r} in its text: {text!r}.")
                tokens = _find_span(offsets, special, start, end)
                if tokens is None:
                    num_dropped += 1
                    continue
                phrases.append(text[start:end])
                samples.append(row)
                places.append(place)
                masks.append([position in tokens for position in range(length)])
        if phrases:
            isolated = self._tokenize(phrases, **options)
            input_ids, attention_mask = isolated["input_ids"], isolated["attention_mask"]
        else:  # a batch of texts without noun phrases is normal
            input_ids = attention_mask = torch.zeros(0, 2, dtype=torch.long)
        encoded = {
            "phrase_input_ids": input_ids,  # (num_phrases, phrase_length)
            "phrase_attention_mask": attention_mask,
            "phrase_sample": torch.tensor(samples, dtype=torch.long),
            "phrase_token_mask": torch.tensor(masks, dtype=torch.bool).reshape(len(masks), length),
            "num_dropped_phrases": torch.tensor(num_dropped),
        }
        return encoded, torch.tensor(places, dtype=torch.long)


def _start_and_end(span: Any, row: int) -> tuple[int, int]:
    try:
        start, end = (span["start"], span["end"]) if isinstance(span, dict) else span
        return operator.index(start), operator.index(end)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"Row {row}: got the noun phrase {span!r}, expected {{'text', 'start', 'end'}} or (start, end) in whole"
            " characters of the text, in one list for each text."
        ) from None


def _find_span(offsets, special_tokens_mask, start: int, end: int) -> range | None:
    """Find the positions of the tokens that cover exactly the characters `start` to `end` of a text, or `None` if the
    span begins or ends inside a token or was cut off. Byte-level tokens of one character share its offsets."""
    inside = [
        position
        for position, ((first, last), special) in enumerate(zip(offsets, special_tokens_mask, strict=True))
        if not special and first < end and last > start
    ]
    if not inside or offsets[inside[0]][0] != start or offsets[inside[-1]][1] != end:
        return None
    return range(inside[0], inside[-1] + 1)
