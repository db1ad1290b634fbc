"""Retrieval by embeddings: encode the gallery once, encode the queries, search exactly.

With several processes, each encodes a share of the images. All get the same embeddings and the same ranking.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from accelerate.utils import gather
from PIL import Image
from tqdm.auto import tqdm
from transformers.utils import logging

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Gallery, Query, Ranking, check_searchable
from contextcir.retrieval.identity import Identity, ModelIdentity
from contextcir.retrieval.index import Rows, nonfinite_row
from contextcir.retrieval.loading import ImageLoader, image_batches, read_ahead
from contextcir.retrieval.ranking import rank
from contextcir.runtime.distributed import process_state
from contextcir.runtime.inference import evaluation_mode, weights_state
from contextcir.runtime.protocols import RetrievalModel

logger = logging.get_logger(__name__)

EncodeImages = Callable[[Any], torch.Tensor]
EncodeQueries = Callable[[list[Image.Image | None], list[str]], torch.Tensor]
KeepGallery = Callable[["DenseRetriever", Gallery], Rows]
EncodePlaces = Callable[[Sequence[int]], Iterator[tuple[Sequence[int], torch.Tensor]]]  # yields batches


class GalleryEmbeds:
    """
    A cache of gallery embeddings. Retrievers that embed gallery images in the same way may share one.

    Args:
        state (`Callable[[], Hashable]`, *optional*): Identifies the weights. The cache is emptied when the state
            changes; by default, never.
    """

    def __init__(self, state: Callable[[], Hashable] = lambda: None):
        self.state = state
        self._last_state: Hashable = None
        self._embeds: dict[Gallery, Rows] = {}

    def get(self, gallery: Gallery, encode: Callable[[Gallery], Rows]) -> Rows:
        """Return the cached embeddings of a gallery, `(gallery_size, dim)`, or compute them with `encode`."""
        state = self.state()
        if state != self._last_state:
            self._embeds.clear()
            self._last_state = state
        if gallery not in self._embeds:
            self._embeds[gallery] = encode(gallery)
        return self._embeds[gallery]


class DenseRetriever:
    """
    Rank by the dot product of query and gallery embeddings. A gallery is encoded at its first search.

    Args:
        encode_images (`Callable`): Images -> L2-normalised `(batch_size, dim)`. It gets a list of RGB images, or, with
            `prepare`, what that made of them.
        encode_queries (`Callable[[list[Image.Image | None], list[str]], torch.Tensor]`):
            Reference images (`None` for a query without one) and texts -> L2-normalised `(batch_size, dim)`, or
            `(batch_size, parts, dim)`, see [`~contextcir.retrieval.index.similarity`].
        prepare (`Callable[[Image.Image], torch.Tensor]`, *optional*): Preprocessing of one gallery image, done ahead
            in threads or worker processes. `encode_images` then gets the stacked tensors, `(batch_size, ...)`.
        identity ([`~contextcir.retrieval.identity.Identity`] or `Callable[[], Identity]`, *optional*): Who embeds.
            Needed to store a gallery.
        batch_size (`int`, *optional*, defaults to 64): Images, or queries, that each process encodes at a time.
        num_workers (`int`, *optional*, defaults to 0): Worker processes that read and prepare images; 0 means threads.
        galleries ([`GalleryEmbeds`], *optional*): Cache of gallery embeddings; by default, one that is never emptied.
            If the weights behind `encode_images` may change, pass one with a `state`.
        draft_side (`int`, *optional*): Decode large JPEG files of a gallery at a reduced size, see
            [`~contextcir.data.images.load_image`]: faster, and not quite the same embeddings.
        truncate_dim (`int`, *optional*): Keep so many numbers of each embedding, renormalised. Of a model that was
            trained for it (`matryoshka_dims` of its config), they serve nearly as well, in less memory and time.
        keep (`Callable`, *optional*): Encodes a gallery and keeps the embeddings beyond this process, such as
            [`~contextcir.retrieval.store.cache.GalleryCache`].
    """

    def __init__(
        self,
        encode_images: EncodeImages,
        encode_queries: EncodeQueries,
        *,
        prepare: Callable[[Image.Image], torch.Tensor] | None = None,
        identity: Identity | Callable[[], Identity] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        galleries: GalleryEmbeds | None = None,
        draft_side: int | None = None,
        truncate_dim: int | None = None,
        keep: KeepGallery | None = None,
    ):
        if truncate_dim is not None and truncate_dim < 1:
            raise ValueError(f"truncate_dim must be at least 1, got {truncate_dim}.")
        self.keep, self.draft_side, self.truncate_dim = keep, draft_side, truncate_dim
        self.encode_images: EncodeImages = lambda images: truncate(encode_images(images), truncate_dim)
        self.encode_queries: EncodeQueries = lambda *query: truncate(encode_queries(*query), truncate_dim)
        self.prepare = prepare
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.galleries = galleries or GalleryEmbeds()
        self._identity = identity

    @classmethod
    def from_model(
        cls, model: RetrievalModel, processor: Any, *, autocast: torch.dtype | None = None, **options: Any
    ) -> "DenseRetriever":
        """
        Retrieve with a composed image retrieval model. A query without a reference image is encoded with a blank
        image, in the mean colour of the model's training images.

        Args:
            model ([`~contextcir.runtime.protocols.RetrievalModel`]): On the device to run on.
            processor: Its processor.
            autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
            **options: `batch_size`, `num_workers`, `draft_side`, `truncate_dim` and `keep`.

        Returns:
            `DenseRetriever`: Encodes a gallery again after the model's weights have changed.
        """
        module = cast(torch.nn.Module, model)  # the protocol says so, but a type cannot say both

        def encode_images(pixel_values: torch.Tensor) -> torch.Tensor:
            with evaluation_mode(module, autocast) as device:
                return model.get_image_features(pixel_values.to(device, non_blocking=True))

        def encode_queries(images: list[Image.Image | None], texts: list[str]) -> torch.Tensor:
            blank = torch.tensor([image is None for image in images])
            images = [Image.new("RGB", (1, 1)) if image is None else image for image in images]
            with evaluation_mode(module, autocast) as device:
                inputs = processor(images=images, text=texts, return_tensors="pt")
                inputs["pixel_values"][blank] = 0  # the mean colour, as in `get_text_features`
                names = ("pixel_values", "input_ids", "attention_mask")
                return model.get_query_features(**{name: inputs[name].to(device) for name in names})

        widths, width = getattr(getattr(module, "config", None), "matryoshka_dims", None), options.get("truncate_dim")
        if width is not None and width not in (widths or ()):
            trained = f"at the widths {widths}" if widths else "at its full width only"
            logger.warning(f"truncate_dim={width}: the model was trained {trained}. Measure what this one loses.")
        options.setdefault("identity", ModelIdentity(module, processor, autocast))
        galleries = GalleryEmbeds(partial(weights_state, module))
        return cls(encode_images, encode_queries, prepare=PixelValues(processor), galleries=galleries, **options)

    @property
    def identity(self) -> Identity:
        """
        [`~contextcir.retrieval.identity.Identity`]: Who embeds. For a model, all its weights are read.

        Raises:
            `ValueError`: The retriever was made of functions, without an `identity`.
        """
        if self._identity is None:
            raise ValueError(
                "A retriever made of functions cannot say who embeds. Pass identity=Identity(model=..., revision=...),"
                " and another revision whenever the functions change."
            )
        found = self._identity if isinstance(self._identity, Identity) else self._identity()
        return replace(found, draft_side=self.draft_side, truncate_dim=self.truncate_dim)

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embed RGB images as those of a gallery: `(len(images), dim)`, float32."""
        with torch.inference_mode():
            prepared: Any = list(images)
            if self.prepare is not None:
                prepared = torch.stack([self.prepare(image) for image in images])
            return self.encode_images(prepared).float()

    def embed_queries(self, images: Sequence[Image.Image | None], texts: Sequence[str]) -> torch.Tensor:
        """Embed reference images (`None` for a query without one) and texts: `(len(texts), dim)` or `(len(texts),
        parts, dim)`, float32."""
        with torch.inference_mode():
            return self.encode_queries(list(images), list(texts)).float()

    def gallery_embeds(self, gallery: Gallery) -> Rows:
        """
        Return the embeddings of a gallery, `(gallery_size, dim)`: those that it has on disk, or else encoded once for
        each state of the weights.

        Raises:
            `StoreError`: The gallery is stored, and was embedded by another model.
        """
        stored = gallery.embeds_by(self)
        if stored is not None:
            return stored
        return self.galleries.get(gallery, self.encode_gallery if self.keep is None else partial(self.keep, self))

    def encode_gallery(self, gallery: Gallery) -> torch.Tensor:
        """
        Encode all images of a gallery.

        Returns:
            `torch.Tensor` of shape `(gallery_size, dim)`: float32, the same on every process.

        Raises:
            `ImageError`: An image cannot be read.
            `ValueError`: The gallery is empty, or an embedding is not finite (the image is named).
        """
        if not len(gallery):
            raise ValueError("There are no gallery images to encode: expected at least one.")
        loader = ImageLoader(gallery.ids, gallery.images, self.prepare, draft_side=self.draft_side)

        def encode(mine: Sequence[int]) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
            batches = image_batches(loader, mine, batch_size=self.batch_size, num_workers=self.num_workers)
            for batch in batches:
                if error := next((one.error for one in batch.loaded if one.error), None):
                    raise ImageError(error)
                yield batch.places, self.encode_images(batch.pixels)

        return self._share(gallery.ids, encode, "gallery")

    def encode(self, queries: Sequence[Query], gallery: Gallery) -> torch.Tensor:
        """
        Encode queries. The gallery holds the reference images of queries without an image of their own.

        Returns:
            `torch.Tensor` of shape `(num_queries, dim)`, or `(num_queries, parts, dim)`: float32, the same on every
            process.

        Raises:
            `ImageError`: A reference image cannot be read.
            `ValueError`: There are no queries, or an embedding is not finite (the query is named).
        """

        if not queries:
            raise ValueError("There are no queries to encode: expected at least one.")

        def load(place: int) -> tuple[Image.Image | None, Query]:
            query = queries[place]
            return gallery.reference_image(query) if query.has_reference else None, query

        def encode_batch(batch: list[tuple[Image.Image | None, Query]]) -> torch.Tensor:
            wordings = [(query.modification_text, *query.paraphrases) for _, query in batch]
            texts = [text for some in wordings for text in some]
            images = [image for (image, _), some in zip(batch, wordings, strict=True) for _ in some]
            embeds = self.encode_queries(images, texts)
            if len(texts) == len(batch):
                return embeds
            return normalize(torch.stack([some.sum(dim=0) for some in embeds.split([*map(len, wordings)])]))

        def encode(mine: Sequence[int]) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
            for places, loaded in read_ahead(mine, load, self.batch_size):
                yield places, encode_batch(loaded)

        return self._share([query.id for query in queries], encode, "queries")

    def search(
        self,
        queries: Sequence[Query],
        gallery: Gallery,
        k: int,
        *,
        exclude_reference: bool = False,
        wanted: Mapping[str, str] | None = None,
    ) -> Ranking:
        """
        Rank the gallery, and each query's candidates, for each query. Arguments, results and errors as for
        [`~contextcir.retrieval.base.Retriever.search`], with scores. Of equal scores, the image that is earlier in the
        gallery (or among the candidates) is first. An embedding that is not finite raises a `ValueError`.
        """
        check_searchable(queries, gallery)
        if not queries:
            return Ranking([], [], scores=[], candidate_ids=[], wanted_ranks=None if wanted is None else {})
        embeds = self.encode(queries, gallery), self.gallery_embeds(gallery)
        return rank(queries, gallery, *embeds, k, exclude_reference, wanted=wanted)

    def _share(self, ids: Sequence[str], encode: EncodePlaces, what: str) -> torch.Tensor:
        """Encode a share of the items on each process, and gather: `(len(ids), dim)`."""
        state = process_state()
        share = -(-len(ids) // state.num_processes)
        # Process p of n takes places p, p + n, p + 2n ... All shares are equally long: the last place may wrap around.
        mine = [(row * state.num_processes + state.process_index) % len(ids) for row in range(share)]
        embeds, done = None, 0
        with torch.inference_mode():
            with tqdm(total=share, desc=f"Encoding {what}", disable=not state.is_main_process, leave=False) as bar:
                for places, batch in encode(mine):
                    if (row := nonfinite_row(batch)) is not None:
                        raise ValueError(
                            f"{what}: the embedding of {ids[places[row]]!r} holds NaN or infinity. Check the model's"
                            " weights and the precision it ran in."
                        )
                    if embeds is None:  # one block for all: a list of batches, joined at the end, takes twice as much
                        embeds = torch.empty(share, *batch.shape[1:], device=batch.device)
                    embeds[done : done + len(places)] = batch
                    done += len(places)
                    bar.update(len(places))
            embeds = cast(torch.Tensor, embeds)
            if state.num_processes > 1:
                embeds = gather(embeds).unflatten(0, (state.num_processes, share))  # (num_processes, share, dim)
                embeds = embeds.transpose(0, 1).flatten(0, 1)
        return embeds[: len(ids)]


class PixelValues:
    """Preprocess one image with a processor of transformers: `(3, height, width)`. Worker processes can have it."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.processor(images=[image], return_tensors="pt")["pixel_values"][0]


def truncate(embeds: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Keep the first `dim` numbers of `(..., width)`, scaled to unit length; all of them as they are with `None`. With
    more than there are, raise a `ValueError`."""
    if dim is None:
        return embeds
    if dim > embeds.shape[-1]:
        raise ValueError(f"truncate_dim is {dim}, but embeddings have {embeds.shape[-1]} dimensions. Lower it.")
    return normalize(embeds[..., :dim])


def normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Scale `(..., dim)` to unit length, in float32."""
    return torch.nn.functional.normalize(embeds.float(), dim=-1)
