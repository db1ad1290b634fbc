"""The image processor: the pixels of opened files of every kind, the three fits, and what is saved of them."""

import io
import json

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, CLIPImageProcessorPil

from contextcir.data import images as intake
from contextcir.data.images import ImageError, encode_image, load_image
from modeling_contextcir import CIRImageProcessor, ContextCIRModel, ContextCIRProcessor, InstructCIRProcessor

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (44, 60, 3), dtype=np.uint8))
GREY16 = Image.fromarray(RNG.integers(0, 65536, (44, 60), dtype=np.uint16))
ALPHA = Image.fromarray(RNG.integers(0, 256, (44, 60, 4), dtype=np.uint8), "RGBA")


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def palette_with_a_transparent_colour():
    image = PHOTO.quantize(16)
    image.info["transparency"] = 3
    return encode_image(image, "PNG", transparency=3)


FILES = {
    "RGB": encode_image(PHOTO),
    "L": encode_image(PHOTO.convert("L")),
    "LA": encode_image(ALPHA.convert("LA")),
    "RGBA": encode_image(ALPHA),
    "P": encode_image(PHOTO.quantize(16)),
    "P with a transparent colour": palette_with_a_transparent_colour(),
    "RGB with a transparent colour": encode_image(PHOTO, transparency=PHOTO.getpixel((3, 3))),
    "1": encode_image(PHOTO.convert("1")),
    "CMYK": encode_image(PHOTO.convert("CMYK"), "JPEG", quality=95),
    "LAB": encode_image(Image.merge("LAB", PHOTO.split()), "TIFF"),
    "I;16 PNG": encode_image(GREY16),
    "I;16 TIFF": encode_image(GREY16, "TIFF"),
    "I TIFF": encode_image(Image.fromarray(np.asarray(GREY16).astype(np.int32)), "TIFF"),
    "F TIFF": encode_image(Image.fromarray(RNG.random((44, 60), dtype=np.float32)), "TIFF"),
    "white is zero": encode_image(PHOTO.convert("L"), "TIFF", tiffinfo={262: 0}),
    "GIF": encode_image(PHOTO.quantize(8), "GIF"),
    "WEBP": encode_image(ALPHA, "WEBP", lossless=True),
    "AVIF": encode_image(PHOTO, "AVIF"),
    **{f"JPEG of orientation {n}": encode_image(PHOTO, "JPEG", exif=exif(n)) for n in range(1, 9)},
    "PNG of orientation 6": encode_image(PHOTO, exif=exif(6)),
}
if int(PIL.__version__.split(".")[0]) >= 13:  # 12, the last for Python 3.10, cannot read what it writes of these
    FILES["YCbCr"] = encode_image(PHOTO.convert("YCbCr"), "TIFF")


@pytest.fixture(scope="module", params=[ContextCIRProcessor, InstructCIRProcessor], ids=lambda kind: kind.__name__)
def either(request, clip_folder):
    return request.param.from_pretrained(clip_folder)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.fault(
    "E01", "an opened file gives the processor and its image processor the pixels of the same file when read"
)
def test_an_opened_file_gives_the_pixels_of_the_intake(either, kind):
    read = load_image(FILES[kind])
    expected = either(images=read)["pixel_values"]
    assert torch.equal(
        expected, torch.tensor(np.stack(plain(either)(read)["pixel_values"]))
    )  # CLIP's, of these pixels
    assert torch.equal(either(images=Image.open(io.BytesIO(FILES[kind])))["pixel_values"], expected)
    opened = [Image.open(io.BytesIO(FILES[kind])), PHOTO]
    assert torch.equal(either.image_processor(opened, return_tensors="pt")["pixel_values"][:1], expected)


def plain(processor):
    """CLIP's own image processor with the same settings, which reads upright RGB images in the same way."""
    return CLIPImageProcessorPil.from_dict(processor.image_processor.to_dict())


