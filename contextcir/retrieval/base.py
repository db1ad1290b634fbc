"""The contract of a retriever: queries and a gallery in, ranked ids out.

Rankings hold ids and no tensors, so that a retriever without embeddings can be measured too. A retriever also ranks
each query's *candidates* (the subset of CIRR's second metric), since some of them may not be among its first k.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from contextcir.data.folders import images_in
from contextcir.data.images import load_image

if TYPE_CHECKING:
    from contextcir.retrieval.dense import DenseRetriever
    from contextcir.retrieval.index import Rows
    from contextcir.retrieval.store.gallery import StoredGallery


@dataclass(frozen=True)
class Query:
    """
    A reference image and a modification text.

    Args:
        id (`str`): Unique among the queries.
        modification_text (`str`): The change from the reference image to the target.
        reference_image (*optional*): Any form that [`~contextcir.data.images.load_image`] reads. By default, the
            gallery image `reference_id`. If both are `None`, the query has no reference image.
        reference_id (`str`, *optional*): Id of the reference image, as in the gallery if it is part of it.
        paraphrases (`tuple[str, ...]`): Other wordings of the text, as in some protocols of FashionIQ. The embedding
            of a query is the normalised sum over all wordings.
        turns (`tuple[str, ...]`): The turns of a conversation so far. The modification text joins all of them.
        candidate_ids (`tuple[str, ...]`, *optional*): A subset of the gallery to rank separately; of equal scores, the
            earlier candidate is first. The reference may be among them and is left out.
        tags (`tuple[str, ...]`, *optional*): Kinds of query, for results by kind.
    """

    id: str
    modification_text: str
    reference_image: Any = None
    reference_id: str | None = None
    paraphrases: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    candidate_ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def has_reference(self) -> bool:
        """`bool`: Whether there is a reference image."""
        return self.reference_image is not None or self.reference_id is not None

    @property
    def ranked_candidate_ids(self) -> list[str]:
        """`list[str]`: The candidates without the reference, in the given order."""
        return [candidate for candidate in self.candidate_ids if candidate != self.reference_id]


class Gallery:
    """
    The images to search, with ids. Images are read one at a time.

    Args:
        ids (`Sequence[str]`): Unique ids. Of equal scores, the image with the earlier id is first.
        images (`Sequence`): One image for each id, in any form that [`~contextcir.data.images.load_image`] reads. A
            column of a `datasets.Dataset` is read lazily.

    Raises:
        `ValueError`: An id occurs twice, or the numbers of images and ids differ.
    """

    def __init__(self, ids: Sequence[str], images: Sequence[Any]):
        self.ids = list(ids)
        self.images = images
        if len(self.ids) != len(images):
            raise ValueError(
                f"The gallery has {len(self.ids)} ids and {len(images)} images; expected one id for each image."
            )
        refuse_repeated(self.ids, "The gallery's images")
        self.positions = {id_: position for position, id_ in enumerate(self.ids)}

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "Gallery":
        """
        Take all images of a folder and of the folders inside it.

        Args:
            folder (`str` or `os.PathLike`): The folder.

        Returns:
            `Gallery`: In the order of names. An id is the path inside the folder, with `/`.

        Raises:
            `ValueError`: There are no images.
        """
        names = images_in(folder)
        return cls(names, [os.path.join(folder, name) for name in names])

    @staticmethod
    def build(images: Any, retriever: "DenseRetriever", output: str | os.PathLike, **options: Any) -> "StoredGallery":
        """
        Embed images once, and keep the embeddings in a folder. A build that was interrupted goes on. A gallery that is
        there is brought up to date: only new and changed images are embedded.

        Args:
            images (`str`, `os.PathLike`, [`Gallery`] or a source): A folder, a text file that lists images, a data
                set, see [`~contextcir.retrieval.store.sources.find_source`]; or a gallery.
            retriever ([`~contextcir.retrieval.dense.DenseRetriever`]): Embeds the images.
            output (`str` or `os.PathLike`): The folder of the stored gallery.
            **options: As for [`~contextcir.retrieval.store.operations.index_images`].

        Returns:
            [`~contextcir.retrieval.store.gallery.StoredGallery`]: Open for search.
        """
        from contextcir.retrieval.store.operations import build_gallery

        return build_gallery(images, retriever, output, **options)

    @staticmethod
    def open(folder: str | os.PathLike, retriever: "DenseRetriever | None" = None) -> "StoredGallery":
        """
        Open a stored gallery.

        Args:
            folder (`str` or `os.PathLike`): Its folder; or `hf://user/name@REVISION` for one on the Hub.
            retriever ([`~contextcir.retrieval.dense.DenseRetriever`], *optional*): Embeds queries. It must have the
                model that the gallery was embedded by.

        Returns:
            [`~contextcir.retrieval.store.gallery.StoredGallery`]: Open for search.

        Raises:
            `StoreError`: There is no gallery, it is damaged, or another model made it (both are named).
        """
        from contextcir.retrieval.store.gallery import StoredGallery
        from contextcir.retrieval.store.hub import fetch

        return StoredGallery.load(fetch(folder), retriever)

    def embeds_by(self, retriever: "DenseRetriever") -> "Rows | None":
        """The embeddings that the gallery has, `(len(self), dim)`. One in memory has none."""
        return None

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, id_: str) -> Image.Image:
        """Read the image `id_` in RGB. Raises an `ImageError` that names it."""
        return load_image(self.images[self.positions[id_]], name=f"gallery image {id_!r}")

    def reference_source(self, query: Query) -> Any:
        """
        Get the reference image of a query as it is stored, without reading it: the query's own, or the gallery's.

        Raises:
            `ValueError`: The query has no image of its own, and its `reference_id` is not in the gallery.
        """
        if query.reference_image is not None:
            return query.reference_image
        if query.reference_id not in self.positions:
            raise ValueError(
                f"Query {query.id!r} has no reference_image, and the gallery has no image {query.reference_id!r}. Set"
                " reference_image, or a reference_id of the gallery."
            )
        return self.images[self.positions[query.reference_id]]

    def reference_image(self, query: Query) -> Image.Image:
        """Read the reference image of a query in RGB. Raises as [`Gallery.reference_source`] does, or an `ImageError`
        that names the image."""
        own = query.reference_image is not None
        name = f"reference image of query {query.id!r}" if own else f"gallery image {query.reference_id!r}"
        return load_image(self.reference_source(query), name=name)


@dataclass(frozen=True)
class Ranking:
    """
    The results of a retriever. Each list has one entry for each query.

    Args:
        query_ids (`list[str]`): The queries, in any order.
        gallery_ids (`list[list[str]]`): Ids of the gallery, best first.
        scores (`list[list[float]]`, *optional*): The scores of these images, in descending order.
        candidate_ids (`list[list[str]]`, *optional*): The query's `ranked_candidate_ids`, best first; an empty list
            for a query without candidates.
        wanted_ranks (`dict[str, int]`, *optional*): Query id -> number of gallery images above the wanted one, for
            the queries in `wanted`.
    """

    query_ids: list[str]
    gallery_ids: list[list[str]]
    scores: list[list[float]] | None = None
    candidate_ids: list[list[str]] | None = None
    wanted_ranks: dict[str, int] | None = None


class Retriever(Protocol):
    """The contract of a retriever: any object with this method can be measured on every benchmark. It need not embed
    anything, and need not inherit from this class."""

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
            queries (`Sequence[Query]`): The queries, with unique ids. No queries give an empty ranking.
            gallery (`Gallery`): The images to rank, at least one.
            k (`int`): Number of images to return for each query; fewer if the gallery is smaller.
            exclude_reference (`bool`, *optional*, defaults to `False`): Leave out each query's `reference_id`.
            wanted (`Mapping[str, str]`, *optional*): Query id -> id of the gallery image whose rank to return, even
                if it is below `k`. Must not influence the ranking.

        Returns:
            `Ranking`: One entry for each query. `wanted_ranks` is set if `wanted` is given.

        Raises:
            `ImageError`: An image cannot be read.
            `ValueError`: The gallery is empty, two queries have the same id, a reference image is missing, or a
                candidate is not in the gallery.
        """
        ...


def check_searchable(queries: Sequence[Query], gallery: Gallery) -> None:
    """Raise a `ValueError` if the gallery is empty or two queries have the same id."""
    if not len(gallery):
        raise ValueError("The gallery is empty: expected at least one image.")
    refuse_repeated([query.id for query in queries], "The queries")


def refuse_repeated(ids: Sequence[str], what: str) -> None:
    """Raise a `ValueError` that names the first id that occurs twice in `what`."""
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise ValueError(f"{what} have the id {id_!r} more than once. Ids must be unique: remove or rename one.")
        seen.add(id_)
