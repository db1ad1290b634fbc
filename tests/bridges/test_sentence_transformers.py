"""Saved models in sentence-transformers: the same embeddings as of our own methods, with and without our code."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import modeling_contextcir  # noqa: F401  (registers the models)
from contextcir.retrieval.base import Gallery, Query
from contextcir.retrieval.dense import DenseRetriever
from tests.loopback_hub import LoopbackHub

sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")
TEXTS = ["make the red dog blue", "", "see https://example.org/a.png", "x.jpg"]


@pytest.fixture(scope="module")
def loaded(saved):
    return sentence_transformers.SentenceTransformer(str(saved), device="cpu")


@pytest.fixture(scope="module")
def native(saved):
    """The retriever of the same folder."""
    return DenseRetriever.from_model(AutoModel.from_pretrained(saved), AutoProcessor.from_pretrained(saved))


def pairs(images):
    return [{"image": image, "text": text} for image, text in zip(images, TEXTS, strict=False)]


def test_queries_images_and_texts_are_embedded_equally(loaded, native, images):
    images = images[: len(TEXTS)]
    queries = loaded.encode(pairs(images), batch_size=3)
    np.testing.assert_allclose(queries, native.embed_queries(images, TEXTS), atol=1e-6)
    np.testing.assert_allclose(loaded.encode_query(pairs(images)), queries, atol=1e-6)
    expected = native.embed_images(images)
    for given in (images, [{"image": image} for image in images]):
        np.testing.assert_allclose(loaded.encode(given), expected, atol=1e-6)
    np.testing.assert_allclose(loaded.encode_document(images), expected, atol=1e-6)
    texts = loaded.encode(TEXTS[:2])
    np.testing.assert_allclose(texts, native.embed_queries([None, None], TEXTS[:2]), atol=1e-6)
    mixed = native.embed_queries([None, images[0], None], TEXTS[:3])
    np.testing.assert_allclose(mixed[0], texts[0], atol=1e-6)
    assert not np.allclose(mixed[1], texts[1], atol=1e-3)


def test_a_query_without_an_image_is_ranked_equally(loaded, native, images):
    gallery = Gallery([f"g{place}" for place in range(len(images))], images)
    found = native.search([Query("q", TEXTS[0])], gallery, 3)
    scores = loaded.similarity(loaded.encode(TEXTS[0]), loaded.encode(images))[0]
    assert found.gallery_ids[0] == [f"g{place}" for place in scores.topk(3).indices]


def test_dimension_and_storage(saved, loaded, images, tmp_path):
    queries = loaded.encode(pairs(images))
    assert loaded.get_embedding_dimension() == queries.shape[1] == 20
    assert set(loaded.modalities) == {"text", "image", ("image", "text")}
    cut = loaded.encode(pairs(images), truncate_dim=8, normalize_embeddings=True)
    expected = queries[:, :8] / np.linalg.norm(queries[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    short = sentence_transformers.SentenceTransformer(str(saved), device="cpu", truncate_dim=8)
    np.testing.assert_allclose(short.encode(pairs(images), normalize_embeddings=True), expected, atol=1e-6)
    signs = loaded.encode(pairs(images), precision="ubinary", truncate_dim=16)
    assert np.array_equal(np.unpackbits(signs, axis=1), queries[:, :16] > 0)
    loaded.save_pretrained(str(tmp_path / "again"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert np.array_equal(again.encode(pairs(images)), queries)


def test_what_sentence_transformers_has_written_stays(saved, tmp_path):
    model = AutoModel.from_pretrained(saved)
    model.save_pretrained(tmp_path)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (tmp_path / name).write_text('{"prompts": {"query": "find: "}}')
    model.save_pretrained(tmp_path)
    assert "find: " in (tmp_path / "modules.json").read_text()
    assert "find: " in (tmp_path / "config_sentence_transformers.json").read_text()


REMOTE = """
import json, sys
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

class Blocker:
    def find_spec(self, name, *args):
        if name.split(".")[0] in ("modeling_contextcir", "contextcir"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
model = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True)
assert type(model[0].auto_model).__module__.startswith("transformers_modules.")
image = Image.new("RGB", (20, 18), "red")
print(json.dumps(model.encode([{"image": image, "text": "make it blue"}]).tolist()))
"""


@pytest.mark.slow
def test_without_our_code(saved, native, tmp_path):
    environment = {**os.environ, "PYTHONPATH": "", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", REMOTE, str(saved)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = native.embed_queries([Image.new("RGB", (20, 18), "red")], ["make it blue"])
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout.splitlines()[-1])), expected, atol=1e-6, rtol=0)


PUSH = """
import sys
from modeling_contextcir import ContextCIRModel

model = ContextCIRModel.from_clip_pretrained(sys.argv[1])
model.save_pretrained("own", push_to_hub=True, repo_id="tester/saved")
model.push_to_hub("tester/pushed")
"""


@pytest.mark.slow
def test_pushed_files(clip_folder, tmp_path):
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-c", PUSH, clip_folder]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("tester/saved", "tester/pushed"):
        files = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
        assert files <= set(hub.files("model", name))
