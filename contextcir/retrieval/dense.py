"""Retrieval by embeddings: encode the gallery once, encode the queries, search exactly.

Runs on any number of processes: each encodes a share of the images, and all end with the same embeddings and ranking.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather
from PIL import Image
from tqdm.auto import tqdm

from contextcir.retrieval.base import Gallery, Query, Ranking, check_searchable
from contextcir.retrieval.ranking import rank
from contextcir.runtime.distributed import process_state
from contextcir.runtime.inference import evaluation_mode, weights_state
from contextcir.runtime.protocols import RetrievalModel


class GalleryEmbeds:
    """
    Embeddings of galleries, kept as long as the weights that made them stay the same. Retrievers that embed gallery
    images alike may share one.

    Args:
        state (`Callable[[], Hashable]`, *optional*): What identifies the weights; embeddings made under another state
            are dropped. By default they are kept for good.
    """

    def __init__(self, state: Callable[[], Hashable] | None = None):
        self._state = state or (lambda: None)
        self._made_under: Hashable = None
        self._embeds: dict[Gallery, torch.Tensor] = {}

    def get(self, gallery: Gallery, encode: Callable[[Gallery], torch.Tensor]) -> torch.Tensor:
        """The embeddings of a gallery, `(gallery_size, dim)`: those that are kept, or else what `encode` makes."""
        state = self._state()
        if state != self._made_under:
            self._embeds.clear()
            self._made_under = state
        if gallery not in self._embeds:
            self._embeds[gallery] = encode(gallery)
        return self._embeds[gallery]


class DenseRetriever:
    """
    Rank by the dot product of a query embedding and gallery embeddings. A gallery is encoded at its first search.

    Args:
        encode_images (`Callable[[list[Image.Image]], torch.Tensor]`):
            RGB images -> L2-normalised `(batch_size, dim)`.
        encode_queries (`Callable[[list[Image.Image | None], list[str]], torch.Tensor]`):
            Reference images (`None` where a query has none) and texts -> L2-normalised `(batch_size, dim)`.
        batch_size (`int`, *optional*, defaults to 64):
            Images, or queries, encoded at a time by each process.
        num_threads (`int`, *optional*, defaults to 2):
            Threads that read the next images while these are encoded.
        galleries ([`GalleryEmbeds`], *optional*):
            Where embeddings of galleries are kept. By default this retriever's own, kept for good: where the weights
            behind `encode_images` may change, pass one that notices.
    """

    def __init__(
        self,
        encode_images: Callable[[list[Image.Image]], torch.Tensor],
        encode_queries: Callable[[list[Image.Image | None], list[str]], torch.Tensor],
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
        image, in the mean colour of the images that the model was trained on.

        Args:
            model ([`~contextcir.runtime.protocols.RetrievalModel`]): On the device to run on.
            processor: Its processor.
            autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
            **options: `batch_size` and `num_threads`.

        Returns:
            `DenseRetriever`: Encodes a gallery again when the weights of the model have changed.
        """

        def encode_images(images):
            with evaluation_mode(model, autocast) as device:
                return model.get_image_features(
                    processor(images=images, return_tensors="pt")["pixel_values"].to(device)
                )

        def encode_queries(images, texts):
            images = [_blank(processor) if image is None else image for image in images]
            with evaluation_mode(model, autocast) as device:
                inputs = processor(images=images, text=texts, return_tensors="pt")
                names = ("pixel_values", "input_ids", "attention_mask")
                return model.get_query_features(**{name: inputs[name].to(device) for name in names})

        galleries = GalleryEmbeds(partial(weights_state, model))
        return cls(encode_images, encode_queries, galleries=galleries, **options)

    def gallery_embeds(self, gallery: Gallery) -> torch.Tensor:
        """Like [`DenseRetriever.encode_gallery`], which it calls once for each gallery and state of the weights."""
        return self.galleries.get(gallery, self.encode_gallery)

    def encode_gallery(self, gallery: Gallery) -> torch.Tensor:
        """
        Encode every image of a gallery.

        Args:
            gallery (`Gallery`): The images.

        Returns:
            `torch.Tensor` of shape `(gallery_size, dim)`: float32, the same on every process.

        Raises:
            `ImageError`: An image cannot be read.
            `ValueError`: An embedding is not finite (the image is named).
        """
        return self._encode(
            gallery.ids, lambda place: gallery.image(gallery.ids[place]), self.encode_images, "gallery"
        )

    def encode(self, queries: Sequence[Query], gallery: Gallery) -> torch.Tensor:
        """
        Encode queries.

        Args:
            queries (`Sequence[Query]`): The queries.
            gallery (`Gallery`): Where reference images come from that a query does not hold itself.

        Returns:
            `torch.Tensor` of shape `(num_queries, dim)`: float32, the same on every process.

        Raises:
            `ImageError`: A reference image cannot be read.
            `ValueError`: An embedding is not finite (the query is named).
        """

        def load(place):
            query = queries[place]
            return gallery.reference_image(query) if query.has_reference else None, query

        def encode(pairs):
            images, texts, counts = [], [], []
            for image, query in pairs:
                wordings = (query.modification_text, *query.paraphrases)
                images += [image] * len(wordings)
                texts += wordings
                counts.append(len(wordings))
            embeds = self.encode_queries(images, texts)
            if len(texts) == len(pairs):
                return embeds
            return normalize(torch.stack([some.sum(dim=0) for some in embeds.split(counts)]))

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
        Rank the gallery, and each query's candidates, for each query.

        Args:
            queries (`Sequence[Query]`): The queries.
            gallery (`Gallery`): The images to rank.
            k (`int`): How many to return for each query (fewer where the gallery holds fewer).
            exclude_reference (`bool`, *optional*, defaults to `False`): Leave each query's `reference_id` out.
            wanted (`Mapping[str, str]`, *optional*): Query id -> gallery id whose rank is wanted, however low.

        Returns:
            `Ranking`: With scores. Of equal scores, the image that stands earlier in the gallery is first, and the
            candidate that stands earlier among the candidates.

        Raises:
            `ImageError`: An image cannot be read.
            `ValueError`: The gallery is empty, two queries have one id, an embedding is not finite, or a candidate is
                not in the gallery.
        """
        check_searchable(queries, gallery)
        if not queries:
            return Ranking([], [], [], [], None if wanted is None else {})
        embeds = self.encode(queries, gallery), self.gallery_embeds(gallery)
        return rank(queries, gallery, *embeds, k, exclude_reference, wanted=wanted)

    def _encode(self, ids: Sequence[str], load: Callable, encode: Callable, what: str) -> torch.Tensor:
        """Load and encode the item at each place of `ids`, a share on each process: `(len(ids), dim)`."""
        if not len(ids):
            raise ValueError(f"There are no {what} to encode: expected at least one.")
        state = process_state()
        share = -(-len(ids) // state.num_processes)
        # Process p of n takes places p, p + n, p + 2n ...; the last may wrap around, so that all shares are equally
        # long.
        mine = [(row * state.num_processes + state.process_index) % len(ids) for row in range(share)]
        embeds = []
        with torch.inference_mode():
            with tqdm(total=len(mine), desc=f"Encoding {what}", disable=not state.is_main_process, leave=False) as bar:
                for batch, loaded in self._load_ahead(mine, load):
                    embeds.append(encode(loaded).float())
                    _check_finite(embeds[-1], [ids[place] for place in batch], what)
                    bar.update(len(batch))
            embeds = torch.cat(embeds)  # (share, dim)
            if state.num_processes > 1:
                embeds = gather(embeds).unflatten(0, (state.num_processes, share))  # (num_processes, share, dim)
                embeds = embeds.transpose(0, 1).flatten(0, 1)
        return embeds[: len(ids)]

    def _load_ahead(self, places: Sequence[int], load: Callable) -> Iterator[tuple[Sequence[int], list]]:
        """Batches of places and what `load` gives for each, the next batch read while this one is encoded."""
        batches = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
        with ThreadPoolExecutor(self.num_threads) as pool:
            upcoming = [pool.submit(load, place) for place in batches[0]]
            for batch, following in zip(batches, [*batches[1:], []], strict=True):
                current, upcoming = upcoming, [pool.submit(load, place) for place in following]
                yield batch, [future.result() for future in current]


def normalize(embeds: torch.Tensor) -> torch.Tensor:
    """`(..., dim)` -> the same of unit length, in float32."""
    return torch.nn.functional.normalize(embeds.float(), dim=-1)


def _blank(processor) -> Image.Image:
    """The image that stands for none: in the mean colour of CLIP's training images, which is zero to the model."""
    colour = tuple(round(255 * level) for level in processor.image_processor.image_mean)
    return Image.new("RGB", (64, 64), colour)


def _check_finite(embeds: torch.Tensor, ids: Sequence[str], what: str) -> None:
    if not torch.isfinite(embeds).all():
        row = (~torch.isfinite(embeds.flatten(1)).all(dim=1)).nonzero()[0].item()
        raise ValueError(f"{what}: the embedding of {ids[row]!r} holds NaN or infinity. Check weights and precision.")
