"""Search for several requests at once: one forward pass for all, and one search for those with the same filters."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from contextcir.retrieval.filters import Condition
from contextcir.retrieval.store.gallery import Hit, StoredGallery
from contextcir.serving.errors import RefusedError


@dataclass(frozen=True)
class Wanted:
    """
    One search.

    Args:
        image (`Image.Image`, *optional*): The reference image, RGB.
        text (`str`): The modification text; may be empty if there is an image.
        k (`int`): Number of results.
        where (`tuple[Condition, ...]`): Conditions on the facts.
        image_weight (`float`): As for [`~contextcir.retrieval.store.gallery.StoredGallery.search`].
        exclude (`tuple[str, ...]`): Ids that are left out.
    """

    image: Image.Image | None
    text: str
    k: int
    where: tuple[Condition, ...] = ()
    image_weight: float = 0.0
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """
    The results of one search.

    Args:
        hits (`list[Hit]`): Best first.
        generation (`int`): Generation of the gallery that was searched.
        embed (`float`): Seconds of the forward pass that the query was part of.
        search (`float`): Seconds of the search that it was part of.
    """

    hits: list[Hit]
    generation: int
    embed: float
    search: float


def search_batch(gallery: StoredGallery, searches: Sequence[Wanted]) -> list[Found | Exception]:
    """Search. Returns, for each search, what was found, or the exception that it ends with: one search that fails does
    not spoil the others."""
    results: dict[int, Found | Exception] = {}
    if not len(gallery):
        return [Found([], gallery.manifest.generation, 0.0, 0.0) for _ in searches]
    for place, wanted in enumerate(searches):
        if missing := [one.column for one in wanted.where if one.column not in gallery.facts]:
            there = f"There are {', '.join(sorted(gallery.facts))}." if gallery.facts else "The images have none."
            results[place] = RefusedError(422, f"There is no column {missing[0]!r} to filter by. {there}")
    embeds: dict[int, tuple[torch.Tensor, float]] = {}
    for places in _grouped(searches, "image_weight", results):
        for place, made in _embed(gallery, searches, places).items():
            if isinstance(made, Exception):
                results[place] = made
            else:
                embeds[place] = made
    for places in _grouped(searches, "where", results):
        results |= _find(gallery, searches, places, embeds)
    return [results[place] for place in range(len(searches))]


def _grouped(searches: Sequence[Wanted], name: str, done: dict[int, Found | Exception]) -> list[list[int]]:
    """The places of searches that are not done, by the value of a field."""
    groups: dict[object, list[int]] = defaultdict(list)
    for place, wanted in enumerate(searches):
        if place not in done:
            groups[getattr(wanted, name)].append(place)
    return list(groups.values())


def _embed(
    gallery: StoredGallery, searches: Sequence[Wanted], places: list[int]
) -> dict[int, tuple[torch.Tensor, float] | Exception]:
    begin = time.perf_counter()
    try:
        made = gallery.embed(
            [searches[place].image for place in places],
            [searches[place].text for place in places],
            image_weight=searches[places[0]].image_weight,
        )
    except Exception as error:
        if len(places) == 1:
            return {places[0]: error}
        alone = [_embed(gallery, searches, [place]) for place in places]
        return {place: one for some in alone for place, one in some.items()}
    seconds = time.perf_counter() - begin
    return {place: (embed, seconds) for place, embed in zip(places, made, strict=True)}


def _find(
    gallery: StoredGallery,
    searches: Sequence[Wanted],
    places: list[int],
    embeds: dict[int, tuple[torch.Tensor, float]],
) -> dict[int, Found | Exception]:
    begin = time.perf_counter()
    try:
        found = gallery.find(
            torch.stack([embeds[place][0] for place in places]),
            max(searches[place].k for place in places),
            where=searches[places[0]].where,
            exclude=[searches[place].exclude for place in places],
        )
    except Exception as error:
        if len(places) == 1:
            return {places[0]: error}
        alone = [_find(gallery, searches, [place], embeds) for place in places]
        return {place: one for some in alone for place, one in some.items()}
    seconds, generation = time.perf_counter() - begin, gallery.manifest.generation
    return {
        place: Found(hits[: searches[place].k], generation, embeds[place][1], seconds)
        for place, hits in zip(places, found, strict=True)
    }
