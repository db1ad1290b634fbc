"""CLIP's image processor for images as people have them: of any mode, upright as viewers show them, of any shape.

CLIP scales the shorter side of an image to its size and crops the middle: an image of 2:1 loses half of itself. Two
other fits keep all of it.
"""

import os
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, CLIPImageProcessorPil
from transformers.processing_utils import ImagesKwargs

from .clip_config import ImageFit
from .pixels import rgb_of_array, upright_rgb


class CIRImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]  # a `TypedDict`
    """Options of the image processor: those of CLIP, and `image_fit`."""

    image_fit: ImageFit


class CIRImageProcessor(CLIPImageProcessorPil):
    r"""
    CLIP's image processor (the PIL version, so that pixels are the same with and without torchvision), with two
    differences.

    Pillow images and arrays are converted as `contextcir.data.images.load_image` does it: orientation, transparency,
    16 bits, palettes and so on. An opened file gives the same pixels here and there.

    `image_fit` says how an image of another shape becomes a square:

    - `"crop"` (default): the middle of it, as CLIP was trained;
    - `"padding"`: all of it, reduced, between bars in the mean colour, which is zero after normalisation;
    - `"squash"`: all of it, with other proportions.

    Args:
        image_fit (`str`, *optional*, defaults to `"crop"`): One of the three.
        **kwargs: As for `CLIPImageProcessor`.

    Raises:
        ValueError: There is no such `image_fit`, or an image is a path, too thin, too large, or has values without a
            clear meaning.
    """

    valid_kwargs = CIRImagesKwargs
    image_fit = "crop"

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        check_fit(self.image_fit)

    def to_dict(self) -> dict[str, Any]:
        """The settings. With the default fit they are those of CLIP. With another one, readers that do not know it
        refuse the type, instead of cropping."""
        settings = super().to_dict()
        if settings["image_fit"] == "crop":
            del settings["image_fit"]
            settings["image_processor_type"] = "CLIPImageProcessor"
        return settings

    def fetch_images(self, images: Any) -> Any:
        """Refuse paths, which transformers would read without any limit, and URLs, which it would follow."""
        if isinstance(images, (str, os.PathLike)):
            raise ValueError(
                f"Got the path {os.fspath(images)!r}, expected an image. Read it with"
                " `contextcir.data.images.load_image`, or open it with Pillow."
            )
        return super().fetch_images(images)

    def process_image(self, image: Any, do_convert_rgb: bool | None = None, **kwargs: Any) -> np.ndarray:
        """Convert one image to 8-bit RGB, `(3, height, width)`. With `do_rescale=False` arrays are taken as they are:
        they are prepared already."""
        if do_convert_rgb and isinstance(image, Image.Image):
            image = upright_rgb(image, "the image")
        elif do_convert_rgb and kwargs.get("do_rescale") and isinstance(image, (np.ndarray, torch.Tensor)):
            image = rgb_of_array(_channels_last(image, kwargs.pop("input_data_format", None)), "the image")
        return super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)

    def _preprocess(self, images: list[np.ndarray], *args: Any, **kwargs: Any) -> BatchFeature:
        fit = check_fit(kwargs.pop("image_fit", "crop"))
        if fit != "crop" and kwargs["do_resize"]:
            size = kwargs["crop_size"] if kwargs["do_center_crop"] else kwargs["size"]
            if not (size.height and size.width):
                raise ValueError(
                    f"image_fit={fit!r} needs a `crop_size` or a `size` with height and width, got {size}."
                )
            resample = kwargs["resample"]
            if fit == "squash":
                images = [self.resize(image, size, resample) for image in images]
            else:
                images = [self._padded(image, size, resample, kwargs["image_mean"]) for image in images]
            kwargs |= {"do_resize": False, "do_center_crop": False}
        return super()._preprocess(images, *args, **kwargs)

    def _padded(self, image: np.ndarray, size: Any, resample: Any, mean: Any) -> np.ndarray:
        """Scale an image `(3, height, width)` to fit into a size, between bars of equal widths."""
        scale = min(size.height / image.shape[1], size.width / image.shape[2])
        height, width = (max(1, round(scale * length)) for length in image.shape[1:])
        whole = np.empty((3, size.height, size.width), dtype=image.dtype)
        whole[:] = np.round(255 * np.array(mean)).reshape(3, 1, 1)
        top, left = (size.height - height) // 2, (size.width - width) // 2
        inside = type(size)(height=height, width=width)
        whole[:, top : top + height, left : left + width] = self.resize(image, inside, resample)
        return whole


def check_fit(image_fit: str) -> str:
    """Return a fit, or raise a `ValueError` if there is no such one."""
    if image_fit not in get_args(ImageFit):
        raise ValueError(f"Got image_fit={image_fit!r}, expected one of {', '.join(get_args(ImageFit))}.")
    return image_fit


def _channels_last(image: Any, data_format: str | None) -> np.ndarray:
    """An array or a tensor as `(height, width[, channels])`. Without a format, three or four channels may be first."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    if data_format is None and array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        data_format = "channels_first"
    return np.moveaxis(array, 0, -1) if data_format == "channels_first" and array.ndim == 3 else array
