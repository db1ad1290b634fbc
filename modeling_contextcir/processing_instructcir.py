"""Images and modification texts -> tensors for InstructCIR.

Paper: arXiv 2504.00812, section II-B: CLIP's inputs, and nothing else. The null text of a gallery image is the model's
own business.
"""

import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import logging

from .clip_processor import AroundCLIPProcessor, refuse_unread_images

logger = logging.get_logger(__name__)


class InstructCIRProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": "longest", "truncation": True}}


class InstructCIRProcessor(AroundCLIPProcessor):
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

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask"]

    def __call__(
        self, images=None, text=None, count_truncated: bool = False, return_tensors="pt", **kwargs
    ) -> BatchFeature:
        r"""
        Args:
            images (`PIL.Image.Image` or list of them, *optional*):
                RGB images. `contextcir.data.images.load_image` makes one of any file, array or Pillow image.
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
            refuse_unread_images(images)
            data.update(self.image_processor(images, **merged["images_kwargs"]))
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            encoding = self._tokenize(texts, **merged["text_kwargs"])
            data.update(input_ids=encoding["input_ids"], attention_mask=encoding["attention_mask"])
            num_truncated = sum(bool(row.overflowing) for row in encoding.encodings)
            if count_truncated:
                data["num_truncated_texts"] = torch.tensor(num_truncated)
            elif num_truncated:
                logger.warning_once(f"Texts are cut to {self.max_length} tokens.")
        return BatchFeature(data)


__all__ = ["InstructCIRProcessor"]
