"""Build the retriever that `--retriever` names, with what a record says of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoProcessor

from contextcir.cli.loading import load_clip, load_model
from contextcir.cli.retriever_arguments import BASIC, INVERSION, RetrieverArguments, kind_of
from contextcir.retrieval.base import Gallery, Retriever
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.functions import function_retriever, load_object
from contextcir.retrieval.identity import digest
from contextcir.retrieval.st import load_sentence_transformer, st_retriever
from contextcir.retrieval.store.sources import find_source
from contextcir.retrieval.towers import Towers, model_towers
from contextcir.retrieval.zero_shot.basic import BasicRetriever
from contextcir.retrieval.zero_shot.compose import COMPOSITIONS, compose
from contextcir.retrieval.zero_shot.inversion import TEMPLATE, read_phi, textual_inversion
from contextcir.runtime.digests import weights_digest
from contextcir.runtime.locations import locate
from contextcir.runtime.protocols import RetrievalModel
from modeling_contextcir import ContextCIRProcessor
from modeling_contextcir.clip_loading import load_whole

RETRIEVAL_HEADS = ("BlipForImageTextRetrieval",)  # AutoModel would give them projections of random numbers


@dataclass(frozen=True)
class Entry:
    """
    A retriever to measure.

    Args:
        label (`str`): Its name in tables.
        retriever ([`~contextcir.retrieval.base.Retriever`]): Searches.
        facts (`Mapping`): What the record says of it beside who embeds.
        own (`tuple`, *optional*): Model and processor, if it is one of ours.
    """

    label: str
    retriever: Retriever
    facts: Mapping[str, Any] = field(default_factory=dict)
    own: tuple[Any, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """The facts, and who embeds: model, revision, digest of the weights, processor, type."""
        try:
            identity = getattr(self.retriever, "identity", None)
        except ValueError:  # functions without a revision cannot say it
            identity = None
        return {**self.facts, **({} if identity is None else asdict(identity))}


def build(spec: str, args: RetrieverArguments, clip: str | None, device: torch.device, options: dict) -> Entry:
    """
    Build a retriever that asks no chat models.

    Args:
        spec (`str`): The value of `--retriever`.
        args ([`RetrieverArguments`]): Checked.
        clip (`str`, *optional*): The CLIP of zero-shot methods.
        device (`torch.device`): Where models run.
        options (`dict`): `batch_size`, `num_workers`, `autocast` and `keep`.

    Raises:
        `ValueError`: The model cannot be used; the message says what to do.
    """
    kind = kind_of(spec)
    facts: dict[str, Any] = {"spec": spec}
    label = spec
    if args.compose:
        facts["composition"], label = args.compose, f"{spec}, {args.compose}"
    if kind == "own":
        own = load_model(spec, device)
        return Entry(label, DenseRetriever.from_model(*own, **options), facts, own)
    if kind == "function":
        found, code = load_object(spec)
        retriever = function_retriever(found, spec, args.compose, **options)
        return Entry(label, retriever, facts | {"code": code})
    if kind == "st":
        model = load_sentence_transformer(
            locate(spec[3:]), device, revision=args.revision, trust_remote_code=args.trust_remote_code
        )
        return Entry(label, st_retriever(model, how=args.compose, name=spec, **options), facts)
    if kind == "hf":
        if args.compose is None:
            raise ValueError(
                f"{spec} embeds images and texts by themselves. Say how the two become one query:"
                f" --compose {'|'.join(COMPOSITIONS)}."
            )
        towers = load_towers(spec[3:], args, device, options.pop("autocast"))
        return Entry(label, compose(towers, args.compose, **options), facts)
    name = locate(str(clip))
    clip_model, processor = load_clip(name, device), ContextCIRProcessor.from_pretrained(name)
    facts["clip"] = clip
    if kind == INVERSION:
        phi, template = read_phi(str(args.phi)), args.template or TEMPLATE
        facts |= {"phi": weights_digest(phi), "template": template}
        return Entry(label, textual_inversion(clip_model, processor, phi, template, **options), facts)
    if kind != BASIC:
        raise ValueError(f"{spec} asks chat models: it is built elsewhere.")
    towers = model_towers(clip_model, processor, autocast=options.pop("autocast"))
    objects, styles = read_terms(str(args.corpus)), read_terms(args.corpus_styles) if args.corpus_styles else []
    images = gallery_of(args.corpus_images) if args.corpus_images else None
    terms = {"objects": len(objects), "styles": len(styles), "corpus": digest([objects, styles])[:16]}
    facts |= terms | {"transductive": images is None}
    retriever = BasicRetriever(towers, objects, styles, images, **options)
    return Entry(label if images else f"{label}, transductive", retriever, facts)


def load_towers(name: str, args: RetrieverArguments, device: torch.device, autocast: torch.dtype | None) -> Towers:
    """
    Load the two encoders of a model of transformers in float32. Errors as in
    [`~contextcir.retrieval.towers.model_towers`], and for weights that do not fit.
    """
    name = locate(name)
    loading = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    config = AutoConfig.from_pretrained(name, **loading)
    head = next(iter(config.architectures or ()), None)
    cls = getattr(transformers, head) if head in RETRIEVAL_HEADS else AutoModel
    if cls is not AutoModel:
        loading.pop("trust_remote_code")
    model = load_whole(cls.from_pretrained, name, dtype=torch.float32, **loading)[0].to(device)
    if isinstance(model, RetrievalModel):
        raise ValueError(f"{name} reads an image and a text together: leave out hf: and --compose.")
    processor = AutoProcessor.from_pretrained(name, revision=args.revision, trust_remote_code=args.trust_remote_code)
    return model_towers(model, processor, autocast=autocast)


def read_terms(path: str) -> list[str]:
    """The lines of a text file that are not empty, each once. Raises a `ValueError` if it cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Expected a text file, one term a line.") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def gallery_of(name: str) -> Gallery:
    """The images of a folder, a list or a data set."""
    source = find_source(name)
    return Gallery(source.ids, [source.image(id_) for id_ in source.ids])
