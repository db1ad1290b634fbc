"""Retrieval by embeddings: encode the gallery once, encode the queries, search exactly.

With several processes, each encodes a share of the images. All get the same embeddings and the same ranking.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

import torch
from accelerate.utils import gather
from PIL import Image
from tqdm.auto import tqdm

from contextcir.retrieval.base import Gallery, Query, Ranking, check_searchable
from contextcir.retrieval.index import nonfinite_row
from contextcir.retrieval.ranking import rank
from contextcir.runtime.distributed import process_state
from contextcir.runtime.inference import evaluation_mode, weights_state
from contextcir.runtime.protocols import RetrievalModel

EncodeImages = Callable[[list[Image.Image]], torch.Tensor]
EncodeQueries = Callable[[list[Image.Image | None], list[str]], torch.Tensor]
T = TypeVar("T")


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
        self._embeds: dict[Gallery, torch.Tensor] = {}

    def get(self, gallery: Gallery, encode: Callable[[Gallery], torch.Tensor]) -> torch.Tensor:
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
        encode_images (`Callable[[list[Image.Image]], torch.Tensor]`): RGB images -> L2-normalised `(batch_size, dim)`.
        encode_queries (`Callable[[list[Image.Image | None], list[str]], torch.Tensor]`):
            Reference images (`None` for a query without one) and texts -> L2-normalised `(batch_size, dim)`, or
            `(batch_size, parts, dim)`, see [`~contextcir.retrieval.index.similarity`].
        batch_size (`int`, *optional*, defaults to 64): Images, or queries, that each process encodes at a time.
        num_threads (`int`, *optional*, defaults to 2): Threads that read the next images while a batch is encoded.
        galleries ([`GalleryEmbeds`], *optional*): Cache of gallery embeddings; by default, one that is never emptied.
            If the weights behind `encode_images` may change, pass one with a `state`.
    """

    def __init__(
        self,
        encode_images: EncodeImages,
        encode_queries: EncodeQueries,
        *,
        batch_size: int = 64,
        num_threads: int = 2,
        galleries: GalleryEmbeds | None = None,
    ):
        self.encode_images = encode_images
        self.encode_queries = encode_queries
        self.batch_size = batch_size
        self.num_threads = num_threads
        self.galleries = galleries or GalleryEmbeds()

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
            **options: `batch_size` and `num_threads`.

        Returns:
            `DenseRetriever`: Encodes a gallery again after the model's weights have changed.
        """
        module = cast(torch.nn.Module, model)  # the protocol says so, but a type cannot say both

        def encode_images(images: list[Image.Image]) -> torch.Tensor:
            with evaluation_mode(module, autocast) as device:
                pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
                return model.get_image_features(pixel_values.to(device))

        def encode_queries(images: list[Image.Image | None], texts: list[str]) -> torch.Tensor:
            images = [_blank(processor) if image is None else image for image in images]
            with evaluation_mode(module, autocast) as device:
                inputs = processor(images=images, text=texts, return_tensors="pt")
                names = ("pixel_values", "input_ids", "attention_mask")
                return model.get_query_features(**{name: inputs[name].to(device) for name in names})

        galleries = GalleryEmbeds(partial(weights_state, module))
        return cls(encode_images, encode_queries, galleries=galleries, **options)

    def gallery_embeds(self, gallery: Gallery) -> torch.Tensor:
        """Call [`DenseRetriever.encode_gallery`] once for each gallery and state of the weights."""
        return self.galleries.get(gallery, self.encode_gallery)

    def encode_gallery(self, gallery: Gallery) -> torch.Tensor:
        """
        Encode all images of a gallery.

        Returns:
            `torch.Tensor` of shape `(gallery_size, dim)`: float32, the same on every process.

        Raises:
            `ImageError`: An image cannot be read.
            `ValueError`: The gallery is empty, or an embedding is not finite (the image is named).
        """
        return self._encode(
            gallery.ids, lambda place: gallery.image(gallery.ids[place]), self.encode_images, "gallery"
        )

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

        def load(place: int) -> tuple[Image.Image | None, Query]:
            query = queries[place]
            return gallery.reference_image(query) if query.has_reference else None, query

        def encode(batch: list[tuple[Image.Image | None, Query]]) -> torch.Tensor:
            wordings = [(query.modification_text, *query.paraphrases) for _, query in batch]
            texts = [text for some in wordings for text in some]
            images = [image for (image, _), some in zip(batch, wordings, strict=True) for _ in some]
            embeds = self.encode_queries(images, texts)
            if len(texts) == len(batch):
                return embeds
            return normalize(torch.stack([some.sum(dim=0) for some in embeds.split([*map(len, wordings)])]))

        return self._encode([query.id for query in queries], load, encode, "queries")

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

    def _encode(
        self, ids: Sequence[str], load: Callable[[int], T], encode: Callable[[list[T]], torch.Tensor], what: str
    ) -> torch.Tensor:
        """Load and encode the item at each place of `ids`, a share on each process: `(len(ids), dim)`."""
        if not len(ids):
            raise ValueError(f"There are no {what} to encode: expected at least one.")
        state = process_state()
        share = -(-len(ids) // state.num_processes)
        # Process p of n takes places p, p + n, p + 2n ... All shares are equally long: the last place may wrap around.
        mine = [(row * state.num_processes + state.process_index) % len(ids) for row in range(share)]
        batches = []
        with torch.inference_mode():
            with tqdm(total=len(mine), desc=f"Encoding {what}", disable=not state.is_main_process, leave=False) as bar:
                for places, loaded in self._load_ahead(mine, load):
                    batches.append(encode(loaded).float())
                    if (row := nonfinite_row(batches[-1])) is not None:
                        raise ValueError(
                            f"{what}: the embedding of {ids[places[row]]!r} holds NaN or infinity. Check the model's"
                            " weights and the precision it ran in."
                        )
                    bar.update(len(places))
            embeds = torch.cat(batches)  # (share, dim)
            if state.num_processes > 1:
                embeds = gather(embeds).unflatten(0, (state.num_processes, share))  # (num_processes, share, dim)
                embeds = embeds.transpose(0, 1).flatten(0, 1)
        return embeds[: len(ids)]

    def _load_ahead(self, places: Sequence[int], load: Callable[[int], T]) -> Iterator[tuple[Sequence[int], list[T]]]:
        """Yield batches of places with their loaded items. The next batch is read while this one is encoded."""
        batches = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
        with ThreadPoolExecutor(self.num_threads) as pool:
            upcoming = [pool.submit(load, place) for place in batches[0]]
            for batch, following in zip(batches, [*batches[1:], []], strict=True):
                current, upcoming = upcoming, [pool.submit(load, place) for place in following]
                yield batch, [future.result() for future in current]


def normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Scale `(..., dim)` to unit length, in float32."""
    return torch.nn.functional.normalize(embeds.float(), dim=-1)


def _blank(processor: Any) -> Image.Image:
    """An image in the mean colour of CLIP's training images, which is all zeros after normalisation."""
    colour = tuple(round(255 * level) for level in processor.image_processor.image_mean)
    return Image.new("RGB", (64, 64), colour)
