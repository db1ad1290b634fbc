"""`contextcir benchmark --retriever` with models of others: sentence-transformers, transformers, functions."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessorPil,
    BlipProcessor,
)

from contextcir.cli import benchmark
from tests.benchmarks.conftest import cache  # noqa: F401 - a fixture
from tests.benchmarks.test_cirr import NAMES
from tests.benchmarks.test_cirr import mini as cirr_folder  # noqa: F401 - a fixture
from tests.cli.test_benchmark import arguments, data  # noqa: F401 - a fixture

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@pytest.fixture
def on_cirr(cirr_folder, clip_folder):  # noqa: F811
    def measure(retriever, *more):
        argv = ["--retriever", str(retriever), "--benchmark", "cirr", "--data_root", str(cirr_folder)]
        return benchmark.main([*argv, *map(str, more)])

    return measure


def metrics(record, place=0):
    return record["results"][place]["metrics"]


@pytest.mark.parametrize("more", [(), ("--batch_size", "3")], ids=["whole", "batches"])
def test_our_model_has_its_own_numbers_through_sentence_transformers(run, data, on_cirr, tmp_path, more):  # noqa: F811
    pytest.importorskip("sentence_transformers")
    for measure in (
        on_cirr,
        lambda retriever, *more: benchmark.main(arguments(data, "--retriever", retriever, *more)),
    ):
        records = []
        for retriever in (run, f"st:{run}"):
            output = tmp_path / "metrics.json"
            records.append(measure(retriever, *more, "--output", output))
            lines = [json.loads(line) for line in output.with_suffix(".queries.jsonl").read_text().splitlines()]
            records[-1]["top"] = [(line["id"], line["top"], line["scores"]) for line in lines]
        native, through = records
        assert metrics(native) == metrics(through) and native["top"] == through["top"]
        weights = [record["results"][0]["model"]["weights"] for record in records]
        assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in weights)
        assert through["results"][0]["model"]["spec"] == f"st:{run}"


def test_the_baselines_of_our_model_through_sentence_transformers(run, on_cirr, clip_folder):
    pytest.importorskip("sentence_transformers")
    record = on_cirr(f"st:{run}", "--baselines")
    assert record["clip"] == clip_folder and record["results"][1]["retriever"] == "CLIP, image only"


@pytest.mark.parametrize("how", ["sum", "slerp", "product", "image", "text"])
def test_a_clip_is_the_same_from_everywhere(how, on_cirr, clip_folder):
    """A CLIP of random weights on CIRR's official layout: sentence-transformers, transformers and the baseline."""
    pytest.importorskip("sentence_transformers")
    names = {
        "sum": "CLIP, image + text",
        "slerp": "CLIP, slerp",
        "product": "CLIP, image x text",
        "image": "CLIP, image only",
        "text": "CLIP, text only",
    }
    record = on_cirr(f"hf:{clip_folder}", "--compose", how, "--baselines", "--clip", clip_folder)
    found = {result["retriever"]: result for result in record["results"]}
    mine = found[f"hf:{clip_folder}, {how}"]
    assert record["protocol_id"] == "cirr/rc2/val/reference-excluded"
    assert mine["metrics"] == found[names[how]]["metrics"]
    assert mine["model"]["composition"] == found[names[how]]["model"]["composition"] == how
    assert mine["model"]["weights"] == found[names[how]]["model"]["weights"]
    assert metrics(on_cirr(f"st:{clip_folder}", "--compose", how)) == mine["metrics"]


def test_what_is_measured_is_kept_and_indexed(on_cirr, clip_folder, tmp_path, monkeypatch):
    more = ("--compose", "sum", "--gallery_cache", tmp_path / "cache")
    first = on_cirr(f"hf:{clip_folder}", *more, "--index", "int8")
    assert [result["retriever"] for result in first["results"]] == [
        f"hf:{clip_folder}, sum",
        f"hf:{clip_folder}, sum, int8",
    ]
    monkeypatch.setattr("contextcir.retrieval.store.cache.index_images", None)  # it must not be needed
    again = on_cirr(f"hf:{clip_folder}", *more)
    assert metrics(again) == metrics(first)
    other = on_cirr(f"hf:{clip_folder}", "--compose", "slerp", *more[2:])  # the gallery does not depend on it
    assert other["results"][0]["model"]["composition"] == "slerp"
    with pytest.raises(ValueError, match="--index"):
        on_cirr(f"hf:{clip_folder}", "--compose", "product", "--index", "int8")