def test_the_kinds_of_files_are_what_they_say():
    modes = {kind: Image.open(io.BytesIO(content)).mode for kind, content in FILES.items()}
    assert {"RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "LAB", "I;16", "I", "F"} <= set(modes.values())
    assert ("YCbCr" in FILES) == ("YCbCr" in modes.values())
    wrong = [kind for kind in FILES if not torch.equal(*map(_pixels, _both(kind)))]
    assert len(wrong) > 10  # which CLIP's own image processor reads in another way


def _both(kind):
    return Image.open(io.BytesIO(FILES[kind])), load_image(FILES[kind])


def _pixels(image):
    return torch.tensor(np.stack(CLIPImageProcessorPil()(image)["pixel_values"]))


def test_heic(either):
    pytest.importorskip("pi_heif")
    from tests.data.test_images import HEIC

    assert "HEIF" in intake.FORMATS
    opened = either(images=Image.open(io.BytesIO(HEIC)))["pixel_values"]
    assert torch.equal(opened, either(images=load_image(HEIC))["pixel_values"])


@pytest.mark.fault("E03", "arrays of floats or 16 bits give the pixels of the same image, not black ones")
def test_arrays_and_tensors(either):
    array = np.asarray(PHOTO)
    expected = either(images=PHOTO)["pixel_values"]
    wider = array.astype(np.uint16) * 257
    first = np.moveaxis(array, -1, 0)
    for given in (array, wider, array / 255.0, array.astype(np.int64), first, torch.tensor(first)):
        assert torch.equal(either(images=given)["pixel_values"], expected)
        assert torch.equal(either(images=[given, given])["pixel_values"], expected.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"from 0.0 to 255.0, expected \[0, 1\]"):
        either(images=array.astype(np.float32) / array.max() * 255)
    ready = np.moveaxis(array, -1, 0).astype(np.float32) / 255  # a caller who has scaled values already
    prepared = either(images=ready, do_rescale=False, do_resize=False)["pixel_values"]
    ours = either(images=PHOTO, do_resize=False)["pixel_values"]
    assert torch.allclose(prepared, ours, atol=1e-6)


def test_what_the_intake_refuses_is_refused(either):
    for image in (Image.new("RGB", (1, 101)), Image.new("1", (10_000, 5_001))):
        with pytest.raises(ImageError):
            load_image(image)
        with pytest.raises(ValueError, match="too (thin|large)"):
            either(images=image)


# Fits

BARS = Image.new("RGB", (120, 30), "white")  # 4:1: a red left end, a blue right end, which the crop loses
BARS.paste("red", (0, 0, 30, 30))
BARS.paste("blue", (90, 0, 120, 30))


def shown(processor, image, **options):
    """The square that the model sees, as 8 bits: `(30, 30, 3)`."""
    pixels = processor(images=image, **options)["pixel_values"][0].permute(1, 2, 0).numpy()
    settings = processor.image_processor
    return np.round((pixels * settings.image_std + settings.image_mean) * 255).astype(int)


def colours(square):
    return [name for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))) if (square == colour).all(-1).any()]


@pytest.mark.fault("F12", "a wide image keeps its sides where the processor pads or squashes it")
def test_fits(either):
    wide, high = BARS, BARS.transpose(Image.Transpose.ROTATE_90)
    for image in (wide, high):
        assert colours(shown(either, image)) == colours(shown(either, image, image_fit="crop")) == []
        for fit in ("padding", "squash"):
            assert colours(shown(either, image, image_fit=fit)) == ["red", "blue"]
    padded = shown(either, wide, image_fit="padding")
    mean = np.round(255 * np.array(either.image_processor.image_mean))
    assert (padded[:11] == mean).all() and (padded[19:] == mean).all() and not (padded[11:19] == mean).all(-1).any()
    assert np.abs(either(images=wide, image_fit="padding")["pixel_values"][0, :, 0]).max() < 0.01  # zero, but rounded
    assert np.array_equal(padded.swapaxes(0, 1)[:, ::-1], shown(either, high, image_fit="padding")[::-1, ::-1])
    squashed = shown(either, wide, image_fit="squash")
    assert (squashed[:, :5] == (255, 0, 0)).all() and (squashed[:, -5:] == (0, 0, 255)).all()
    thin = shown(either, Image.new("RGB", (100, 1), "red"), image_fit="padding")
    assert colours(thin) == ["red"]
    square = PHOTO.resize((64, 64))
    assert all(
        np.array_equal(shown(either, square), shown(either, square, image_fit=f)) for f in ("padding", "squash")
    )


def test_an_unknown_fit_is_refused(either, clip_folder):
    for make in (
        lambda: CIRImageProcessor(image_fit="stretch"),
        lambda: type(either).from_pretrained(clip_folder, image_fit="stretch"),
        lambda: ContextCIRModel.from_clip_pretrained(clip_folder, image_fit="stretch"),
    ):
        with pytest.raises(Exception, match="stretch"):
            make()
    for call in (either, either.image_processor):
        with pytest.raises(Exception, match="stretch"):
            call(images=PHOTO, image_fit="stretch")


@pytest.mark.parametrize("fit", ["crop", "padding", "squash"])
@pytest.mark.fault("F13", "the fit of the images survives saving and loading, in the model and in its processor")
def test_the_fit_is_saved(either, clip_folder, tmp_path, fit):
    made = type(either).from_pretrained(clip_folder, image_fit=fit)
    made.save_pretrained(tmp_path)
    ContextCIRModel.from_clip_pretrained(clip_folder, image_fit=fit).save_pretrained(tmp_path)
    assert ContextCIRModel.from_pretrained(tmp_path).config.image_fit == fit
    for again in (AutoProcessor.from_pretrained(tmp_path), type(either).from_pretrained(tmp_path)):
        assert again.image_processor.image_fit == fit
        assert np.array_equal(shown(again, BARS), shown(either, BARS, image_fit=fit))
    alone = AutoImageProcessor.from_pretrained(tmp_path)  # CLIP's, or one that knows the fit
    assert getattr(alone, "image_fit", "crop") == fit
    saved = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    assert saved["image_processor_type"] == ("CLIPImageProcessor" if fit == "crop" else "CIRImageProcessor")
    assert type(either).from_pretrained(tmp_path, image_fit="squash").image_processor.image_fit == "squash"
