"""What a retriever is given and what it gives back: queries and a gallery in, ranked ids out.

A retriever need not embed anything: whatever ranks the ids of a gallery for a query can be measured. So rankings are
ids and not tensors, and a query's few *candidates* (the subset that CIRR's second metric ranks) are ranked by the
retriever too, since nobody else can order those that are not among the first k.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from contextcir.data.images import load_image


@dataclass(frozen=True)
class Query:
    """
    A reference image and what to change about it.

    Args:
        id (`str`): Unique among the queries.
        modification_text (`str`): What the target looks like, seen from the reference image.
        reference_image: Anything that [`~contextcir.data.images.load_image`] reads. Where it is `None`, the gallery's
            image called `reference_id` is meant; where that is `None` too, there is no reference image.
        reference_id (`str`, *optional*): Id of the reference image, in the gallery where it is part of it.
        paraphrases (`tuple[str, ...]`): Other wordings of the text, as some protocols of FashionIQ have them. A query
            is one point: a retriever that embeds takes the normalised sum of what all wordings give.
        turns (`tuple[str, ...]`): In a conversation, what was said so far, the text being all of it.
        candidate_ids (`tuple[str, ...]`, *optional*): A small part of the gallery to rank by itself, of equal scores
            the one that is named earlier. The reference may be among them and is left out.
        tags (`tuple[str, ...]`, *optional*): Kinds of query, to report by.
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
    The images to search, known by id and read one at a time.

    Args:
        ids (`Sequence[str]`): Unique ids. Their order is the order of the gallery, by which ties are broken.
        images (`Sequence`): As many images, in any form that [`~contextcir.data.images.load_image`] reads. A column of
            a `datasets.Dataset` will do and is read lazily.

    Raises:
        `ValueError`: An id occurs twice, or there are not as many images as ids.
    """

    def __init__(self, ids: Sequence[str], images: Sequence):
        self.ids = list(ids)
        self.images = images
        if len(self.ids) != len(images):
            raise ValueError(
                f"The gallery has {len(self.ids)} ids and {len(images)} images; expected one id for each image."
            )
        self.positions = {id_: position for position, id_ in enumerate(self.ids)}
        if len(self.positions) < len(self.ids):
            twice = next(id_ for position, id_ in enumerate(self.ids) if self.positions[id_] != position)
            raise ValueError(
                f"The gallery has the id {twice!r} more than once. Ids must be unique: remove or rename one."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, id_: str) -> Image.Image:
        """Read the image called `id_`, in RGB."""
        return load_image(self.images[self.positions[id_]], name=f"gallery image {id_!r}")

    def reference_image(self, query: Query) -> Image.Image:
        """
        Read the reference image of a query, in RGB: its own, or else the one in the gallery.

        Raises:
            `ValueError`: The query has no image of its own, and its `reference_id` is not in the gallery.
        """
        if query.reference_image is not None:
            return load_image(query.reference_image, name=f"reference image of query {query.id!r}")
        if query.reference_id not in self.positions:
            raise ValueError(
                f"Query {query.id!r} has no reference_image, and the gallery has no image called"
                f" {query.reference_id!r}. Give it one of the two."
            )
        return self.image(query.reference_id)


@dataclass(frozen=True)
class Ranking:
    """
    What a retriever found, one entry of every list for each query.

    Args:
        query_ids (`list[str]`): The queries, in any order.
        gallery_ids (`list[list[str]]`): Ids of the gallery, best first.
        scores (`list[list[float]]`, *optional*): As many scores, falling.
        candidate_ids (`list[list[str]]`, *optional*): The query's `ranked_candidate_ids`, best first; empty where it
            has none.
        wanted_ranks (`dict[str, int]`, *optional*): For each query of which it was asked, how many images of the
            gallery stand above the one that was wanted.
    """

    query_ids: list[str]
    gallery_ids: list[list[str]]
    scores: list[list[float]] | None = None
    candidate_ids: list[list[str]] | None = None
    wanted_ranks: dict[str, int] | None = None


class Retriever(Protocol):
    """Anything that ranks a gallery for queries."""

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
        Rank the gallery for each query.

        Args:
            queries (`Sequence[Query]`): The queries.
            gallery (`Gallery`): The images to rank.
            k (`int`): How many to return for each query (fewer where the gallery holds fewer).
            exclude_reference (`bool`, *optional*, defaults to `False`): Leave each query's `reference_id` out.
            wanted (`Mapping[str, str]`, *optional*): Query id -> gallery id whose rank is wanted, however low. To be
                looked up in the finished ranking, and for nothing else.

        Returns:
            `Ranking`: One entry for each query.
        """
        ...


def check_searchable(queries: Sequence[Query], gallery: Gallery) -> None:
    """
    Refuse what no retriever can answer.

    Raises:
        `ValueError`: The gallery is empty, or two queries have one id, by which a [`Ranking`] tells them apart.
    """
    if not len(gallery):
        raise ValueError("The gallery is empty: expected at least one image.")
    refuse_repeated([query.id for query in queries], "The queries")


def refuse_repeated(ids: Sequence[str], what: str) -> None:
    """Raise a `ValueError` that names the first id that stands twice in `what`."""
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(id_ for id_ in ids if id_ in seen or seen.add(id_))
        raise ValueError(f"{what} hold the id {twice!r} more than once. Ids must be unique.")