def blip(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "make", "the", "dog", "red"]
    (folder / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = sizes | {"vocab_size": len(words), "max_position_embeddings": 16, "encoder_hidden_size": 32}
    text |= {"bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config=text, vision_config=sizes | {"image_size": 30, "patch_size": 6}, image_text_hidden_size=12
    )
    model = BlipForImageTextRetrieval(config)
    with torch.no_grad():  # as they start, all images are the same to it
        for weights in model.parameters():
            weights.normal_(std=0.3)
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 30, "width": 30})
    BlipProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder


def test_blip_searches_with_its_own_projections(on_cirr, tmp_path):
    """AutoModel would take another class for it, whose projections are not in the file."""
    record = on_cirr(f"hf:{blip(tmp_path)}", "--compose", "text", "--export_run", tmp_path / "run.trec")
    assert record["results"][0]["model"]["model"] == str(tmp_path)
    from contextcir.benchmarks import cirr
    from contextcir.data.images import load_image

    (loaded,) = cirr.load(record["arguments"]["data_root"])
    model = BlipForImageTextRetrieval.from_pretrained(tmp_path).eval()
    processor = BlipProcessor.from_pretrained(tmp_path)
    pictures = [load_image(image) for image in loaded.gallery.images]
    with torch.no_grad():
        text = "make the dog red"
        inputs = processor(images=pictures, text=[text] * len(pictures), return_tensors="pt")
        scores = model(**{key: inputs[key] for key in inputs if key != "token_type_ids"}, use_itm_head=False).itm_score
    best = [id_ for id_ in np.array(NAMES)[scores[:, 0].argsort(descending=True)] if id_ != NAMES[0]]
    lines = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    assert [line[2] for line in lines if line[0] == "100"] == best[:50]


OWN = """
import numpy as np

def encode_images(images):
    return np.stack([np.asarray(image.resize((8, 8))).ravel() / 255 for image in images])

def encode_texts(texts):
    return np.stack([np.full(192, float(len(text))) for text in texts])

def encode_queries(images, texts):
    return encode_images(images) + encode_texts(texts)

class Model:
    revision = "1"
    encode_images = staticmethod(encode_images)
    encode_queries = staticmethod(encode_queries)

def build():
    return Model()

class Backwards:
    def search(self, queries, gallery, k, *, exclude_reference=False, wanted=None):
        from contextcir.retrieval.base import Ranking
        ids = [[id_ for id_ in gallery.ids[::-1] if id_ != query.reference_id][:k] for query in queries]
        candidates = [query.ranked_candidate_ids[::-1] for query in queries]
        return Ranking([query.id for query in queries], ids, candidate_ids=candidates)

class Flat(Model):
    encode_images = staticmethod(lambda images: np.zeros(len(images)))
"""


