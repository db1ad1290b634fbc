"""Pixels as a viewer shows them: an opened image, or an array, of any mode becomes an upright RGB image.

Pillow alone saturates 16-bit grey, turns float TIFF black, shows the hidden colours of transparent pixels, and ignores
the EXIF orientation. This file stands twice, in `contextcir/data` and in `modeling_contextcir`, since the code of a
model travels to the Hub alone. Both are the same byte for byte, so that the processors of the models and the readers
of files give the same pixels; a test compares them.
"""

import numpy as np
from PIL import Image

MAX_PIXELS = 50_000_000
# CLIP scales the shorter side to its size and then crops the middle: in between, 1 x 100,000 pixels become
# 336 x 33,600,000 (34 GB), and 1 x 100 become 336 x 33,600 (34 MB). Photographic panoramas are at most about 1:20.
MAX_ASPECT_RATIO = 100

_ORIENTATION_TAG = 0x0112
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0  # of TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image that cannot be used. The message names the image and says what is wrong and what to do."""


def upright_rgb(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """
    Convert an opened image.

    Args:
        image (`PIL.Image.Image`): An image of any mode. If its pixels are not loaded yet, they are now.
        name (`str`): Name of the image in errors.
        max_pixels (`int`, *optional*, defaults to 50,000,000): Larger images are an error.

    Returns:
        `PIL.Image.Image`: A new image of mode `RGB`, without any metadata: an orientation that stayed would be applied
        once more by whoever reads the image next.

    Raises:
        [`ImageError`]: The image is too large, thinner than 1:100, or its values have no clear meaning.
    """
    check_size(image.width, image.height, name, max_pixels)
    _check_transparent_colour(image, name)
    image.load()
    orientation = _orientation(image)
    image = _to_rgb(image, name)
    image = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
    image.info = {}
    return image


def rgb_of_array(array: np.ndarray, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """
    Convert pixels.

    Args:
        array (`np.ndarray` of shape `(height, width)` or `(height, width, channels)`): 1, 3 or 4 channels, as `uint8`
            or `uint16` over the whole range, `bool`, floats in [0, 1] or other integers in [0, 255].
        name (`str`): Name of the image in errors.
        max_pixels (`int`, *optional*, defaults to 50,000,000): Larger images are an error.

    Returns:
        `PIL.Image.Image`: A new image of mode `RGB`.

    Raises:
        [`ImageError`]: The shape, the size or the values are others.
    """
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise ImageError(
            f"{name}: got an array of shape {array.shape}, expected (height, width) or (height, width, channels)"
            " with 1, 3 or 4 channels. Move the channels last."
        )
    check_size(array.shape[1], array.shape[0], name, max_pixels)
    array = _to_uint8(array, name)
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array.reshape(array.shape[:2]) if grey else array)), name)


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise an [`ImageError`] for an image without pixels, with too many, or thinner than 1:100."""
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width} x {height}).")
    if width * height > max_pixels:
        raise too_large(name, f"{width} x {height} pixels", max_pixels)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageError(
            f"{name}: is too thin ({width} x {height} pixels; at most 1:{MAX_ASPECT_RATIO}). Crop or split it."
        )


def _check_transparent_colour(image: Image.Image, name: str) -> None:
    """Refuse PNG files whose pixels Pillow scales to 8 bits, but not the colour that means "transparent". That colour
    then matches other pixels, unless it is grey 0. Call this before the pixels are loaded."""
    depths = [tile[3] for tile in getattr(image, "tile", []) if tile[3] in ("RGB;16B", "L;2", "L;4")]
    if depths and image.info.get("transparency") not in (None, 0):
        raise ImageError(
            f"{name}: has pixels of depth {depths[0]} with a transparent colour, which Pillow cannot read together."
            " Save it with an alpha channel."
        )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata, intact pixels: the orientation is unknown
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # `convert` would clip these at 255
        # Pillow opens 16-bit grey as I;16, or as I (32 bits) for formats with at most 16 bits.
        values = np.asarray(image)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
            values = (1 if image.mode == "F" else 65535) - values  # Pillow does this up to 8 bits only
        if image.mode != "F":
            _check_range(values, 65535, name)
            values = values.astype(np.uint16)
        grey = Image.fromarray(_to_uint8(values, name))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # PNG: one grey value means "transparent"
            grey.paste(255, mask=Image.fromarray(np.asarray(image) == transparent))
        image = grey
    if image.mode == "La":  # premultiplied grey, which Pillow cannot convert to RGBA directly
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Convert pixels of shape `(height, width[, channels])` from the conventional range of their type to `uint8`."""
    if values.dtype == np.uint8:
        return values
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257, rounded to nearest
    if values.dtype.kind not in "iuf":
        raise ImageError(f"{name}: got pixels of type {values.dtype}, expected integers, floats or booleans.")
    if values.dtype.kind == "f":
        _check_range(values, 1, name, tolerance=1e-3)  # resampling overshoots the range slightly
        return (values.clip(0, 1) * 255).round().astype(np.uint8)
    _check_range(values, 255, name)
    return values.astype(np.uint8)


def _check_range(values: np.ndarray, highest: int, name: str, tolerance: float = 0) -> None:
    low, high = values.min(), values.max()
    if not (low >= -tolerance and high <= highest + tolerance):  # NaN fails both comparisons
        raise ImageError(
            f"{name}: holds {values.dtype} from {low} to {high}, expected [0, {highest}]. Rescale the values, or"
            " convert them to uint8 or uint16."
        )


def too_large(name: str, size: str, max_pixels: int) -> ImageError:
    """The error of an image with too many pixels."""
    return ImageError(f"{name}: is too large ({size}; at most {max_pixels:,} pixels). Scale it down.")
