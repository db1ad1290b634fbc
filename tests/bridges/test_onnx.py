"""Exported models: the embeddings of the model, for all kinds and any batch, and a folder that stands for a model."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.bridges import onnx_encoder, onnx_export
from contextcir.bridges.onnx_encoder import GALLERY, INPUTS, QUERY, RECORD, WEIGHTS, OnnxEncoder, open_graph
from contextcir.bridges.onnx_export import export_onnx
from contextcir.cli.loading import load_encoder, load_model
from contextcir.cli.main import main
from contextcir.retrieval.dense import DenseRetriever
from modeling_contextcir import CompositionBaseline, ContextCIRProcessor
from tests import tiny_scenes
from tests.models.conftest import KINDS, TEXTS, build  # noqa: F401  (a fixture)

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def processor(clip_folder):
    return ContextCIRProcessor.from_pretrained(clip_folder)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The export of a run, made by the command."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    assert main(["export", "--model", str(run), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def quantised(run, tmp_path_factory):
    """The same in int8."""
    folder = tmp_path_factory.mktemp("exported") / "int8"
    assert main(["export", "--model", str(run), "--output", str(folder), "--precision", "int8"]) == 0
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("red", "green", "blue", "white"):
        Image.new("RGB", (40, 30), name).save(folder / f"{name}.png")
    return folder


def own_and_exported(folder, model, processor):
    return DenseRetriever.from_model(model, processor), OnnxEncoder(folder, processor)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_embeddings_of_every_model(kind, build, processor, images, tmp_path):  # noqa: F811
    """Any number of rows, texts of any length, and queries without an image."""
    model = build(kind)
    record = export_onnx(model, processor, tmp_path / "a", name=kind)
    assert max(record["difference"].values()) <= 1e-5 and record["class"] == type(model).__name__
    own, encoder = own_and_exported(tmp_path / "a", model, processor)
    pictures, texts = [*images, None, None], [*TEXTS, "", "x", "the red " * 60, "b c", "the", "ü"]
    for rows in (slice(0, 10), slice(1, 2), slice(6, 7), slice(8, 10), slice(3, 6)):
        expected = own.embed_queries(pictures[rows], texts[rows])
        found = encoder.embed_queries(pictures[rows], texts[rows])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        if some := [image for image in pictures[rows] if image]:
            torch.testing.assert_close(encoder.embed_images(some), own.embed_images(some), atol=1e-5, rtol=0)
    assert record["dim"] == found.shape[1]


def test_the_record(exported, run):
    record = json.loads((exported / RECORD).read_text())
    model, processor = load_model(str(run), CPU)
    own = DenseRetriever.from_model(model, processor).identity
    assert (record["weights"], record["processor"]) == (own.weights, own.processor)
    assert record["model"] == str(run) and record["precision"] == "fp32" and record["opset"] == 18
    assert record["inputs"] == INPUTS and record["dim"] == model.config.projection_dim and record["most_tokens"] == 77
    assert set(record["difference"]) == set(record["cosine"]) == set(INPUTS) and record["versions"]["onnxruntime"]
    assert {path.name for path in exported.iterdir()} >= {*INPUTS, WEIGHTS, "tokenizer.json", "processor_config.json"}
    for name, inputs in INPUTS.items():
        graph = onnx.load(exported / name, load_external_data=False)
        assert [one.name for one in graph.graph.input] == inputs
        assert graph.opset_import[0].version == record["opset"]
        rows = [one.type.tensor_type.shape.dim[0] for one in (*graph.graph.input, *graph.graph.output)]
        assert all(one.dim_param for one in rows)
        assert str(ROOT).encode() not in (exported / name).read_bytes()


def stored_tensors(folder, name):
    """Names of the weights of a graph -> their place in the common file."""
    tensors = onnx.load(folder / name, load_external_data=False).graph.initializer
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    return {int(place["offset"]): int(place["length"]) for place in places if place}


def test_weights_are_stored_once(exported):
    gallery, query = stored_tensors(exported, GALLERY), stored_tensors(exported, QUERY)
    assert len(gallery.keys() & query.keys()) > 20
    everything = sum((gallery | query).values())
    assert everything <= (exported / WEIGHTS).stat().st_size < 1.5 * everything
    assert sum(gallery.values()) + sum(query.values()) > 1.5 * everything


@slow
def test_int8(exported, quantised, run, images):
    for name in INPUTS:
        kinds = [node.op_type for node in onnx.load(quantised / name).graph.node]
        dense = [node.op_type for node in onnx.load(exported / name).graph.node]
        products = kinds.count("MatMulInteger")
        assert products > 20 and products + kinds.count("MatMul") == dense.count("MatMul") + dense.count("Gemm")
        assert "Gemm" not in kinds
    assert (quantised / WEIGHTS).stat().st_size < (exported / WEIGHTS).stat().st_size / 2
    own, encoder = load_encoder(str(run), CPU).retriever, load_encoder(str(quantised), CPU).retriever
    cosines = (own.embed_images(images) * encoder.embed_images(images)).sum(1)
    assert 0.99 < cosines.min() < 0.999999
    cosines = (own.embed_queries(images[:4], TEXTS) * encoder.embed_queries(images[:4], TEXTS)).sum(1)
    assert 0.99 < cosines.min() < 0.999999


@slow
def test_a_checkpoint_in_half_precision(run, exported, tmp_path):
    """It is exported as it is loaded: in float32."""
    model, processor = load_model(str(run), CPU)
    model.half().save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    with pytest.raises(ValueError, match="float16"):
        export_onnx(model, processor, tmp_path / "out", name="half")
    assert main(["export", "--model", str(tmp_path / "half"), "--output", str(tmp_path / "out")]) == 0
    found = load_encoder(str(tmp_path / "out"), CPU).retriever
    assert found.identity.fingerprint == load_encoder(str(tmp_path / "half"), CPU).retriever.identity.fingerprint
    assert found.identity.fingerprint != load_encoder(str(exported), CPU).retriever.identity.fingerprint


@slow
def test_galleries(exported, quantised, run, photos, tmp_path, capsys):
    """A gallery of the model is searched by its fp32 graphs, and the other way round; int8 has its own."""

    def found(gallery, *options):
        assert main(["search", str(gallery), "--text", "red", "--json", *options]) == 0
        return [(hit["id"], hit["score"]) for hit in json.loads(capsys.readouterr().out)["results"]]

    for name, model in (("own", run), ("fp32", exported), ("int8", quantised)):
        assert main(["index", str(photos), "--model", str(model), "--output", str(tmp_path / name)]) == 0
    capsys.readouterr()
    expected = found(tmp_path / "own")
    for gallery, model in (("own", exported), ("fp32", run), ("fp32", exported)):
        some = found(tmp_path / gallery, "--model", str(model), "--device", "cpu")
        assert [id_ for id_, _ in some] == [id_ for id_, _ in expected]
        np.testing.assert_allclose([score for _, score in some], [score for _, score in expected], atol=1e-4)
    assert len(found(tmp_path / "int8")) == 4
    for gallery, model in (("int8", exported), ("int8", run), ("own", quantised), ("fp32", quantised)):
        assert main(["search", str(tmp_path / gallery), "--text", "red", "--model", str(model)]) == 1
        assert "dtype" in capsys.readouterr().err
    assert main(["search", str(tmp_path / "fp32"), "--text", "red", "--autocast", "bf16"]) == 1
    assert "autocast" in capsys.readouterr().err


@slow
def test_serve(exported, photos, tmp_path):
    """The server of a gallery loads the graphs by itself, and does without maps of noun phrases."""
    httpx = pytest.importorskip("httpx")
    from tests.serving.test_command import command

    assert main(["index", str(photos), "--model", str(exported), "--output", str(tmp_path / "g")]) == 0
    with command(str(tmp_path / "g")) as (process, url):
        assert str(exported) in process.said
        answer = httpx.post(f"{url}search", data={"text": "make it blue", "reference": "red.png", "k": 3}).json()
        ids = [hit["id"] for hit in answer["results"]]
        assert httpx.get(f"{url}info").json()["capabilities"]["attention"] is False
    retriever = load_encoder(str(exported), CPU).retriever
    from contextcir import Gallery

    gallery = Gallery.open(str(tmp_path / "g"), retriever)
    expected = gallery.search("red.png", "make it blue", 3, exclude=["red.png"])
    assert ids == [hit.id for hit in expected]


@slow
def test_recall_on_scenes(tmp_path):
    """A CLIP that knows scenes, in a composition: the same recall in fp32, and within half a point in int8."""
    data = tiny_scenes.build(tmp_path / "scenes", num_test=240, gallery_size=1100, image_size=96)
    clip = ROOT / "checkpoints" / "scenes-clip-tiny"
    torch.manual_seed(0)
    CompositionBaseline.from_clip_pretrained(clip, composition="combiner").save_pretrained(tmp_path / "model")
    ContextCIRProcessor.from_pretrained(clip).save_pretrained(tmp_path / "model")
    records = {}
    for name in ("model", "fp32", "int8"):
        folder = str(tmp_path / name)
        if name != "model":
            argv = ["--model", str(tmp_path / "model"), "--output", folder, "--precision", name]
            assert main(["export", *argv]) == 0
        argv = ["--retriever", folder, "--benchmark", "scenes", "--data_root", str(data), "--split", "test"]
        assert main(["benchmark", *argv, "--output", f"{folder}.json"]) == 0
        records[name] = json.loads(Path(f"{folder}.json").read_text())["results"][0]["metrics"]
    assert records["fp32"] == pytest.approx(records["model"], abs=0.5) and records["model"]["recall@50"] > 60
    # One of 240 queries is 0.4 points, and near ties change places both ways: the mean says whether something is lost.
    changes = [records["int8"][name] - value for name, value in records["model"].items()]
    assert len(changes) >= 10 and abs(sum(changes) / len(changes)) <= 0.5 and max(map(abs, changes)) <= 2.5


def test_a_changed_folder_is_refused(exported, tmp_path, processor):
    shutil.copytree(exported, tmp_path / "a")
    content = bytearray((tmp_path / "a" / WEIGHTS).read_bytes())
    content[1000] ^= 1
    (tmp_path / "a" / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{WEIGHTS} was changed"):
        OnnxEncoder(tmp_path / "a", processor)
    (tmp_path / "a" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=rf"{WEIGHTS} is missing"):
        OnnxEncoder(tmp_path / "a", processor)
    (tmp_path / "a" / RECORD).unlink()
    with pytest.raises(ValueError, match=RECORD):
        OnnxEncoder(tmp_path / "a", processor)


@slow
@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_graphs_that_differ_from_the_model_are_refused(wrong, run, tmp_path, monkeypatch):
    model, processor = load_model(str(run), CPU)
    monkeypatch.setattr(onnx_export, "run_graph", lambda *args: onnx_encoder.run_graph(*args) + wrong)
    with pytest.raises(ValueError, match=GALLERY):
        export_onnx(model, processor, tmp_path / "out", name="wrong")
    assert list(tmp_path.iterdir()) == []


@slow
def test_what_stands_in_the_folder_is_kept(run, exported, tmp_path, capsys):
    """A folder with a model would be taken for its export. An earlier export is replaced."""
    before = sorted(path.name for path in run.iterdir())
    assert main(["export", "--model", str(run), "--output", str(run)]) == 1
    assert str(run) in capsys.readouterr().err and sorted(path.name for path in run.iterdir()) == before
    shutil.copytree(exported, tmp_path / "out")
    (tmp_path / "out" / QUERY).write_bytes(b"x")
    assert main(["export", "--model", str(run), "--output", str(tmp_path / "out")]) == 0
    assert load_encoder(str(tmp_path / "out"), CPU).retriever.record["weights"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_graphs_cannot_stand_for_a_model(exported, tmp_path, capsys):
    assert main(["export", "--model", str(exported), "--output", str(tmp_path / "out")]) == 1
    assert "is an export of" in capsys.readouterr().err
    with pytest.raises(ValueError, match="autocast"):
        load_encoder(str(exported), CPU, autocast=torch.bfloat16)


def test_devices(exported, caplog):
    """A device that is asked for is used or refused; one that was found by itself may be replaced."""
    import onnxruntime

    threads = torch.get_num_threads()
    assert open_graph(exported / GALLERY).get_session_options().intra_op_num_threads == threads
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the rest is for onnxruntime without CUDA")
    for device in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ValueError, match=rf"{device} .*onnxruntime-gpu"):
            open_graph(exported / GALLERY, device)
        with pytest.raises(ValueError, match=device):
            load_encoder(str(exported), torch.device(device), strict_device=True)
        assert load_encoder(str(exported), torch.device(device)).retriever.embed_queries([None], ["x"]).shape == (
            1,
            20,
        )
        assert device in caplog.text


def test_cuda_comes_first(exported, monkeypatch):
    import onnxruntime

    asked = []

    class Session:
        def __init__(self, path, options, providers):
            asked.append(providers)

        def get_providers(self):
            return ["CPUExecutionProvider"] if asked[-1][0][1]["device_id"] else ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert onnx_encoder.usable_device(torch.device("cuda:1")) == torch.device("cuda:1")
    open_graph(exported / GALLERY, "cuda")
    assert asked == [[("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]]
    with pytest.raises(ValueError, match="cuda:1"):  # onnxruntime goes back to the CPU without an error
        open_graph(exported / GALLERY, "cuda:1")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_extra(library, run, exported, processor, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["export", "--model", str(run), "--output", str(tmp_path / "out")]) == 1
    assert "contextcir[onnx]" in capsys.readouterr().err
    if library == "onnxruntime":
        with pytest.raises(ImportError, match=r"contextcir\[onnx\]"):
            OnnxEncoder(exported, processor)
    else:
        OnnxEncoder(exported, processor)


def test_without_torch_and_without_this_package(exported, processor, images, tmp_path):
    """The lines of the guide, in a process that has neither."""
    page = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "InferenceSession" in one)
    shutil.copytree(exported, tmp_path / "runs" / "demo-onnx")
    images[0].save(tmp_path / "ref.png")
    code = code.replace("ref.jpg", "ref.png")
    hidden = "import sys; sys.modules.update(torch=None, contextcir=None, modeling_contextcir=None)\n"
    command = [sys.executable, "-c", f"{hidden}{code}\nimport json; print(json.dumps(query.tolist()))"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (text,) = re.findall(r'\["(.*?)"\]', code)
    expected = OnnxEncoder(exported, processor).embed_queries([images[0]], [text])
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout.splitlines()[-1])), expected, atol=1e-6, rtol=0)
