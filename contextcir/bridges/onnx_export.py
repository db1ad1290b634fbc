"""Export a model as two ONNX graphs: one that embeds gallery images, and one that embeds queries.

Both take any number of rows, and texts of any length. Their weights are in one file: what both use, such as the image
encoder, is stored once, and a model may be larger than the 2 GB that an ONNX file can hold. int8 is the dynamic
quantisation of onnxruntime: weights of matrix products and embeddings are stored in one byte, and the inputs of a
product are quantised when it runs. Half precision is left out: onnxruntime computes it on GPUs only.
"""

import hashlib
import importlib.metadata
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image

from contextcir.bridges.onnx_encoder import GALLERY, INPUTS, QUERY, RECORD, WEIGHTS, open_graph, run_graph
from contextcir.retrieval.dense import query_inputs
from contextcir.retrieval.identity import ModelIdentity
from contextcir.retrieval.store.layout import file_digest
from contextcir.runtime.inference import evaluation_mode
from contextcir.runtime.protocols import RetrievalModel
from contextcir.runtime.provenance import provenance

Precision = Literal["fp32", "int8"]
OPSET = 18  # the lowest that torch writes
METHODS = {GALLERY: "get_image_features", QUERY: "get_query_features"}
TOLERANCE = 1e-4  # of embeddings in float32
MOST_ROWS = 65_536
SMALL = 1024  # bytes; smaller tensors stay in the graphs, where shapes are inferred from them
PAGE = 65_536  # bytes; large tensors begin at a multiple, so that onnxruntime can map them into memory
TEXTS = (
    "make it red",
    "",
    "the same scene at night, with two more people in front of the house, one of whom holds a blue umbrella",
    "without the dog",
    "add a tree on the left and remove the car",
)


class Method(torch.nn.Module):
    """A method of a model as a module, whose `forward` takes the inputs of a graph in their order."""

    def __init__(self, model: torch.nn.Module, name: str):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self.model, self.name)(*inputs)


