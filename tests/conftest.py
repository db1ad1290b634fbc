"""The tiny world: a CLIP of odd sizes, a real-format CLIP tokenizer with a small vocabulary, and a few images."""
# ruff: noqa: E402 - what libraries read from the environment as they are imported is set before

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network; tests/test_hub.py talks to a loopback Hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A run of all tests writes gigabytes of caches and temporary files, and processes that tests kill cannot tidy up. All
# of it goes into one folder, which ends with the run. Workers of pytest-xdist inherit these variables. The folders of
# pytest's own fixtures stay where people look for them.
SCRATCH = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    SCRATCH = Path(tempfile.mkdtemp(prefix="contextcir-tests-"))
    SCRATCH.chmod(0o755)  # servers run as another user
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", os.fspath(SCRATCH.parent))
    os.environ |= {"TMPDIR": os.fspath(SCRATCH), "HF_HOME": os.fspath(SCRATCH / "huggingface")}
    tempfile.tempdir = None  # read TMPDIR again

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from modeling_contextcir import ContextCIRModel, ContextCIRProcessor

torch.set_num_threads(1)
# In the background of a shell SIGINT is ignored, and would be in the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

IMAGE_SIZE = 30  # patches of 6: 5 x 5


def pytest_unconfigure() -> None:
    """Remove what the run left, when all workers have ended."""
    if SCRATCH is not None:
        shutil.rmtree(SCRATCH, ignore_errors=True)


def byte_characters() -> list[str]:
    """The 256 characters that byte-level BPE uses for bytes, in CLIP's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def build_clip_tokenizer(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """CLIP's tokenizer from its merges, laid out as in the original vocabulary."""
    characters = byte_characters()
    tokens = [
        *characters,
        *(c + "</w>" for c in characters),
        *map("".join, merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    """517 tokens: bytes, three merges that spell "red" and "the", begin and end."""
    return build_clip_tokenizer([("r", "e"), ("re", "d</w>"), ("t", "h"), ("th", "e</w>")])


@pytest.fixture(scope="session")
def clip_config(tokenizer) -> CLIPConfig:
    """Odd sizes everywhere; text and vision widths differ."""
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "max_position_embeddings": 77}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    vision = {"hidden_size": 24, "intermediate_size": 41, "num_hidden_layers": 2, "num_attention_heads": 3}
    vision |= {"image_size": IMAGE_SIZE, "patch_size": 6}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, clip_config, tokenizer) -> str:
    """A CLIP as people have it on disk: model, tokenizer and image processor."""
    folder = str(tmp_path_factory.mktemp("clip"))
    torch.manual_seed(0)
    CLIPModel(clip_config).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory, clip_folder):
    """The folder of a trained run, as far as `contextcir benchmark` reads it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    ContextCIRModel.from_clip_pretrained(clip_folder).save_pretrained(folder)
    ContextCIRProcessor.from_pretrained(clip_folder).save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps({"model": {"base_model": clip_folder}}))
    return folder


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Eight RGB images of different sizes."""
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (30 + i, 40 - i, 3), dtype=np.uint8)) for i in range(8)]
