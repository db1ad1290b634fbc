"""Retrieval by embeddings: encode the gallery once, encode the queries, search exactly.

`DenseRetriever.from_model` takes anything with `get_query_features` and `get_image_features`. The other constructors
are the baselines that need nothing but the CLIP that a model started from: what the image alone finds, what the text
alone finds, and two ways to mix them. A model that does not beat these has not learned to compose.

Runs on any number of processes: each encodes a share of the images, and all end with the same embeddings and ranking.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from accelerate.utils import gather
from PIL import Image
from tqdm.auto import tqdm

from contextcir.distributed import process_state
from contextcir.inference import evaluation_mode
from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.retrieval.ranking import rank


class DenseRetriever:
    """
    Rank by the dot product of a query embedding and gallery embeddings.

    Args:
        encode_images (`Callable[[list[Image.Image]], torch.Tensor]`):
            RGB images -> L2-normalised `(batch_size, dim)`.
        encode_queries (`Callable[[list[Image.Image | None], list[str]], torch.Tensor]`):
            Reference images (`None` where a query has none) and texts -> L2-normalised `(batch_size, dim)`.
        batch_size (`int`, *optional*, defaults to 64):
            Images, or queries, encoded at a time by each process.
        num_threads (`int`, *optional*, defaults to 2):
            Threads that read the next images while these are encoded.

    Attributes:
        gallery_embeds (`dict[Gallery, torch.Tensor]`): What was encoded so far. Each gallery is encoded once;
            retrievers that embed images alike may share the dict.
    """

    def __init__(
        self,
        encode_images: Callable[[list[Image.Image]], torch.Tensor],
        encode_queries: Callable[[list[Image.Image], list[str]], torch.Tensor],
        *,
        batch_size: int = 64,
        num_threads: int = 2,
    ):
        self.encode_images = encode_images
        self.encode_queries = encode_queries
        self.batch_size = batch_size
        self.num_threads = num_threads
        self.gallery_embeds: dict[Gallery, torch.Tensor] = {}

    @classmethod
    def from_model(cls, model, processor, *, autocast: torch.dtype | None = None, **options) -> "DenseRetriever":
        """
        Retrieve with a composed image retrieval model. Where a query has no reference image, the model is shown a
        blank one, in the mean colour of what it was trained on.

        Args:
            model (`torch.nn.Module`): With `get_query_features` and `get_image_features`, on the device to run on.
            processor: Its processor.
            autocast (`torch.dtype`, *optional*): Encode under autocast to this type.
            **options: `batch_size` and `num_threads`.

        Returns:
            `DenseRetriever`
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

        return cls(encode_images, encode_queries, **options)

    @classmethod
    def image_only(cls, clip_model, processor, **options) -> "DenseRetriever":
        """Baseline: the CLIP embedding of the reference image. Arguments as for [`DenseRetriever.slerp`]."""
        return cls._of_clip(clip_model, processor, lambda image, text: image, needs_text=False, **options)

    @classmethod
    def text_only(cls, clip_model, processor, **options) -> "DenseRetriever":
        """Baseline: the CLIP embedding of the modification text. Arguments as for [`DenseRetriever.slerp`]."""
        return cls._of_clip(clip_model, processor, lambda image, text: text, needs_image=False, **options)

    @classmethod
    def image_text_sum(cls, clip_model, processor, **options) -> "DenseRetriever":
        """Baseline: the sum of both CLIP embeddings. Arguments as for [`DenseRetriever.slerp`]."""
        return cls._of_clip(clip_model, processor, lambda image, text: _normalize(image + text), **options)

    @classmethod
    def image_text_product(cls, clip_model, processor, **options) -> "DenseRetriever":
        """Baseline: the product of an image's similarity to the reference image and to the text, as in FreeDom
        (Efthymiadis et al., WACV 2025). A conjunction: what fits one of them only scores low."""

        def both(image, text):
            return torch.stack([image, text], dim=1)  # (batch_size, 2, dim)

        return cls._of_clip(clip_model, processor, both, **options)

    @classmethod
    def slerp(cls, clip_model, processor, *, text_weight: float = 0.8, **options) -> "DenseRetriever":
        """
        Baseline: spherical interpolation between both CLIP embeddings (Jang et al., arXiv 2405.00571).

        Args:
            clip_model (`CLIPModel`): On the device to run on.
            processor: Its processor. Texts are cut at the length of CLIP's text encoder.
            text_weight (`float`, *optional*, defaults to 0.8):
                0 is the image and 1 the text. At 0.5 it ranks exactly as the sum does.
            **options: `autocast`, `batch_size` and `num_threads`, as in [`DenseRetriever.from_model`].

        Returns:
            `DenseRetriever`
        """
        return cls._of_clip(clip_model, processor, lambda image, text: slerp(image, text, text_weight), **options)

    @classmethod
    def _of_clip(
        cls, clip_model, processor, compose, *, needs_image=True, needs_text=True, autocast=None, **options
    ) -> "DenseRetriever":
        max_length = clip_model.config.text_config.max_position_embeddings

        def encode_images(images):
            with evaluation_mode(clip_model, autocast) as device:
                pixel_values = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
                return _normalize(clip_model.get_image_features(pixel_values).pooler_output)

        def encode_texts(texts):
            with evaluation_mode(clip_model, autocast) as device:
                inputs = processor(
                    text=texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
                )
                names = ("input_ids", "attention_mask")
                inputs = {name: inputs[name].to(device) for name in names}
                return _normalize(clip_model.get_text_features(**inputs).pooler_output)

        def encode_queries(images, texts):
            if needs_image and None in images:
                raise ValueError("This baseline looks at the reference image, and there are queries without one.")
            return compose(encode_images(images) if needs_image else None, encode_texts(texts) if needs_text else None)

        return cls(encode_images, encode_queries, **options)

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
        return self._encode(gallery.ids, gallery.image, self.encode_images, "gallery")

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
        by_id = {query.id: query for query in queries}

        def load(id_):
            query = by_id[id_]
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
            return _normalize(torch.stack([some.sum(dim=0) for some in embeds.split(counts)]))

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
            `ValueError`: An embedding is not finite, or a candidate is not in the gallery.
        """
        if gallery not in self.gallery_embeds:
            self.gallery_embeds[gallery] = self.encode_gallery(gallery)
        embeds = self.encode(queries, gallery), self.gallery_embeds[gallery]
        return rank(queries, gallery, *embeds, k, exclude_reference, wanted=wanted)

    def _encode(self, ids: Sequence[str], load: Callable, encode: Callable, what: str) -> torch.Tensor:
        """Load and encode each id, a share on each process: `(len(ids), dim)`."""
        state = process_state()
        share = -(-len(ids) // state.num_processes)
        # Process p of n takes ids p, p + n, p + 2n ...; the last may wrap around, so that all shares are equally long.
        mine = [ids[(place * state.num_processes + state.process_index) % len(ids)] for place in range(share)]
        embeds = []
        with torch.inference_mode():
            with tqdm(total=len(mine), desc=f"Encoding {what}", disable=not state.is_main_process, leave=False) as bar:
                for batch, loaded in self._load_ahead(mine, load):
                    embeds.append(encode(loaded).float())
                    _check_finite(embeds[-1], batch, what)
                    bar.update(len(batch))
            embeds = torch.cat(embeds)  # (share, dim)
            if state.num_processes > 1:
                embeds = gather(embeds).unflatten(0, (state.num_processes, share))  # (num_processes, share, dim)
                embeds = embeds.transpose(0, 1).flatten(0, 1)
        return embeds[: len(ids)]

    def _load_ahead(self, ids: Sequence[str], load: Callable) -> Iterator[tuple[Sequence[str], list]]:
        """Batches of ids and what `load` gives for each, the next batch read while this one is encoded."""
        batches = [ids[start : start + self.batch_size] for start in range(0, len(ids), self.batch_size)]
        with ThreadPoolExecutor(self.num_threads) as pool:
            upcoming = [pool.submit(load, id_) for id_ in batches[0]]
            for batch, following in zip(batches, [*batches[1:], []], strict=True):
                current, upcoming = upcoming, [pool.submit(load, id_) for id_ in following]
                yield batch, [future.result() for future in current]


def slerp(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    """
    Walk the great circle from one direction to another.

    Args:
        start (`torch.Tensor` of shape `(batch_size, dim)`): L2-normalised.
        end (`torch.Tensor` of shape `(batch_size, dim)`): L2-normalised.
        weight (`float`): 0 gives `start`, 1 gives `end`.

    Returns:
        `torch.Tensor` of shape `(batch_size, dim)`: L2-normalised. Where both are the same or opposite, `start`.
    """
    angle = (start * end).sum(dim=-1, keepdim=True).clamp(-1, 1).acos()  # (batch_size, 1)
    way = (torch.sin((1 - weight) * angle) * start + torch.sin(weight * angle) * end) / torch.sin(angle)
    return torch.where(torch.sin(angle) > 1e-3, way, start)  # below, the quotient is rounding


def _blank(processor) -> Image.Image:
    """What stands for no image: the mean colour of CLIP's training images, which is zero to the model."""
    colour = tuple(round(255 * level) for level in processor.image_processor.image_mean)
    return Image.new("RGB", (64, 64), colour)


def _normalize(embeds: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeds.float(), dim=-1)


def _check_finite(embeds: torch.Tensor, ids: Sequence[str], what: str) -> None:
    if not torch.isfinite(embeds).all():
        row = (~torch.isfinite(embeds.flatten(1)).all(dim=1)).nonzero()[0].item()
        raise ValueError(f"{what}: the embedding of {ids[row]!r} holds NaN or infinity. Check weights and precision.")