def export_onnx(
    model: RetrievalModel, processor: Any, folder: str | PathLike, *, name: str, precision: Precision = "fp32"
) -> dict[str, Any]:
    """
    Export a model to a folder: `gallery.onnx`, `query.onnx`, `weights.data`, the processor and `contextcir_onnx.json`.

    Args:
        model ([`~contextcir.runtime.protocols.RetrievalModel`]): In float32, on the CPU.
        processor: Its processor.
        folder (`str` or `os.PathLike`): New, empty, or with an earlier export, which is replaced.
        name (`str`): Name of the model, for the record.
        precision (`str`, *optional*, defaults to `"fp32"`): `fp32` or `int8`.

    Returns:
        `dict`: What is written to `contextcir_onnx.json`. `difference` holds the largest difference to the model's own
        embeddings for each graph, `cosine` the lowest cosine of both.

    Raises:
        `ImportError`: onnx, onnxruntime or onnxscript is not installed.
        `ValueError`: The folder holds something else, the model is not in float32, or the embeddings of the graphs
            differ from those of the model by more than 1e-4 (in fp32) or are not finite. Nothing is written.
    """
    require_exporter()
    folder, module = Path(folder), cast(torch.nn.Module, model)
    check_output(folder)
    if (dtype := next(module.parameters()).dtype) != torch.float32:
        raise ValueError(f"The model is in {dtype}, and is exported in float32. Load it with dtype=torch.float32.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    samples = sample_inputs(processor)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place, evaluation_mode(module):
        graphs = {graph: trace(module, graph, samples[graph]) for graph in INPUTS}
        if precision == "int8":
            graphs = {graph: quantise(traced, Path(place, "fp32")) for graph, traced in graphs.items()}
            shutil.rmtree(Path(place, "fp32"))
        save_together(graphs, Path(place))
        processor.save_pretrained(place)
        identity = ModelIdentity(module, processor)()
        found = provenance()
        libraries = {library: importlib.metadata.version(library) for library in ("onnx", "onnxruntime", "onnxscript")}
        record = {
            "model": name,
            "revision": identity.revision,
            "class": type(model).__name__,
            "weights": identity.weights,
            "processor": identity.processor,
            "precision": precision,
            "opset": OPSET,
            "inputs": INPUTS,
            "without_image": "pixel_values of zeros",
            "most_tokens": most_tokens(module),
            **compare(module, samples, Path(place), precision),
            "files": {file: file_digest(Path(place, file)) for file in (*INPUTS, WEIGHTS)},
            "versions": found["versions"] | libraries,
            "commit": found["commit"],
        }
        replace_folder(Path(place), folder, record)
    return record


def check_output(folder: Path) -> None:
    """Refuse a folder with anything but an earlier export: a model in it would be taken for one."""
    if folder.exists() and not (folder.is_dir() and (Path(folder, RECORD).is_file() or not any(folder.iterdir()))):
        raise ValueError(f"{folder} holds something else than an earlier export. Give --output a new folder.")


def replace_folder(source: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Move files into a folder. The record goes first and comes last: without it, the folder is no export."""
    folder.mkdir(exist_ok=True)
    Path(folder, RECORD).unlink(missing_ok=True)
    for path in source.iterdir():
        path.replace(folder / path.name)
    text = json.dumps(record, indent=2) + "\n"
    Path(source, RECORD).write_text(text, encoding="utf-8")
    Path(source, RECORD).replace(folder / RECORD)


def sample_inputs(processor: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Make the inputs of each graph for five smooth pictures and texts of different lengths. One picture is
    missing."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in TEXTS]
    images = [image.resize((320, 240), Image.Resampling.BICUBIC) for image in small]
    queries = query_inputs(processor, [*images[:-1], None], list(TEXTS))
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    return {GALLERY: {"pixel_values": pixel_values}, QUERY: queries}


def most_tokens(model: torch.nn.Module) -> int:
    """The longest text of a model, in tokens."""
    return cast(Any, model.config).text_config.max_position_embeddings


def trace(model: torch.nn.Module, graph: str, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Trace a method of a model: an `onnx_ir.Model` with a free number of rows and, for texts, of tokens."""
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    length = torch.export.Dim("length", min=2, max=most_tokens(model))  # of begin and end at least
    shapes = tuple({0: rows} if name == "pixel_values" else {0: rows, 1: length} for name in inputs)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            Method(model, METHODS[graph]).eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes={"inputs": shapes},
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["embeds"],
            verbose=False,
        )
    traced = cast(Any, program).model
    for node in traced.graph:
        node.metadata_props.clear()  # where in which source file it comes from
    return traced


def quantise(graph: Any, folder: Path) -> Any:
    """
    Quantise a graph dynamically.

    Weights have seven of the eight bits (`reduce_range`): with eight, products saturate without an error on CPUs of
    x86-64 without VNNI.

    Raises:
        `ValueError`: A matrix product with weights is left in float32.
    """
    ir = require_exporter()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir(exist_ok=True)
    ir.save(graph, folder / "graph.onnx", external_data="graph.data")
    with quiet():
        quantize_dynamic(
            folder / "graph.onnx",
            folder / "int8.onnx",
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )
    found = ir.load(folder / "int8.onnx")
    for value in found.graph.initializers.values():  # the files go, and their tensors with them
        value.const_value = ir.tensor(np.array(value.const_value.numpy()), name=value.name)
    left = [node.name for node in found.graph if node.op_type in ("MatMul", "Gemm") and has_weights(node)]
    if left:
        raise ValueError(f"{len(left)} matrix products are left in float32 ({', '.join(left[:3])}).")
    return found


def has_weights(node: Any) -> bool:
    """Whether a matrix product is one with weights."""
    return any(value is not None and value.is_initializer() for value in node.inputs[:2])


def save_together(graphs: Mapping[str, Any], folder: Path) -> None:
    """Save graphs with one file of weights. Equal tensors are stored once."""
    ir = require_exporter()
    places: dict[bytes, int] = {}
    with open(folder / WEIGHTS, "wb") as file:
        for graph in graphs.values():
            for value in graph.graph.initializers.values():
                tensor = value.const_value
                if tensor.nbytes < SMALL:
                    continue
                content = tensor.tobytes()
                key = hashlib.sha256(content).digest()
                if key not in places:
                    if len(content) >= PAGE:
                        file.write(bytes(-file.tell() % PAGE))
                    places[key] = file.tell()
                    file.write(content)
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    places[key],
                    len(content),
                    tensor.dtype,
                    shape=tensor.shape,
                    name=value.name,
                    base_dir=folder,
                )
    for name, graph in graphs.items():
        ir.save(graph, folder / name)


def compare(
    model: torch.nn.Module, samples: Mapping[str, Mapping[str, torch.Tensor]], folder: Path, precision: Precision
) -> dict[str, Any]:
    """
    Compare the graphs in a folder with the model, on all samples, and on the first alone.

    Returns:
        `dict`: `dim`, and for each graph the largest `difference` and the lowest `cosine`.

    Raises:
        `ValueError`: A difference is larger than it may be, or not finite.
    """
    found: dict[str, Any] = {"difference": {}, "cosine": {}}
    for graph, inputs in samples.items():
        session, method = open_graph(folder / graph), getattr(model, METHODS[graph])
        differences, cosines = [], []
        for size in (len(TEXTS), 1):
            some = {name: tensor[:size].contiguous() for name, tensor in inputs.items()}
            with torch.inference_mode():
                own = method(**some)
            exported = run_graph(session, some)
            differences.append((exported - own).abs().max().item())
            cosines.append((exported * own).sum(dim=1).min().item())
        found["dim"] = own.shape[1]
        found["difference"][graph], found["cosine"][graph] = max(differences), min(cosines)
        if not max(differences) <= (TOLERANCE if precision == "fp32" else 2):  # NaN is none
            raise ValueError(
                f"The embeddings of {graph} differ from those of the model by {max(differences):.1e}, expected at most"
                f" {TOLERANCE:.0e}. Other versions of torch and onnxscript may export it rightly."
            )
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what the exporter and the quantiser print about their own passes."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def require_exporter() -> Any:
    """Import what exports. Raises an `ImportError` that says how to install it."""
    try:
        import onnx  # noqa: F401
        import onnx_ir
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"The export needs onnx, onnxruntime and onnxscript ({error}). Install them with `pip install"
            ' "contextcir[onnx]"`.'
        ) from error
    return onnx_ir
