"""How images become squares for a model, and how many lose much by it."""

from logging import getLogger
from typing import Any

from PIL import Image

logger = getLogger(__name__)

WIDE = 2  # the longer side over the shorter one: the crop takes away half of such an image


def is_wide(image: Image.Image) -> bool:
    """Return whether an image is wider than 2:1, or higher."""
    return max(image.size) > WIDE * min(image.size)


def fit_of(processor: Any) -> str:
    """Return the `image_fit` of a processor or an image processor. That of CLIP is `crop`."""
    return getattr(getattr(processor, "image_processor", processor), "image_fit", "crop")


def check_fit(model: Any, processor: Any) -> None:
    """Raise a `ValueError` if a model of this library was made for another `image_fit` than that of a processor."""
    expected = getattr(getattr(model, "config", None), "image_fit", None)
    if expected is not None and expected != (got := fit_of(processor)):
        raise ValueError(
            f"The model has image_fit={expected!r} in its config, the processor has {got!r}. Load the processor that"
            f" was saved with the model, or give image_fit={expected!r} to `from_pretrained` of the processor."
        )


def warn_of_wide(wide: int, total: int, fit: str | None) -> None:
    """Warn if some of the images that were read are wider than 2:1 and lose their sides."""
    if fit == "crop" and wide:
        logger.warning(
            f"{wide:,} of {total:,} images ({wide / total:.1%}) are wider or higher than {WIDE}:1 and lose their"
            " sides: the model sees the square in their middle. To train a model that sees all of an image, use"
            " --image_fit padding or squash."
        )
