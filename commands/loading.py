"""What commands measure: benchmarks, models, and the CLIP that a model was trained from."""

import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor, CLIPModel
from transformers.utils import cached_file

from contextcir.benchmarks.base import Benchmark
from contextcir.benchmarks.doctor import find_root
from modeling_baselines import CompositionBaseline  # noqa: F401 - known to AutoModel by its import, as the next
from modeling_contextcir import ContextCIRModel  # noqa: F401
from modeling_instructcir import InstructCIRModel  # noqa: F401


def load_parts(module, args, name: str | None = None) -> list[Benchmark]:
    """The benchmark that arguments ask for."""
    choices = {key: getattr(args, key) for key in ("protocol", "text") if getattr(args, key)}
    root = find_root(args.data_root, name or args.benchmark)
    return module.load(str(root), args.split or module.SPLITS[0], **choices)


def load_clip(name: str, device: torch.device) -> CLIPModel:
    """A whole CLIP in float32: tensors that are missing would be random, and give a table all the same."""
    clip, info = CLIPModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    broken = [key for key, tensor in clip.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad := sorted(info["missing_keys"]) + broken:
        raise ValueError(f"The CLIP in {name!r} lacks {bad[0]}, or it is not finite ({len(bad)} such). Is it a CLIP?")
    return clip.to(device)


def load_model(name: str, device: torch.device):
    """A model that embeds queries, in float32 on the device, and its processor."""
    model = AutoModel.from_pretrained(name, dtype=torch.float32).to(device)
    if not hasattr(model, "get_query_features"):
        raise ValueError(
            f"{name} is a {type(model).__name__}, which has no get_query_features. To measure a CLIP model, give"
            f" --baselines --clip {name}."
        )
    return model, AutoProcessor.from_pretrained(name)


def find_clip(name: str) -> str:
    """The CLIP at the root of a model: what it was trained from, and what that was, as far as `training.json` says."""
    seen = [name]
    while path := cached_file(
        seen[-1], "training.json", _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False
    ):
        base = json.loads(Path(path).read_text(encoding="utf-8")).get("model", {}).get("base_model")
        if not base or base in seen:
            break
        seen.append(base)
    if len(seen) == 1:
        raise ValueError(f"{name} has no training.json that says which CLIP it was trained from. Give --clip.")
    return seen[-1]
