"""Embed with an exported model: two ONNX graphs, their shared weights, and a record of what they are.

`contextcir export` writes such a folder. It is used wherever a model is: `--model FOLDER`, `--retriever FOLDER`.
"""

import json
import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from contextcir.retrieval.dense import DenseRetriever, PixelValues, query_inputs
from contextcir.retrieval.identity import Identity
from contextcir.retrieval.store.layout import file_digest

logger = logging.getLogger("contextcir")

RECORD = "contextcir_onnx.json"
GALLERY, QUERY, WEIGHTS = "gallery.onnx", "query.onnx", "weights.data"
INPUTS = {GALLERY: ["pixel_values"], QUERY: ["pixel_values", "input_ids", "attention_mask"]}
DTYPES = {"fp32": "float32", "int8": "int8"}  # precision of a graph -> type of its weights


def read_record(folder: str | PathLike) -> dict[str, Any] | None:
    """Read the record of an exported model, or return `None` where there is none."""
    path = Path(folder, RECORD)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class OnnxEncoder(DenseRetriever):
    """
    Retrieve with an exported model.

    Graphs in float32 have the identity of the model that they were made of, since their embeddings are the same to
    1e-4: each searches the galleries of the other. Graphs in int8 have one of their own.

    Args:
        folder (`str` or `os.PathLike`): Folder that `contextcir export` has written.
        processor: The model's processor, which is saved in the folder.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): `cpu`, `cuda` or `cuda:N`. On a CPU, torch's
            number of threads is used, which is that of `OMP_NUM_THREADS` if it is set.
        **options: `batch_size`, `num_workers`, `draft_side` and `keep`, as for [`DenseRetriever`].

    Raises:
        `ImportError`: onnxruntime is not installed.
        `ValueError`: The folder holds no exported model, a file is missing or was changed, or onnxruntime cannot use
            the device.
    """

    def __init__(self, folder: str | PathLike, processor: Any, device: str | torch.device = "cpu", **options: Any):
        record = read_record(folder)
        if record is None:
            raise ValueError(f"{folder} has no {RECORD}: it is not an exported model. `contextcir export` makes one.")
        check_files(folder, record)
        self.record, self.processor = record, processor
        self._graphs = {name: open_graph(Path(folder, name), device) for name in INPUTS}
        identity = Identity(
            model=str(folder),
            weights=record["weights"],
            processor=record["processor"],
            dtype=DTYPES[record["precision"]],
        )
        prepare = PixelValues(processor)
        super().__init__(self._embed_images, self._embed_queries, prepare=prepare, identity=identity, **options)

    def _embed_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return run_graph(self._graphs[GALLERY], {"pixel_values": pixel_values})

    def _embed_queries(self, images: list[Image.Image | None], texts: list[str]) -> torch.Tensor:
        return run_graph(self._graphs[QUERY], query_inputs(self.processor, images, texts))


def check_files(folder: str | PathLike, record: Mapping[str, Any]) -> None:
    """
    Compare the files of an exported model with their digests.

    Raises:
        `ValueError`: One is missing or was changed.
    """
    for name, digest in record["files"].items():
        path = Path(folder, name)
        if not path.is_file() or file_digest(path) != digest:
            problem = "was changed since the export" if path.is_file() else "is missing"
            raise ValueError(f"{path} {problem}. Copy the folder again, or run `contextcir export` again.")


def open_graph(path: Path, device: str | torch.device = "cpu") -> Any:
    """
    Open a graph.

    Args:
        path (`Path`): The ONNX file.
        device (`str` or `torch.device`): `cpu`, `cuda` or `cuda:N`.

    Returns:
        `onnxruntime.InferenceSession`

    Raises:
        `ImportError`: onnxruntime is not installed.
        `ValueError`: onnxruntime cannot use the device.
    """
    onnxruntime = require_onnxruntime()
    where, options = torch.device(device), onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # by default, onnxruntime takes all cores
    options.log_severity_level = 3  # errors; some warnings are about what its own optimiser does
    providers: list[Any] = ["CPUExecutionProvider"]
    if where.type == "cuda":
        providers = [("CUDAExecutionProvider", {"device_id": where.index or 0}), *providers]
    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(where.type)
    session = None
    if wanted in onnxruntime.get_available_providers():
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    if session is None or session.get_providers()[0] != wanted:  # it falls back to the CPU by itself
        raise ValueError(
            f"onnxruntime cannot use the device {device} here, but {onnxruntime.get_available_providers()}. For CUDA,"
            " install onnxruntime-gpu in place of onnxruntime; or use the CPU (--device cpu)."
        )
    return session


def run_graph(session: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Run a graph of [`open_graph`] on its inputs: embeddings `(batch_size, dim)`, float32, on the CPU."""
    (embeds,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(embeds)


def usable_device(device: torch.device) -> torch.device:
    """Return a device, or the CPU, with a warning, where it is one that onnxruntime cannot use."""
    if device.type == "cpu":
        return device
    if device.type == "cuda" and "CUDAExecutionProvider" in require_onnxruntime().get_available_providers():
        return device
    logger.warning("onnxruntime cannot use %s here, and runs on the CPU. For CUDA, install onnxruntime-gpu.", device)
    return torch.device("cpu")


def require_onnxruntime() -> Any:
    """Import onnxruntime. Raises an `ImportError` that says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f'ONNX graphs need onnxruntime ({error}). Install it with `pip install "contextcir[onnx]"`.'
        ) from error
    return onnxruntime