def test_functions_of_ones_own(on_cirr, tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(OWN)
    file = tmp_path / "own_model.py"
    monkeypatch.chdir(tmp_path)
    records = [on_cirr(spec) for spec in (file, f"{file}:Model", f"{file}:build", "own_model:Model")]
    assert len({json.dumps(metrics(record)) for record in records}) == 1
    sys.modules.pop("own_model")
    facts = [record["results"][0]["model"] for record in records]
    assert len({fact["code"] for fact in facts}) == 1 and facts[1]["revision"] == "1" and "revision" not in facts[0]
    composed = on_cirr(file, "--compose", "image")
    assert composed["results"][0]["retriever"] == f"{file}, image"
    backwards = on_cirr(f"{file}:Backwards", "--export_run", tmp_path / "back.trec")
    assert metrics(backwards)["recall@1"] == 0
    line = (tmp_path / "back.trec").read_text().splitlines()[0].split()
    assert line[:5] == ["100", "Q0", NAMES[-1], "1", "-1"]  # without scores, they are minus the rank
    cached = ("--gallery_cache", tmp_path / "cache")
    assert metrics(on_cirr(f"{file}:Model", *cached)) == metrics(records[0])
    for spec, more, problem in (
        (file, cached, "those of other weights.* leave out --gallery_cache"),
        (f"{file}:Flat", (), r"encode_images of .* shape \(60,\) for 60 items"),
        (f"{file}:Missing", (), "has no 'Missing'"),
        (f"{file}:Backwards", ("--compose", "sum"), "leave out --compose"),
        (f"{file}:Model", ("--compose", "sum"), "no encode_texts"),
    ):
        with pytest.raises(ValueError, match=problem):
            on_cirr(spec, *more)


def test_the_example_of_the_guide_runs(on_cirr, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    (example,) = (block for block in blocks if "def encode_queries" in block)
    (tmp_path / "my_model.py").write_text(example)
    record = on_cirr(tmp_path / "my_model.py")
    assert record["results"][0]["retriever"] == str(tmp_path / "my_model.py")
    assert metrics(record)["recall@50"] > 0


def test_errors_say_what_to_do(on_cirr, run, clip_folder, tmp_path, monkeypatch):
    (tmp_path / "half.py").write_text("def encode_images(images): ...\ndef encode_texts(texts): ...")
    (tmp_path / "empty.py").write_text("")
    cases = [
        ("xy:NAME", (), r"no module 'xy'.* st:NAME .* hf:NAME"),
        (tmp_path / "gone.py", (), "There is no file"),
        (tmp_path / "half.py", (), r"--compose sum\|slerp\|product\|image\|text"),
        (tmp_path / "empty.py", (), "no encode_images and no encode_queries"),
        (f"hf:{clip_folder}", (), r"--compose sum\|slerp"),
        (f"st:{clip_folder}", (), r"text, image, and no image together with a text.* --compose sum\|slerp"),
        (f"hf:{run}", ("--compose", "sum"), "leave out hf:"),
        (f"hf:{clip_folder}s", ("--compose", "sum"), "no local file"),
        ("hf:user/name", ("--compose", "sum", "--trust_remote_code"), "revision None.* 40 hex"),
        ("st:user/name", ("--trust_remote_code", "--revision", "main"), "revision main.* 40 hex"),
        (run, ("--compose", "sum"), "--compose has no effect"),
        (run, ("--revision", "a"), "--revision has no effect"),
        (run, ("--clip", clip_folder), "--clip has no effect"),
        (f"hf:{clip_folder}", ("--compose", "sum", "--phi", "x"), "--phi has no effect"),
        (f"hf:{clip_folder}", ("--compose", "sum", "--baselines"), "need --clip"),
        ("basic", ("--corpus", "x"), "give --clip"),
        ("basic", ("--clip", clip_folder), "needs --corpus"),
        ("pic2word", ("--clip", clip_folder), "needs --phi"),
        ("cirevl", ("--clip", clip_folder, "--chat_model", "x"), "--trace"),
        ("cirevl", ("--clip", clip_folder, "--trace", tmp_path / "t"), "--captioner and --reasoner"),
        (
            "cirevl",
            ("--clip", clip_folder, "--trace", "t", "--chat_model", "x", "--tau", "0.3"),
            "--tau has no effect",
        ),
    ]
    if importlib.util.find_spec("sentence_transformers") is None:
        cases = [case for case in cases if not str(case[0]).startswith("st:")]
    for spec, more, problem in cases:
        with pytest.raises(ValueError, match=problem):
            on_cirr(spec, *more)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"contextcir\[sentence-transformers\]"):
        on_cirr(f"st:{clip_folder}")


def test_a_model_without_images_is_refused(clip_folder, on_cirr, monkeypatch):
    pytest.importorskip("sentence_transformers")
    import contextcir.retrieval.st as st

    class OnlyText:
        modalities = ["text"]
        supports = modalities.__contains__

    with pytest.raises(ValueError, match="st:x embeds text and no images"):
        st.st_retriever(OnlyText(), name="st:x")


# --- zero-shot methods -----------------------------------------------------------------------------------------------


def test_basic_and_textual_inversion_from_the_command_line(on_cirr, clip_folder, tmp_path, images):
    (tmp_path / "objects.txt").write_text("dog\ncat\n\nhouse\ntree\ndog\n")
    (tmp_path / "styles.txt").write_text("cartoon\nat night\n")
    (tmp_path / "pictures").mkdir()
    for place, image in enumerate(images):
        image.save(tmp_path / "pictures" / f"{place}.png")
    common = ("--clip", clip_folder, "--corpus", tmp_path / "objects.txt")
    styled = ("--corpus_styles", tmp_path / "styles.txt", "--corpus_images", tmp_path / "pictures")
    transductive, inductive = on_cirr("basic", *common), on_cirr("basic", *common, *styled)
    labels = [record["results"][0]["retriever"] for record in (transductive, inductive)]
    assert labels == ["basic, transductive", "basic"]
    facts = inductive["results"][0]["model"]
    assert (facts["objects"], facts["styles"], facts["transductive"]) == (4, 2, False) and facts["weights"]
    phi = {"layers.0.weight": torch.randn(8, 20), "layers.0.bias": torch.zeros(8)}
    phi |= {"layers.1.weight": torch.randn(32, 8), "layers.1.bias": torch.zeros(32)}
    save_file(phi, tmp_path / "phi.safetensors")
    record = on_cirr("pic2word", "--clip", clip_folder, "--phi", tmp_path / "phi.safetensors", "--baselines")
    assert [result["retriever"] for result in record["results"]][:2] == ["pic2word", "CLIP, image only"]
    facts = record["results"][0]["model"]
    assert re.fullmatch("[0-9a-f]{32}", facts["phi"]) and facts["template"] == "a photo of $ that {text}"
