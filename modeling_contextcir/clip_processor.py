"""What processors around CLIP's image processor and tokenizer share.

The folders `modeling_*` travel alone, so that each has this file of its own, the same byte for byte (a test compares).
"""

import os

from transformers import CLIPImageProcessorPil, ProcessorMixin

SMALLEST_VOCABULARY = 256 + 2  # byte-level BPE: all bytes, begin and end


class AroundCLIPProcessor(ProcessorMixin):
    r"""
    `from_pretrained` takes a saved processor as well as the folder or Hub name of any CLIP model.

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

    def _tokenize(self, texts, **kwargs):
        # On the right, whatever the tokenizer says: the text encoder of the model relies on it.
        return self.tokenizer(texts, **{"max_length": self.max_length, **kwargs, "padding_side": "right"})


def refuse_unread_images(images) -> None:
    """CLIP's image processor would read a path without its orientation or any limit, and cut values at 255."""
    for place, image in enumerate(images if isinstance(images, (list, tuple)) else [images]):
        mode = getattr(image, "mode", "")
        if isinstance(image, (str, os.PathLike)) or mode == "F" or str(mode).startswith("I"):
            what = f"a Pillow image of mode {mode!r}" if mode else f"the path {os.fspath(image)!r}"
            raise ValueError(
                f"Image {place} is {what}, expected 8-bit RGB. Read it with `contextcir.data.images.load_image`, or"
                " convert it yourself."
            )
