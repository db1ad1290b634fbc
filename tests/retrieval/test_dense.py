"""Embeddings to rankings: order, batches, candidates, baselines, and several processes against one."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.baselines import clip_baselines, slerp
from contextcir.retrieval.dense import DenseRetriever

NUM_IMAGES = 13
MAX_LENGTH = 8


class Processor:
    """Just enough of a processor: raw pixels, and one token for each letter, cut like CLIP's."""

    def __call__(self, images=None, text=None, return_tensors=None, padding=None, truncation=None, max_length=None):
        inputs = {}
        if images is not None:
            pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
            inputs["pixel_values"] = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        if text is not None:
            rows = [[97, *(ord(letter) % 90 for letter in one), 98] for one in text]
            if truncation:
                rows = [row[: max_length - 1] + [98] if len(row) > max_length else row for row in rows]
            longest = max(map(len, rows))
            inputs["input_ids"] = torch.tensor([row + [98] * (longest - len(row)) for row in rows])
            inputs["attention_mask"] = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return inputs


class Model(torch.nn.Module):
    """A composed image retrieval model, as the workshop knows one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = torch.nn.Linear(3 * 8 * 8, 16)
        self.text = torch.nn.Embedding(99, 16)
        self.dropout = torch.nn.Dropout(0.5)

    def get_image_features(self, pixel_values):
        return normalize(self.image(self.dropout(pixel_values.flatten(1))), dim=-1)

    def get_query_features(self, pixel_values, input_ids, attention_mask=None):
        text = (self.text(input_ids) * attention_mask[..., None]).sum(1)
        return normalize(self.image(self.dropout(pixel_values.flatten(1))) + text, dim=-1)


def make_images(number=NUM_IMAGES):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(number)]


def make_gallery(images=None):
    images = images or make_images()
    return Gallery([f"g{i}" for i in range(len(images))], images)


def make_queries():
    candidates = ("g7", "g0", "g3", "g9")
    own = Image.fromarray(np.full((8, 8, 3), 50, np.uint8))
    return [
        Query("q0", "add a bird", reference_id="g0", candidate_ids=candidates),
        Query("q1", "two of them", reference_id="g5"),
        Query("q2", "", reference_image=own, reference_id="elsewhere", candidate_ids=("g1", "g2")),
        *(Query(f"q{i}", f"text {i}" * i, reference_id=f"g{i}") for i in range(3, 10)),
    ]


def make_clip():
    sizes = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4)
    text = dict(sizes, vocab_size=99, max_position_embeddings=MAX_LENGTH, bos_token_id=97, eos_token_id=98)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=dict(sizes, image_size=8, patch_size=4), projection_dim=24)
    return CLIPModel(config).eval()


def test_the_ranking_is_the_order_of_all_scores():
    model, gallery, queries = Model().eval(), make_gallery(), make_queries()
    processor = Processor()
    ranking = DenseRetriever.from_model(model, processor, batch_size=4).search(queries, gallery, NUM_IMAGES)
    with torch.no_grad():
        gallery_embeds = model.get_image_features(processor(images=gallery.images)["pixel_values"])
        for row, query in enumerate(queries):
            inputs = processor(images=[gallery.reference_image(query)], text=[query.modification_text])
            scores = (gallery_embeds @ model.get_query_features(**inputs)[0]).tolist()
            expected = sorted(range(NUM_IMAGES), key=lambda i, scores=scores: -scores[i])
            assert ranking.query_ids[row] == query.id
            assert ranking.gallery_ids[row] == [f"g{i}" for i in expected]
            assert ranking.scores[row] == pytest.approx([scores[i] for i in expected], abs=1e-6)
            candidates = [f"g{i}" for i in expected if f"g{i}" in query.ranked_candidate_ids]
            assert ranking.candidate_ids[row] == candidates


def test_the_reference_is_left_out_where_it_is_in_the_gallery():
    retriever, gallery, queries = DenseRetriever.from_model(Model(), Processor()), make_gallery(), make_queries()
    kept = retriever.search(queries, gallery, NUM_IMAGES)
    left_out = retriever.search(queries, gallery, NUM_IMAGES, exclude_reference=True)
    for query, before, after, scores in zip(
        queries, kept.gallery_ids, left_out.gallery_ids, left_out.scores, strict=True
    ):
        assert after == [id_ for id_ in before if id_ != query.reference_id]
        assert len(after) == len(scores) == NUM_IMAGES - (query.reference_id in gallery.positions)


@pytest.mark.parametrize("batch_size, num_threads", [(1, 1), (3, 4), (NUM_IMAGES, 2), (64, 2)])
def test_batches_and_threads_change_nothing(batch_size, num_threads):
    model, gallery = Model(), make_gallery()
    expected = DenseRetriever.from_model(model, Processor(), batch_size=5).search(make_queries(), gallery, 6)
    retriever = DenseRetriever.from_model(model, Processor(), batch_size=batch_size, num_threads=num_threads)
    ranking = retriever.search(make_queries(), gallery, 6)
    assert ranking.gallery_ids == expected.gallery_ids
    assert torch.allclose(torch.tensor(ranking.scores), torch.tensor(expected.scores), atol=1e-6)


def test_a_gallery_can_be_encoded_once():
    retriever, gallery, queries = DenseRetriever.from_model(Model(), Processor()), make_gallery(), make_queries()
    embeds = retriever.encode_gallery(gallery)
    assert embeds.shape == (NUM_IMAGES, 16) and embeds.dtype == torch.float32
    expected = retriever.search(queries, gallery, 5)
    assert torch.equal(retriever.gallery_embeds(gallery), embeds)
    retriever.encode_images = None  # not to be called again
    assert retriever.search(queries, gallery, 5) == expected


def test_wordings_of_a_query_are_summed():
    retriever, gallery = DenseRetriever.from_model(Model(), Processor()), make_gallery()
    one, other, both = (
        Query("a", "red", reference_id="g3"),
        Query("b", "the blue", reference_id="g3"),
        Query("c", "red", reference_id="g3", paraphrases=("the blue",)),
    )
    embeds = retriever.encode([one, both, other], gallery)
    assert torch.allclose(embeds[1], normalize(embeds[0] + embeds[2], dim=0), atol=1e-6)
    alone = retriever.encode([one], gallery)
    assert torch.allclose(alone[0], embeds[0], atol=1e-6)


def test_without_a_reference_a_model_sees_a_blank_image_and_image_baselines_refuse(monkeypatch):
    gallery, query = make_gallery(), Query("q", "a bird")
    processor = Processor()
    processor.image_processor = SimpleNamespace(image_mean=[0.2, 0.4, 0.6])
    seen = []
    retriever = DenseRetriever.from_model(Model(), processor)
    call = Processor.__call__

    def look(self, images=None, **kwargs):
        seen.extend(images or [])
        small = images and [image.resize((8, 8)) for image in images]
        return call(self, images=small, **kwargs)

    monkeypatch.setattr(Processor, "__call__", look)
    retriever.encode([query], gallery)
    assert [image.getcolors() for image in seen] == [[(64 * 64, (51, 102, 153))]]
    clip = make_clip()
    baselines = clip_baselines(clip, processor)
    assert baselines.pop("CLIP, text only").encode([query], gallery).shape == (1, 24)
    for retriever in baselines.values():
        with pytest.raises(ValueError, match="queries without one"):
            retriever.encode([query], gallery)


def test_the_product_ranks_by_both_similarities():
    clip, gallery, queries = make_clip(), make_gallery(), make_queries()[:4]
    made = clip_baselines(clip, Processor())
    ranking = made["CLIP, image x text"].search(queries, gallery, NUM_IMAGES)
    images = made["CLIP, image only"].encode_gallery(gallery)
    halves = [made[f"CLIP, {name} only"].encode(queries, gallery) @ images.T for name in ("image", "text")]
    scores = halves[0].clamp(min=0) * halves[1].clamp(min=0)
    best = scores.argsort(dim=1, descending=True, stable=True)[:, 0].tolist()
    assert [ids[0] for ids in ranking.gallery_ids] == [f"g{place}" for place in best]


def test_a_model_in_training_is_measured_without_dropout_and_handed_back_in_training():
    model, gallery = Model().train(), make_gallery()
    retriever = DenseRetriever.from_model(model, Processor())
    assert torch.equal(retriever.encode_gallery(gallery), retriever.encode_gallery(gallery))
    assert model.training and model.dropout.training
    model.get_image_features(torch.ones(1, 3, 8, 8)).sum().backward()  # no inference tensor was left behind


def test_autocast():
    gallery = make_gallery()
    exact = DenseRetriever.from_model(Model(), Processor()).encode_gallery(gallery)
    rounded = DenseRetriever.from_model(Model(), Processor(), autocast=torch.bfloat16).encode_gallery(gallery)
    assert rounded.dtype == torch.float32
    assert 1e-6 < (exact - rounded).abs().max() < 0.05


def test_bad_images_and_embeddings_are_named():
    images = make_images()
    images[6] = b"not an image"
    with pytest.raises(ImageError, match="gallery image 'g6'"):
        DenseRetriever.from_model(Model(), Processor(), batch_size=4).encode_gallery(make_gallery(images))

    def encode_images(batch):
        embeds = torch.ones(len(batch), 2)
        embeds[[np.asarray(image).max() == 0 for image in batch]] = torch.nan
        return embeds

    images[6] = Image.new("RGB", (8, 8))
    retriever = DenseRetriever(encode_images, lambda images, texts: encode_images(images), batch_size=4)
    with pytest.raises(ValueError, match="gallery: the embedding of 'g6' holds NaN"):
        retriever.encode_gallery(make_gallery(images))
    with pytest.raises(ValueError, match="queries: the embedding of 'q6' holds NaN"):
        retriever.encode(make_queries(), make_gallery(images))
    with pytest.raises(ValueError, match="Query 'q' has the candidate 'zz'"):
        DenseRetriever.from_model(Model(), Processor()).search(
            [Query("q", "x", reference_id="g0", candidate_ids=("zz",))], make_gallery(), 3
        )


# --- baselines -------------------------------------------------------------------------------------------------------


def test_baselines_embed_what_they_say():
    clip, processor, gallery, queries = make_clip(), Processor(), make_gallery(), make_queries()
    images = [gallery.reference_image(query) for query in queries]
    texts = processor(text=[q.modification_text for q in queries], truncation=True, max_length=MAX_LENGTH)
    with torch.no_grad():
        image = normalize(clip.get_image_features(processor(images=images)["pixel_values"]).pooler_output, dim=-1)
        text = normalize(clip.get_text_features(**texts).pooler_output, dim=-1)
    expected = {
        "CLIP, image only": image,
        "CLIP, text only": text,
        "CLIP, image + text": normalize(image + text, dim=-1),
        "CLIP, slerp": slerp(image, text, 0.8),
    }
    for name, embeds in expected.items():
        retriever = clip_baselines(clip, processor, batch_size=3)[name]
        # Batches of 3 are padded otherwise than all together, and texts beyond CLIP's 8 tokens are cut.
        assert torch.allclose(retriever.encode(queries, gallery), embeds, atol=1e-5), name
        assert torch.allclose(retriever.encode_gallery(gallery).norm(dim=1), torch.ones(NUM_IMAGES), atol=1e-5)


def test_image_only_finds_the_reference_first():
    retriever = clip_baselines(make_clip(), Processor())["CLIP, image only"]
    queries = [query for query in make_queries() if query.reference_id != "elsewhere"]
    ranking = retriever.search(queries, make_gallery(), 1)
    assert ranking.gallery_ids == [[query.reference_id] for query in queries]


def test_slerp():
    torch.manual_seed(0)
    start, end = normalize(torch.randn(2, 5, 8), dim=-1)
    assert torch.allclose(slerp(start, end, 0.0), start, atol=1e-6)
    assert torch.allclose(slerp(start, end, 1.0), end, atol=1e-6)
    assert torch.allclose(slerp(start, end, 0.5), normalize(start + end, dim=-1), atol=1e-6)
    assert torch.allclose(slerp(start, end, 0.3).norm(dim=-1), torch.ones(5))
    quarter = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1 / 3)  # 30 of 90 degrees
    assert torch.allclose(quarter, torch.tensor([[3**0.5 / 2, 0.5]]))
    assert torch.equal(slerp(start, start, 0.8), start)
    assert torch.equal(slerp(start, -start, 0.8), start)


# --- several processes -----------------------------------------------------------------------------------------------

WORKER = """
import sys, torch
from tests.retrieval.test_dense import DenseRetriever, Model, Processor, make_gallery, make_queries
retriever = DenseRetriever.from_model(Model(), Processor(), batch_size=2)
ranking = retriever.search(make_queries(), make_gallery(), 6, exclude_reference=True)
from accelerate import PartialState
state = PartialState()
assert state.num_processes == {processes}
torch.save((ranking, retriever.encode(make_queries()[:1], make_gallery())), {out!r} + str(state.process_index))
"""


def test_two_processes_equal_one(tmp_path, request):
    processes = 2  # 13 images do not divide by it, and a single query is less than one for each process
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(processes=processes, out=str(tmp_path / "rank")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([*command, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    retriever = DenseRetriever.from_model(Model(), Processor())
    expected = retriever.search(make_queries(), make_gallery(), 6, exclude_reference=True)
    for rank in range(processes):
        ranking, one = torch.load(tmp_path / f"rank{rank}", weights_only=False)
        assert ranking.query_ids == expected.query_ids
        assert ranking.gallery_ids == expected.gallery_ids
        assert ranking.candidate_ids == expected.candidate_ids
        assert torch.allclose(torch.tensor(ranking.scores), torch.tensor(expected.scores), atol=1e-6)
        assert torch.allclose(one, retriever.encode(make_queries()[:1], make_gallery()), atol=1e-6)
