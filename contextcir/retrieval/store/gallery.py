"""A stored gallery, open for search: its embeddings come from a memory map, its images from where they are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from contextcir.data.images import ImageError, load_image
from contextcir.retrieval.base import Gallery
from contextcir.retrieval.dense import DenseRetriever, normalize
from contextcir.retrieval.engines.base import VectorIndex
from contextcir.retrieval.engines.exact import ExactIndex
from contextcir.retrieval.filters import Where, as_conditions
from contextcir.retrieval.store.changes import read_shards, require
from contextcir.retrieval.store.layout import Manifest, Shard, StoreError
from contextcir.retrieval.store.sources import Sources, open_source


@dataclass(frozen=True)
class Hit:
    """
    One result of a search.

    Args:
        rank (`int`): 1 for the best.
        id (`str`): Id of the image.
        score (`float`): Dot product of the embeddings.
        facts (`dict`): Column -> value.
    """

    rank: int
    id: str
    score: float
    facts: dict[str, Any]


class StoredRows:
    """The embeddings of shards, one after the other, as if they were one tensor. Slices inside a shard are views."""

    ndim = 2

    def __init__(self, parts: Sequence[torch.Tensor]):
        self.parts = [part for part in parts if len(part)]
        self.starts = [0]
        for part in self.parts:
            self.starts.append(self.starts[-1] + len(part))
        self.shape = (self.starts[-1], self.parts[0].shape[1] if self.parts else 0)
        self.dtype = self.parts[0].dtype if self.parts else torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def gather(self, places: torch.Tensor) -> torch.Tensor:
        """The rows at some places: `(*places.shape, dim)`, float32."""
        flat = places.flatten()
        numbers = torch.bucketize(flat, torch.tensor(self.starts[1:]), right=True)
        found = torch.empty(len(flat), self.shape[1])
        for number in numbers.unique().tolist():
            here = numbers == number
            found[here] = self.parts[number][flat[here] - self.starts[number]].float()
        return found.unflatten(0, places.shape)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        start, stop, _ = rows.indices(len(self))
        pieces = [
            part[max(0, start - first) : stop - first]
            for first, part in zip(self.starts, self.parts, strict=False)
            if first < stop and start < first + len(part)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces) if pieces else torch.empty(0, self.shape[1])


class StoredGallery(Gallery):
    """
    A gallery on disk, see [`Gallery.open`]. Bad images are not part of it; `manifest.bad` says why.

    Attributes:
        manifest ([`~contextcir.retrieval.store.layout.Manifest`]): What is stored, and who embedded it.
        rows ([`StoredRows`]): The embeddings, `(len(gallery), dim)`.
        facts (`dict[str, list]`): Column -> one value for each image.
        retriever ([`~contextcir.retrieval.dense.DenseRetriever`], *optional*): Embeds queries.
        index ([`~contextcir.retrieval.engines.base.VectorIndex`]): Searches; exact by default.
    """

    def __init__(self, folder: Path, manifest: Manifest, shards: Sequence[Shard], retriever: DenseRetriever | None):
        self.folder, self.manifest, self.retriever = folder, manifest, retriever
        valid = [shard.valid.bool() for shard in shards]
        ids = [id_ for shard, good in zip(shards, valid, strict=True) for id_ in _select(shard.ids, good)]
        # A shard without holes stays on disk; the rows of another one are copied.
        self.rows = StoredRows([s.embeds if v.all() else s.embeds[v] for s, v in zip(shards, valid, strict=True)])
        columns = sorted({name for shard in shards for name in shard.facts})
        self.facts: dict[str, list[Any]] = {
            name: [
                value
                for shard, good in zip(shards, valid, strict=True)
                for value in _select(shard.facts.get(name) or [None] * len(shard.ids), good)
            ]
            for name in columns
        }
        super().__init__(ids, _StoredImages(self, ids))
        self.index: VectorIndex = ExactIndex(self.ids, self.rows, self.facts)

    @classmethod
    def load(cls, folder: str | os.PathLike, retriever: DenseRetriever | None = None) -> "StoredGallery":
        """See [`Gallery.open`]."""
        path = Path(folder)
        manifest = require(path)
        try:
            shards = read_shards(path, manifest)
        except StoreError:  # perhaps a new generation has just replaced it
            if (again := require(path)).generation == manifest.generation:
                raise
            manifest, shards = again, read_shards(path, again)
        if retriever is not None:
            check_encoder(manifest, retriever, path)
        return cls(path, manifest, shards, retriever)

    def embeds_by(self, retriever: DenseRetriever) -> StoredRows:
        """The stored embeddings. Raises a [`StoreError`] if another model made them."""
        check_encoder(self.manifest, retriever, self.folder)
        return self.rows

    @cached_property
    def sources(self) -> Sources:
        """Where the images are."""
        return Sources([open_source(one) for one in self.manifest.sources])

    def is_current(self) -> bool:
        """Whether the folder still has this generation."""
        found = Manifest.read(self.folder)
        return found is not None and found.generation == self.manifest.generation

    def search(
        self,
        image: Any = None,
        text: str = "",
        k: int = 10,
        *,
        where: Mapping[str, Any] | Where | None = None,
        image_weight: float = 0.0,
        exclude: Sequence[str] = (),
    ) -> list[Hit]:
        """
        Search with a reference image, a modification text, or both.

        Args:
            image (*optional*): The reference: anything that [`~contextcir.data.images.load_image`] reads. The id of an
                image of the gallery is one, too.
            text (`str`, *optional*): What should be different. Without a text, similar images are found.
            k (`int`, *optional*, defaults to 10): Number of results.
            where (`Mapping` or `Sequence[Condition]`, *optional*): Conditions on the facts, such as
                `{"colour": ["red", "blue"]}`, see [`~contextcir.retrieval.filters`].
            image_weight (`float`, *optional*, defaults to 0): Weight in [0, 1] of the reference's own embedding,
                beside that of the composed query: more keeps results closer to the reference.
            exclude (`Sequence[str]`, *optional*): Ids that are left out, such as that of the reference.

        Returns:
            `list[Hit]`: Best first.

        Raises:
            `ImageError`: The reference cannot be read.
            `ValueError`: There is neither image nor text, a number is out of range, or no retriever was given.
        """
        query = self.embed([image], [text], image_weight=image_weight)
        return self.find(query, k, where=where, exclude=[exclude])[0]

    def embed(self, images: Sequence[Any], texts: Sequence[str], *, image_weight: float = 0.0) -> torch.Tensor:
        """
        Embed queries, in one pass for those with a text. Arguments as lists of those of [`StoredGallery.search`].

        Returns:
            `torch.Tensor` of shape `(len(texts), dim)`, or `(len(texts), parts, dim)`, see
            [`~contextcir.retrieval.index.similarity`].
        """
        if self.retriever is None:
            raise ValueError("The gallery was opened without a retriever. Use Gallery.open(folder, retriever).")
        if not 0 <= image_weight <= 1:
            raise ValueError(f"Got image_weight={image_weight}, expected a number in [0, 1].")
        loaded = [self.reference(image) for image in images]
        for image, text in zip(loaded, texts, strict=True):
            if image is None and not text.strip():
                raise ValueError("There is neither a reference image nor a text: there is nothing to search for.")
        composed = [place for place, text in enumerate(texts) if text.strip()]
        alone = [place for place, image in enumerate(loaded) if image is not None and (place not in composed)]
        own = [place for place, image in enumerate(loaded) if image is not None and (place in alone or image_weight)]
        embeds: dict[int, torch.Tensor] = {}
        if composed:
            found = self.retriever.embed_queries([loaded[p] for p in composed], [texts[p] for p in composed])
            embeds.update(zip(composed, found.cpu(), strict=True))
        if own:
            references = self.retriever.embed_images([image for p in own if (image := loaded[p]) is not None]).cpu()
            for place, embed in zip(own, references, strict=True):
                if place in alone:
                    like = next(iter(embeds.values()), embed)
                    embeds[place] = embed.expand_as(like) if like.ndim > 1 else embed
                else:
                    embeds[place] = normalize((1 - image_weight) * embeds[place] + image_weight * embed)
        return torch.stack([embeds[place] for place in range(len(texts))])

    def find(
        self,
        queries: torch.Tensor,
        k: int = 10,
        *,
        where: Mapping[str, Any] | Where | None = None,
        exclude: Sequence[Sequence[str]] = (),
    ) -> list[list[Hit]]:
        """
        Search with embeddings.

        Args:
            queries (`torch.Tensor` of shape `(num_queries, dim)`): As [`StoredGallery.embed`] gives them.
            k (`int`, *optional*, defaults to 10): Number of results.
            where (*optional*): Conditions, as for [`StoredGallery.search`].
            exclude (`Sequence[Sequence[str]]`, *optional*): For each query, ids that are left out.
        """
        if k < 1:
            raise ValueError(f"Got k={k}, expected at least 1.")
        left_out = [set(ids) for ids in exclude] or [set() for _ in queries]
        more = max(map(len, left_out), default=0)
        found = self.index.search(queries, k + more, as_conditions(where))
        hits = []
        for some, without in zip(found, left_out, strict=True):
            # An index that others write to may already have images of the next generation.
            kept = [(id_, score) for id_, score in some if id_ not in without and id_ in self.positions][:k]
            hits.append([Hit(rank, id_, score, self.facts_of(id_)) for rank, (id_, score) in enumerate(kept, start=1)])
        return hits

    def facts_of(self, id_: str) -> dict[str, Any]:
        """The facts of an image: column -> value."""
        return {name: values[self.positions[id_]] for name, values in self.facts.items()}

    def path_of(self, id_: str) -> str | None:
        """The file of an image, or `None` if it is in a data set or gone."""
        try:
            source = self.images[self.positions[id_]]
        except ImageError:
            return None
        return str(source) if isinstance(source, (str, os.PathLike)) else None

    def reference(self, image: Any) -> Image.Image | None:
        """Read a reference image: one of the gallery by its id, or anything that `load_image` reads."""
        if image is None:
            return None
        if isinstance(image, str) and image in self.positions:
            return self.image(image)
        return load_image(image, name=None if isinstance(image, (str, os.PathLike)) else "the reference image")


class _StoredImages(Sequence):
    """The images of a stored gallery, read from their sources when they are asked for."""

    def __init__(self, gallery: StoredGallery, ids: Sequence[str]):
        self.gallery, self.ids = gallery, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        try:
            return self.gallery.sources.image(self.ids[place])
        except (StoreError, OSError) as error:  # the latter of a data set that cannot be reached
            raise ImageError(f"gallery image {self.ids[place]!r}: {error}") from error


def check_encoder(manifest: Manifest, retriever: DenseRetriever, folder: Path) -> None:
    """Raise a [`StoreError`] that names both if a gallery was embedded by another model than the retriever's."""
    mine = retriever.identity
    if mine.fingerprint != manifest.encoder.fingerprint:
        raise StoreError(
            f"{folder} was embedded by {manifest.encoder.model}"
            f"{f' at {manifest.encoder.revision}' if manifest.encoder.revision else ''}, got {mine.model}"
            f"{f' at {mine.revision}' if mine.revision else ''}: {manifest.encoder.difference(mine)}. Give the model"
            " that it was made with, or index the images again."
        )


def _select(values: Sequence[Any], good: torch.Tensor) -> Sequence[Any]:
    return values if good.all() else [value for value, one in zip(values, good.tolist(), strict=True) if one]
