"""ImageScope's first stage: reason on what is asked for, then retrieve it by CLIP from images and their captions.

The score of an image is the mean over the descriptions d of (1 - tau) sim(d, image) + tau sim(d, caption). With unit
vectors this is the dot product of the descriptions' mean with (1 - tau) image + tau caption: one embedding for each
query and one for each image, searched like any others.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from operator import getitem

import torch
from torch.utils.data import Subset
from tqdm.auto import tqdm

from contextcir.retrieval.base import Gallery, Query, Ranking, check_searchable
from contextcir.retrieval.dense import DenseRetriever
from contextcir.retrieval.imagescope.cache import EmbedCache
from contextcir.retrieval.imagescope.panel import Panel, together
from contextcir.retrieval.imagescope.trace import Line
from contextcir.retrieval.ranking import rank


class ReasonedRetriever:
    """
    Rank by what the reasoner says that the target looks like.

    A query is described from its reference image's caption and its text, or from its text alone where it has no
    reference. In a conversation each round is described from the description of the round before and from what was
    said since. An empty text with a reference asks for what the reference shows: its caption is the description.

    Where the reasoner has no usable answer, the text itself is the description (in a conversation, what the round
    before was described by). Where an image has no caption, the mean of all captions stands in for it, by which it
    neither gains nor loses.

    Args:
        panel ([`~contextcir.retrieval.imagescope.panel.Panel`]): Captioner and reasoner, and where they are recorded.
        clip ([`~contextcir.retrieval.dense.DenseRetriever`]): Embeds images, and texts without a reference, as
            the baseline `CLIP, text only` does.
        clip_id (`str`): What its embeddings are kept under, see [`~contextcir.retrieval.imagescope.cache.weights_id`].
        tau (`float`, *optional*, defaults to 0.15): Weight of the captions, in [0, 1]. The paper's value.
    """

    def __init__(self, panel: Panel, clip: DenseRetriever, clip_id: str, *, tau: float = 0.15):
        if not 0 <= tau <= 1:
            raise ValueError(f"Got tau={tau}, expected a number in [0, 1]: the weight of the captions.")
        self.panel, self.clip, self.clip_id, self.tau = panel, clip, clip_id, tau
        self._gallery_embeds: dict[Gallery, torch.Tensor] = {}

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
            queries (`Sequence[Query]`): As for [`~contextcir.retrieval.base.Retriever.search`], like all others.
            gallery (`Gallery`): The images.
            k (`int`): How many to return.
            exclude_reference (`bool`, *optional*, defaults to `False`): Whether references are left out.
            wanted (`Mapping[str, str]`, *optional*): Whose ranks are wanted.

        Returns:
            `Ranking`: With scores.

        Raises:
            `ChatStop`: Going on is pointless; the message names the role. Answers so far are kept.
            `ImageError`: An image cannot be read.
            `ValueError`: A reference is missing, or a query has neither a reference nor a text.
        """
        check_queries(queries, gallery)
        if not queries:
            return Ranking([], [], [], [], None if wanted is None else {})
        if gallery not in self._gallery_embeds:
            self._gallery_embeds[gallery] = self._embed_gallery(gallery)
        captions = self.panel.reference_captions(queries, gallery)
        described = self.panel.on_main(lambda: self._describe_all(queries, captions))
        embeds = self._embed_queries(described, gallery), self._gallery_embeds[gallery]
        return rank(queries, gallery, *embeds, k, exclude_reference, wanted=wanted)

    def _embed_gallery(self, gallery: Gallery) -> torch.Tensor:
        """(1 - tau) image + tau caption, `(gallery_size, dim)`. Images come first: one that cannot be read shows
        before any caption is paid for."""
        folder = self.panel.cache / self.clip_id
        silent = not self.panel.state.is_main_process
        ids = [self.panel.content_id(gallery, id_) for id_ in tqdm(gallery.ids, "Images", disable=silent, leave=False)]

        def encode_images(places):
            return self.clip.encode_gallery(Gallery([gallery.ids[p] for p in places], Subset(gallery.images, places)))

        images = EmbedCache(folder / "images").get(ids, encode_images)
        if not self.tau:
            return images
        captions = self.panel.captions({id_: partial(getitem, gallery.images, p) for p, id_ in enumerate(ids)})
        if not captions:
            raise ValueError(f"The captioner ({self.panel.roles.captioner.model}) described none of the images.")
        described = [place for place, id_ in enumerate(ids) if id_ in captions]
        texts = [captions[ids[place]] for place in described]
        embeds = EmbedCache(folder / "texts").get(
            texts, lambda places: self._encode([texts[p] for p in places], gallery)
        )
        rows = embeds.mean(dim=0).repeat(len(ids), 1)
        rows[described] = embeds
        return (1 - self.tau) * images + self.tau * rows

    def _embed_queries(self, described: Sequence[list[str]], gallery: Gallery) -> torch.Tensor:
        """The mean of each query's descriptions, `(num_queries, dim)`."""
        texts = list(dict.fromkeys(text for some in described for text in some))
        embeds = self._encode(texts, gallery)
        rows = {text: row for row, text in enumerate(texts)}
        return torch.stack([embeds[[rows[text] for text in some]].mean(dim=0) for some in described])

    def _encode(self, texts: Sequence[str], gallery: Gallery) -> torch.Tensor:
        return self.clip.encode([Query(id=text, modification_text=text) for text in texts], gallery).cpu()

    async def _describe_all(self, queries: Sequence[Query], captions: Mapping[str, str]) -> list[list[str]]:
        """The descriptions of all queries. Rounds of a conversation wait for earlier ones, which are begun first."""
        order = sorted(range(len(queries)), key=lambda number: len(queries[number].turns))
        rounds: dict[tuple, asyncio.Future] = {}  # (caption of the reference, turns) -> descriptions
        jobs = (self._describe(queries[number], captions.get(queries[number].id), rounds) for number in order)
        found = await self.panel.in_flight(jobs, len(queries), "Reasoning", self.panel.waiting)
        places = {number: place for place, number in enumerate(order)}
        return [found[places[number]] for number in range(len(queries))]

    async def _describe(self, query: Query, caption: str | None, rounds: dict) -> list[str]:
        with self.panel.line(query) as line:
            if query.turns:
                descriptions = await self._describe_chat(query, caption, line, rounds)
            elif not query.modification_text.strip():
                descriptions = [caption or ""]
            else:
                wordings = (query.modification_text, *query.paraphrases)
                found = await together(self._reason(query, text, caption, line) for text in wordings)
                descriptions = [description for some in found for description in some]
            line.save(query=query.id, text=query.modification_text, descriptions=descriptions)
        return descriptions

    async def _reason(self, query: Query, text: str, caption: str | None, line: Line) -> list[str]:
        request = self.panel.questions.reason(text, caption, composed=query.has_reference)
        answer = await line.ask(self.panel.roles.reasoner, request)
        return [text] if answer is None else answer.descriptions

    async def _describe_chat(self, query: Query, caption: str | None, line: Line, rounds: dict) -> list[str]:
        """Round by round, from the last round that another query describes."""
        turns = query.turns
        mine = rounds.setdefault((caption, turns), asyncio.get_running_loop().create_future())
        known = next((length for length in range(len(turns) - 1, 0, -1) if (caption, turns[:length]) in rounds), 0)
        descriptions = await rounds[caption, turns[:known]] if known else []
        for length in range(known + 1, len(turns) + 1):
            previous = descriptions[-1] if descriptions else None
            request = self.panel.questions.reason_on(turns[:length], previous, caption)
            answer = await line.ask(self.panel.roles.reasoner, request)
            if answer is not None:
                descriptions = answer.descriptions
        descriptions = descriptions or [query.modification_text]
        if not mine.done():  # another query may have the same turns
            mine.set_result(descriptions)
        return descriptions


def check_queries(queries: Sequence[Query], gallery: Gallery) -> None:
    """
    Refuse, before anything is paid for, what cannot be searched.

    Args:
        queries (`Sequence[Query]`): The queries.
        gallery (`Gallery`): The images.

    Raises:
        `ImageError`: A reference that a query holds itself cannot be read.
        `ValueError`: The gallery is empty, two queries have one id, a reference is missing, or a query has neither a
            reference nor a text.
    """
    check_searchable(queries, gallery)
    for query in queries:
        if query.has_reference:
            if query.reference_image is not None or query.reference_id not in gallery.positions:
                gallery.reference_image(query)
        elif not query.modification_text.strip():
            raise ValueError(f"Query {query.id!r} has neither a reference image nor a text: there is nothing to find.")
