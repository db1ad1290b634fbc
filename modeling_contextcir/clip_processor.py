"""Shared base of the processors: CLIP's image processor and tokenizer, with checks of their inputs."""

from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import logging

from .clip_image_processor import CIRImageProcessor, CIRImagesKwargs, check_fit

logger = logging.get_logger(__name__)

SMALLEST_VOCABULARY = 256 + 2  # byte-level BPE: all bytes, begin and end


class CLIPBasedProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]  # a `TypedDict`
    images_kwargs: CIRImagesKwargs
    _defaults = {"text_kwargs": {"padding": "longest", "truncation": True}}


class CLIPBasedProcessor(ProcessorMixin):
    r"""
    CLIP's image processor and tokenizer. `from_pretrained` loads a saved processor, or that of any CLIP model.

    Args:
        image_processor ([`CIRImageProcessor`]): Image processor. One of CLIP becomes one of these with its settings.
        tokenizer (`CLIPTokenizer`): Tokenizer.

    Raises:
        ValueError: The tokenizer has fewer entries than there are bytes. Where the vocabulary files are missing,
            transformers makes a tokenizer of begin and end only, to which every text is the same unknown token.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any):
        if image_processor is not None and not isinstance(image_processor, CIRImageProcessor):
            image_processor = CIRImageProcessor.from_dict(image_processor.to_dict())
        if tokenizer is not None and len(tokenizer) < SMALLEST_VOCABULARY:
            raise ValueError(
                f"The tokenizer of {tokenizer.name_or_path!r} has {len(tokenizer)} entries, expected at least"
                f" {SMALLEST_VOCABULARY}. Put tokenizer.json (or vocab.json and merges.txt) of its model there."
            )
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, image_fit: str | None = None, **kwargs: Any) -> Any:
        """Load a processor as in transformers. `image_fit` sets that of the image processor, see
        [`CIRImageProcessor`]; by default it stays as it was saved, and is `"crop"` for that of a CLIP."""
        processor = super().from_pretrained(*args, **kwargs)
        if image_fit is not None:
            processor.image_processor.image_fit = check_fit(image_fit)
        return processor

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask"]

    @property
    def max_length(self) -> int:
        """`int`: Most tokens of a text, begin and end included: the tokenizer's limit, or 77 if it has none."""
        length = self.tokenizer.model_max_length
        return length if length < 1_000_000 else 77  # tokenizers without a limit report 10**30

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        *,
        count_truncated: bool = False,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        Prepare images and texts for the model.

        Args:
            images (`PIL.Image.Image` or `np.ndarray` or list of them, *optional*): Images of any mode. Opened files
                give the same pixels as `contextcir.data.images.load_image`, which also names damaged ones.
            text (`str` or `list[str]`, *optional*): Modification texts, which may be empty.
            count_truncated (`bool`): Whether to return the number of texts that were cut, instead of warning once.
            return_tensors (`str`): As for any processor.
            **kwargs: Options of the image processor and the tokenizer, as for any processor (`padding`, ...).

        Returns:
            `BatchFeature`:

            - with images: `pixel_values` `(num_images, 3, height, width)`,
            - with texts: `input_ids` and `attention_mask` `(batch_size, length)`, padded on the right to the longest,
              and with `count_truncated` `num_truncated_texts`, 0-dim.

        Raises:
            ValueError: There are neither images nor texts, or images are paths or cannot be used.
        """
        return self._encode(images, text, count_truncated, return_tensors=return_tensors, **kwargs)[0]

    def _encode(self, images, text, count_truncated, **kwargs) -> tuple[BatchFeature, Any, dict[str, Any]]:
        """Return the inputs, the tokenizer's own output, and its options."""
        if images is None and text is None:
            raise ValueError("Give `images`, `text` or both.")
        # Not the tokenizer's `init_kwargs`: after a save, these hold the padding and truncation of its last call.
        options = self._merge_kwargs(CLIPBasedProcessorKwargs, **kwargs)
        inputs, encoding = BatchFeature(), None
        if images is not None:
            inputs.update(self.image_processor(images, **options["images_kwargs"]))
        if text is not None:
            encoding = self._tokenize([text] if isinstance(text, str) else list(text), **options["text_kwargs"])
            inputs.update(input_ids=encoding["input_ids"], attention_mask=encoding["attention_mask"])
            num_truncated = sum(bool(row.overflowing) for row in encoding.encodings)
            if count_truncated:
                inputs["num_truncated_texts"] = torch.tensor(num_truncated)
            elif num_truncated:
                logger.warning_once(f"Texts are cut to {self.max_length} tokens.")
        return inputs, encoding, options["text_kwargs"]

    def _tokenize(self, texts, **kwargs):
        # On the right whatever the tokenizer's config says: the model's text encoder relies on it.
        return self.tokenizer(texts, **{"max_length": self.max_length, **kwargs, "padding_side": "right"})
