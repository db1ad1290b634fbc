"""Images and modification texts -> tensors for InstructCIR.

Paper: arXiv 2504.00812, section II-B: CLIP's inputs, and nothing else. The null text of a gallery image is the model's
own business.
"""

import os

import torch
from transformers import BatchFeature, CLIPImageProcessorPil, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import logging

logger = logging.get_logger(__name__)

SMALLEST_VOCABULARY = 256 + 2  # byte-level BPE: all bytes, begin and end


class InstructCIRProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": "longest", "truncation": True}}


class InstructCIRProcessor(ProcessorMixin):
    r"""
    CLIP's image processor and tokenizer.

    `InstructCIRProcessor.from_pretrained` takes a saved processor as well as the folder or Hub name of any CLIP model.

    Args:
        image_processor (`CLIPImageProcessorPil`):
            Pixels; always the PIL version, so that they are the same with and without torchvision.
        tokenizer (`CLIPTokenizer`):
            Token ids.

    Raises:
        ValueError: for a tokenizer without even the bytes. Where the files of the vocabulary are missing, transformers
            makes one of begin and end alone, which reads every text as the same unknown token.
    """

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        if type(image_processor).__name__ == "CLIPImageProcessor":
            # Where torchvision is installed, transformers picks this one; `from_pretrained(backend="pil")` would
            # prevent that, but also ends up in the config of the tokenizer.
            image_processor = CLIPImageProcessorPil.from_dict(image_processor.to_dict())
        if tokenizer is not None and len(tokenizer) < SMALLEST_VOCABULARY:
            raise ValueError(
                f"The tokenizer of {tokenizer.name_or_path!r} has {len(tokenizer)} entries, expected at least"
                f" {SMALLEST_VOCABULARY}. Put tokenizer.json (or vocab.json and merges.txt) of its model there."
            )
        super().__init__(image_processor, tokenizer, **kwargs)

    @property
    def max_length(self) -> int:
        """To how many tokens, begin and end included, a text is cut: 77, unless the tokenizer says otherwise."""
        length = self.tokenizer.model_max_length
        return length if length < 1_000_000 else 77  # tokenizers without a limit report 10**30

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask"]

    def __call__(
        self, images=None, text=None, count_truncated: bool = False, return_tensors="pt", **kwargs
    ) -> BatchFeature:
        r"""
        Args:
            images (`PIL.Image.Image` or list of them, *optional*):
                RGB images. `contextcir.images.load_image` makes one of any file, array or Pillow image.
            text (`str` or `list[str]`, *optional*):
                Modification texts. The empty text is allowed.
            count_truncated (`bool`, defaults to `False`):
                Whether to say how many texts were cut, instead of warning once.
            return_tensors (`str`, defaults to `"pt"`): as for any processor.
            **kwargs: options of the image processor and the tokenizer, as for any processor (`padding`, ...).

        Returns:
            `BatchFeature`:

            - with images: `pixel_values` `(num_images, 3, height, width)`,
            - with texts: `input_ids`, `attention_mask` `(batch_size, length)`, padded on the right to the longest, and
              `num_truncated_texts`, 0-dim, if it is asked for.

        Raises:
            ValueError: where neither is given; and for paths and Pillow images of more than 8 bits.
        """
        if images is None and text is None:
            raise ValueError("Give `images`, `text` or both.")
        # Not the tokenizer's `init_kwargs`: after a save, these hold the padding and truncation of its last call.
        merged = self._merge_kwargs(InstructCIRProcessorKwargs, return_tensors=return_tensors, **kwargs)
        data = {}
        if images is not None:
            _refuse_unread_images(images)
            data.update(self.image_processor(images, **merged["images_kwargs"]))
        if text is not None:
            # On the right, whatever the tokenizer says: the text encoder of the model relies on it.
            options = {"max_length": self.max_length, **merged["text_kwargs"], "padding_side": "right"}
            encoding = self.tokenizer([text] if isinstance(text, str) else list(text), **options)
            data.update(input_ids=encoding["input_ids"], attention_mask=encoding["attention_mask"])
            num_truncated = sum(bool(row.overflowing) for row in encoding.encodings)
            if count_truncated:
                data["num_truncated_texts"] = torch.tensor(num_truncated)
            elif num_truncated:
                logger.warning_once(f"Texts are cut to {self.max_length} tokens.")
        return BatchFeature(data)


def _refuse_unread_images(images) -> None:
    """CLIP's image processor would read a path without its orientation or any limit, and cut values at 255."""
    for place, image in enumerate(images if isinstance(images, (list, tuple)) else [images]):
        mode = getattr(image, "mode", "")
        if isinstance(image, (str, os.PathLike)) or mode == "F" or str(mode).startswith("I"):
            what = f"a Pillow image of mode {mode!r}" if mode else f"the path {os.fspath(image)!r}"
            raise ValueError(
                f"Image {place} is {what}, expected 8-bit RGB. Read it with `contextcir.images.load_image`, or"
                " convert it yourself."
            )


__all__ = ["InstructCIRProcessor"]
