"""Wide images: who says how many there are, and galleries that were embedded with another fit."""

import pytest
import torch
from PIL import Image

from contextcir.benchmarks.base import Benchmark
from contextcir.evaluation.measure import measure
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.identity import Identity, ModelIdentity
from contextcir.retrieval.store.layout import StoreError
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

SIZES = {"square.png": (40, 40), "two to one.png": (80, 40), "wide.png": (81, 40), "high.png": (30, 90)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        Image.effect_noise(size, 40 + number).convert("RGB").save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def retriever(clip_folder):
    def build(fit="crop", **options):
        torch.manual_seed(0)
        model = ContextCIRModel.from_clip_pretrained(clip_folder, image_fit=fit)
        processor = ContextCIRProcessor.from_pretrained(clip_folder, image_fit=fit)
        return DenseRetriever.from_model(model, processor, **options)

    return build


def said(caplog):
    return [record.getMessage() for record in caplog.records if "2:1" in record.getMessage()]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.fault("F18", "indexing says once how many images lose their sides to the crop")
def test_indexing_counts_wide_images(folder, retriever, tmp_path, caplog, workers):
    Gallery.build(folder, retriever(num_workers=workers), tmp_path / "g", shard_size=1, quiet=True)
    (message,) = said(caplog)
    assert message.startswith("2 of 4 images (50.0%)") and "--image_fit" in message
    Gallery.build(folder, retriever("squash"), tmp_path / "h", quiet=True)
    assert len(said(caplog)) == 1


@pytest.mark.fault("F19", "a benchmark says how many images of its gallery lose their sides to the crop")
def test_measuring_counts_wide_images(folder, retriever, caplog):
    benchmark = Benchmark(
        name="mini",
        protocol_id="mini/1",
        gallery=Gallery.from_folder(folder),
        queries=[Query("q", "a text", reference_id="square.png")],
        relevance={"q": {"wide.png"}},
        exclude_reference=True,
    )
    measure(retriever(), benchmark)
    assert len(said(caplog)) == 1 and said(caplog)[0].startswith("2 of 4")
    measure(retriever("padding"), benchmark)
    assert len(said(caplog)) == 1


@pytest.mark.fault("F20", "a gallery that was embedded with one fit of its images refuses queries with another")
def test_a_gallery_of_another_fit_is_refused(folder, retriever, tmp_path):
    Gallery.build(folder, retriever("padding"), tmp_path / "g", quiet=True)
    Gallery.open(tmp_path / "g", retriever("padding"))
    for fit in ("crop", "squash"):
        with pytest.raises(StoreError, match=f"image_fit padding, got {fit}"):
            Gallery.open(tmp_path / "g", retriever(fit))
        with pytest.raises(StoreError, match=f"image_fit padding, got {fit}"):
            Gallery.build(folder, retriever(fit), tmp_path / "g", quiet=True)


def test_the_identity_of_the_default_is_that_of_clip(retriever, clip_folder, tmp_path):
    """Galleries from before there were fits stay valid, and saving a processor does not change who it is."""
    from transformers import CLIPImageProcessorPil

    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    processor = ContextCIRProcessor.from_pretrained(clip_folder)
    mine = ModelIdentity(model, processor)()
    assert mine.fingerprint == ModelIdentity(model, CLIPImageProcessorPil.from_pretrained(clip_folder))().fingerprint
    processor.save_pretrained(tmp_path)
    saved = ModelIdentity(model, processor)(), ModelIdentity(model, ContextCIRProcessor.from_pretrained(tmp_path))()
    assert {identity.fingerprint for identity in saved} == {mine.fingerprint}
    assert mine.image_fit == "crop" == Identity("x").image_fit
