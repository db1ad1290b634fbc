"""Indexes that are made from a stored gallery: fill an engine with its rows, measure what it finds, and open it later.

The gallery is the record; an index is thrown away and made again at will. `indexes/NAME.json` in the folder of the
gallery says where an index is, what of, and how much it finds. It names no secrets.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from contextcir.data.images import ImageError
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.engines.base import (
    LOWEST_RECALL,
    RecallReport,
    VectorIndex,
    check_facts,
    measure_recall,
    require_recall,
    row_digests,
)
from contextcir.retrieval.engines.exact import ExactIndex
from contextcir.retrieval.engines.quantised import PRECISIONS, QuantisedIndex
from contextcir.retrieval.identity import digest
from contextcir.retrieval.store.files import to_json, write_whole
from contextcir.retrieval.store.gallery import StoredGallery, check_encoder
from contextcir.retrieval.store.layout import Manifest, StoreError

INDEXES = "indexes"
VERSION = 1
ENGINES = ("exact", *PRECISIONS, "lancedb", "postgres")
NUM_PROBES = 200
BATCH = 4096  # rows that an engine gets at a time
SPOT_CHECKS = 16  # rows of an index that are compared with the gallery when it is opened
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class IndexRecord:
    """
    What is known of an index of a gallery.

    Args:
        engine (`str`): One of [`ENGINES`].
        settings (`dict`): What opens it again. A `uri` without scheme that is not absolute is in the gallery's folder.
        content (`str`): Digest of the gallery that it was made from, by [`content_digest`].
        generation (`int`): Generation of that gallery, for messages.
        count (`int`): Number of rows.
        recall (`float`): Its recall@10 on the probes.
        num_probes (`int`): Number of probes.
        seconds (`float`): Time to fill and build it.
        bytes (`int`): Its size.
    """

    engine: str
    settings: dict[str, Any]
    content: str
    generation: int
    count: int
    recall: float
    num_probes: int
    seconds: float
    bytes: int

    @classmethod
    def read(cls, path: Path) -> "IndexRecord | None":
        """The record in a file, or `None` if there is none. Raises a [`StoreError`] if it is damaged."""
        try:
            found = json.loads(path.read_bytes())
            if found.pop("version") != VERSION:
                raise ValueError("another version")
            return cls(**found)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} cannot be read ({error}). Build the index again.") from error


def content_digest(manifest: Manifest) -> str:
    """Digest of all that a gallery holds: of its shards, in their order."""
    return digest([shard["sha256"] for shard in manifest.shards])[:32]


def index_names(gallery: StoredGallery) -> list[str]:
    """Names of the indexes of a gallery, those of earlier generations included."""
    return sorted(path.stem for path in (gallery.folder / INDEXES).glob("*.json"))


def new_index(gallery: StoredGallery, engine: str, **settings: Any) -> VectorIndex:
    """
    Make an index for a gallery, to be filled by [`build_index`].

    Args:
        gallery ([`~contextcir.retrieval.store.gallery.StoredGallery`]): The gallery.
        engine (`str`): One of [`ENGINES`].
        **settings: As for [`~contextcir.retrieval.engines.quantised.QuantisedIndex`],
            [`~contextcir.retrieval.engines.lance.LanceIndex`] (`uri` is a folder in that of the gallery by default) or
            [`~contextcir.retrieval.engines.postgres.PostgresIndex`].

    Raises:
        `ValueError`: There is no such engine or setting.
    """
    if engine not in ENGINES:
        raise ValueError(f"Got the engine {engine!r}, expected one of {', '.join(ENGINES)}.")
    try:
        if engine == "exact":
            return ExactIndex(gallery.ids, gallery.rows, gallery.facts, **settings)
        if engine in PRECISIONS:
            return QuantisedIndex(engine, gallery.ids, gallery.rows, gallery.facts, **settings)
        if engine == "postgres":
            from contextcir.retrieval.engines.postgres import PostgresIndex

            return PostgresIndex(**settings)
        from contextcir.retrieval.engines.lance import LanceIndex

        uri = settings.pop("uri", None) or f"{INDEXES}/lancedb"
        return LanceIndex(uri if "://" in str(uri) else gallery.folder / uri, **settings)
    except TypeError as error:
        raise ValueError(f"{engine} has other settings than {', '.join(settings)} ({error}).") from error


def build_index(
    gallery: StoredGallery,
    index: VectorIndex,
    *,
    name: str | None = None,
    retriever: DenseRetriever | None = None,
    lowest_recall: float = LOWEST_RECALL,
    batch: int = BATCH,
) -> RecallReport:
    """
    Fill an index with the rows of a gallery, build it, measure it, and write down that it is there.

    Rows that it has already are left alone, so that a run that was killed goes on, and a gallery that has changed
    costs its changes. Rows that the gallery no longer has are removed. Vectors pass through memory `batch` at a time;
    ids and digests of all rows are in memory.

    Args:
        gallery ([`~contextcir.retrieval.store.gallery.StoredGallery`]): The gallery.
        index ([`~contextcir.retrieval.engines.base.VectorIndex`]): An index for this gallery alone: other rows in it
            are removed.
        name (`str`, *optional*): Name to open it by; by default that of the engine.
        retriever ([`~contextcir.retrieval.dense.DenseRetriever`], *optional*): Embeds the probes: up to 200 images of
            the gallery, each with a modification text (`probes.txt`). By default the gallery's own.
        lowest_recall (`float`, *optional*, defaults to 0.95): Recall@10 below which the index is refused.
        batch (`int`, *optional*, defaults to 4096): Rows that are added at a time.

    Returns:
        [`~contextcir.retrieval.engines.base.RecallReport`]: What it finds.

    Raises:
        `ValueError`: There is no retriever, the gallery is empty, the engine cannot search with these queries, or it
            finds too little. An index that is refused cannot be opened.
    """
    name = index.engine if name is None else name
    if batch < 1 or not len(gallery):
        raise ValueError(f"Got {len(gallery)} images and batch={batch}, expected at least 1.")
    retriever = retriever or gallery.retriever
    if retriever is None:
        raise ValueError(
            "A retriever is needed, to measure the recall of the index on composed queries. Open the gallery with one,"
            " or pass retriever=..."
        )
    path = _record_path(gallery, name)
    probes = composed_probes(gallery, retriever)
    index.search(probes[:1], 1)  # what cannot work shows before hours of work
    path.unlink(missing_ok=True)  # from here on, the index is not what was written down
    begin = time.monotonic()
    _fill(gallery, index, batch)
    index.build()
    seconds = time.monotonic() - begin
    report = measure_recall(index, ExactIndex(gallery.ids, gallery.rows), probes)
    require_recall(report, lowest_recall)
    content = content_digest(gallery.manifest)
    path.parent.mkdir(exist_ok=True)
    if isinstance(index, QuantisedIndex):
        index.save(path.with_suffix(".safetensors"), content)
    record = IndexRecord(
        engine=index.engine,
        settings=_movable(gallery, index.settings),
        content=content,
        generation=gallery.manifest.generation,
        count=len(index),
        recall=round(report.recall, 4),
        num_probes=report.num_probes,
        seconds=round(seconds, 3),
        bytes=index.size_in_bytes(),
    )
    write_whole(path, to_json({"version": VERSION, **asdict(record)}) + b"\n")
    return report


def open_index(gallery: StoredGallery, name: str, **settings: Any) -> VectorIndex:
    """
    Open an index of a gallery that [`build_index`] made.

    Args:
        gallery ([`~contextcir.retrieval.store.gallery.StoredGallery`]): The gallery.
        name (`str`): Name of the index; `exact` needs none that was made.
        **settings: Secrets, which are not written down (`storage_options`, or a `dsn` with its password), and settings
            that shall be others than those it was made with, such as `nprobes`.

    Raises:
        [`StoreError`]: There is no such index, it was made from another generation of the gallery, or it does not hold
            the gallery's rows.
    """
    if name == "exact":
        return new_index(gallery, name, **settings)
    path = _record_path(gallery, name)
    record = IndexRecord.read(path)
    if record is None:
        there = f"There are {', '.join(['exact', *index_names(gallery)])}."
        raise StoreError(f"{gallery.folder} has no index {name!r}. {there} Build it, or take another.")
    if record.content != content_digest(gallery.manifest):
        raise StoreError(
            f"The index {name!r} was made from generation {record.generation} of {gallery.folder}, which is another"
            f" than the generation {gallery.manifest.generation} that is there. Build the index again."
        )
    if record.engine not in ENGINES:
        raise StoreError(f"{path} names the engine {record.engine!r}, which does not exist. Build the index again.")
    index = new_index(gallery, record.engine, **record.settings | settings)
    if isinstance(index, QuantisedIndex):
        index.load(path.with_suffix(".safetensors"), record.content)
        return index
    try:
        _check_rows(gallery, index, name)
    except BaseException:
        index.close()
        raise
    return index


def composed_probes(gallery: StoredGallery, retriever: DenseRetriever, most: int = NUM_PROBES) -> torch.Tensor:
    """
    Embed queries such as people ask: images of the gallery, evenly spaced, each with a generic modification text.

    Returns:
        `torch.Tensor` of shape `(num_probes, dim)`, or `(num_probes, parts, dim)`: At most `most`. Images that cannot
        be read are left out.

    Raises:
        [`StoreError`]: No image can be read, or another model made the gallery.
    """
    check_encoder(gallery.manifest, retriever, gallery.folder)
    texts = Path(__file__).with_name("probes.txt").read_text(encoding="utf-8").splitlines()
    count = min(most, len(gallery))
    chosen = [gallery.ids[number * len(gallery) // count] for number in range(count)]
    embeds: list[torch.Tensor] = []
    reasons: list[str] = []
    for start in range(0, count, retriever.batch_size):
        images = []
        for id_ in chosen[start : start + retriever.batch_size]:
            try:
                images.append(gallery.image(id_))
            except ImageError as error:
                reasons.append(str(error))
        if images:
            asked = list(islice(cycle(texts), start, start + len(images)))
            embeds.append(retriever.embed_queries(images, asked).cpu())
    if not embeds:
        raise StoreError(f"Recall is measured with images of the gallery, and none can be read: {reasons[0]}")
    return torch.cat(embeds)


def _fill(gallery: StoredGallery, index: VectorIndex, batch: int) -> None:
    """Make the rows of an index those of the gallery."""
    if isinstance(index, ExactIndex) and index.state.rows is gallery.rows:
        return
    there = index.digests()
    for start in range(0, len(gallery), batch):
        rows = slice(start, start + batch)
        ids, vectors = gallery.ids[rows], torch.as_tensor(gallery.rows[rows]).float()
        facts = check_facts(ids, {column: values[rows] for column, values in gallery.facts.items()})
        wanted = row_digests(vectors, facts)
        new = [row for row, id_ in enumerate(ids) if there.get(id_) != wanted[row]]
        if new:
            own = {column: [values[row] for row in new] for column, values in facts.items()}
            index.add([ids[row] for row in new], vectors[new], own)
    gone = [id_ for id_ in there if id_ not in gallery.positions]
    for start in range(0, len(gone), batch):
        index.remove(gone[start : start + batch])


def _check_rows(gallery: StoredGallery, index: VectorIndex, name: str) -> None:
    """Compare the number of rows, and some rows themselves."""
    if len(index) != len(gallery):
        raise StoreError(
            f"The index {name!r} holds {len(index)} rows, {gallery.folder} has {len(gallery)}. Build it again."
        )
    step = max(1, len(gallery) // SPOT_CHECKS)
    some: Sequence[str] = gallery.ids[::step][:SPOT_CHECKS]
    mine = ExactIndex(gallery.ids, gallery.rows, gallery.facts).digests(some)
    if index.digests(some) != mine:
        raise StoreError(f"The index {name!r} holds other rows than {gallery.folder}. Build it again.")


def _record_path(gallery: StoredGallery, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"Got the name {name!r} of an index, expected letters, digits, - and _.")
    return gallery.folder / INDEXES / f"{name}.json"


def _movable(gallery: StoredGallery, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that stay true when the folder of the gallery is moved."""
    uri, folder = settings.get("uri"), gallery.folder.absolute()
    if uri is None or "://" in uri or not Path(uri).is_relative_to(folder):
        return settings
    return settings | {"uri": Path(uri).relative_to(folder).as_posix()}
