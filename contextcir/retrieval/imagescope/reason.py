"""ImageScope's first stage: describe the target, then retrieve with CLIP, from images and their captions.

The score of an image is the mean over the descriptions d of (1 - tau) sim(d, image) + tau sim(d, caption). With unit
vectors, this is the dot product of the mean of the descriptions with (1 - tau) image + tau caption: one embedding for
each query and one for each image.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from operator import getitem

import torch
from tqdm.auto import tqdm

from contextcir.data.content import image_digest
from contextcir.retrieval.base import Gallery, Query, Ranking, check_searchable
from contextcir.retrieval.dense import DenseRetriever, GalleryEmbeds
from contextcir.retrieval.imagescope.panel import Panel, together
from contextcir.retrieval.imagescope.trace import QueryRecord
from contextcir.retrieval.ranking import rank


class ReasonedRetriever:
    """
    Rank by the reasoner's descriptions of the target.

    The reasoner gets the caption of the reference image (if there is one) and the text. In a conversation, it
    describes each round from the description of the round before and all turns so far. For an empty text, the
    description is the caption. If the reasoner has no usable answer, it is the text, or in a conversation that of the
    round before. An image without a caption is scored with the mean of all captions, so that it is not penalised.

    Args:
        panel ([`~contextcir.retrieval.imagescope.panel.Panel`]): Captioner and reasoner.
        clip ([`~contextcir.retrieval.dense.DenseRetriever`]): Embeds images, and texts without a reference, such as
            the baseline `CLIP, text only`.
        tau (`float`, *optional*, defaults to 0.15): Weight of the captions, in [0, 1]. The default is the paper's.

    Attributes:
        records (`dict[str, QueryRecord]`): The records of the last search by query id, on the main process.

    Raises:
        `ValueError`: `tau` is out of range.
    """

    def __init__(self, panel: Panel, clip: DenseRetriever, *, tau: float = 0.15):
        if not 0 <= tau <= 1:
            raise ValueError(f"Got tau={tau}, expected a number in [0, 1]: the weight of the captions.")
        self.panel, self.clip, self.tau = panel, clip, tau
        self.records: dict[str, QueryRecord] = {}
        self._galleries = GalleryEmbeds(clip.galleries.state)

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
        [`~contextcir.retrieval.base.Retriever.search`], with scores.

        Raises:
            `ChatStop`: The run cannot continue; the message names the role.
            `ValueError`: A query has neither a reference nor a text, or no image got a caption.
        """
        check_queries(queries, gallery)
        self.records = {}
        if not queries:
            return Ranking([], [], scores=[], candidate_ids=[], wanted_ranks=None if wanted is None else {})
        gallery_embeds = self._galleries.get(gallery, self._embed_gallery)
        captions = self.panel.reference_captions(queries, gallery)
        descriptions = self.panel.on_main(lambda: self._describe_all(queries, captions))
        query_embeds = self._embed_queries(descriptions, gallery)
        return rank(queries, gallery, query_embeds, gallery_embeds, k, exclude_reference, wanted=wanted)

    def _embed_gallery(self, gallery: Gallery) -> torch.Tensor:
        """(1 - tau) image + tau caption, `(gallery_size, dim)`. Images come first, so that an unreadable one is found
        before any caption is paid for."""
        images = torch.as_tensor(self.clip.gallery_embeds(gallery)[: len(gallery)]).float().cpu()
        if not self.tau:
            return images
        silent = not self.panel.state.is_main_process
        ids = [image_digest(image).hex() for image in tqdm(gallery.images, "Images", disable=silent, leave=False)]
        captions = self.panel.captions({id_: partial(getitem, gallery.images, p) for p, id_ in enumerate(ids)})
        if not captions:
            raise ValueError(
                f"The captioner ({self.panel.roles.captioner.model}) gave no caption for any of the {len(ids)} images."
            )
        captioned = [place for place, id_ in enumerate(ids) if id_ in captions]
        texts = [captions[ids[place]] for place in captioned]
        embeds = self._encode(list(dict.fromkeys(texts)), gallery)
        known = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        embeds = embeds[[known[text] for text in texts]]
        rows = embeds.mean(dim=0).repeat(len(ids), 1)
        rows[captioned] = embeds
        return (1 - self.tau) * images + self.tau * rows

    def _embed_queries(self, descriptions: Sequence[list[str]], gallery: Gallery) -> torch.Tensor:
        """The mean of each query's descriptions, `(num_queries, dim)`."""
        texts = list(dict.fromkeys(text for some in descriptions for text in some))
        embeds = self._encode(texts, gallery)
        rows = {text: row for row, text in enumerate(texts)}
        return torch.stack([embeds[[rows[text] for text in some]].mean(dim=0) for some in descriptions])

    def _encode(self, texts: Sequence[str], gallery: Gallery) -> torch.Tensor:
        return self.clip.encode([Query(id=text, modification_text=text) for text in texts], gallery).cpu()

    async def _describe_all(self, queries: Sequence[Query], captions: Mapping[str, str]) -> list[list[str]]:
        """The descriptions of all queries. Rounds of a conversation wait for earlier ones, which are started first."""
        rounds: dict[tuple, asyncio.Future] = {}  # (caption of the reference, turns) -> descriptions
        order = sorted(queries, key=lambda query: len(query.turns))
        jobs = (self._describe(query, captions.get(query.id), rounds) for query in order)
        await self.panel.in_flight(jobs, len(queries), "Reasoning", self.panel.waiting)
        return [self.records[query.id].facts["descriptions"] for query in queries]

    async def _describe(self, query: Query, caption: str | None, rounds: dict[tuple, asyncio.Future]) -> None:
        record = self.records[query.id] = QueryRecord(query, self.panel.ask)
        if query.turns:
            descriptions = await self._describe_chat(query, caption, record, rounds)
        elif not query.modification_text.strip():
            descriptions = [caption or ""]
        else:
            wordings = (query.modification_text, *query.paraphrases)
            found = await together(self._reason(query, text, caption, record) for text in wordings)
            descriptions = [description for some in found for description in some]
        record.facts["descriptions"] = descriptions

    async def _reason(self, query: Query, text: str, caption: str | None, record: QueryRecord) -> list[str]:
        request = self.panel.questions.reason(text, caption, composed=query.has_reference)
        answer = await record.ask(request)
        return [text] if answer is None else answer.descriptions

    async def _describe_chat(
        self, query: Query, caption: str | None, record: QueryRecord, rounds: dict[tuple, asyncio.Future]
    ) -> list[str]:
        """Describe round by round, from the last round that another query describes."""
        turns = query.turns
        this = rounds.setdefault((caption, turns), asyncio.get_running_loop().create_future())
        known = next((length for length in range(len(turns) - 1, 0, -1) if (caption, turns[:length]) in rounds), 0)
        descriptions = await rounds[caption, turns[:known]] if known else []
        for length in range(known + 1, len(turns) + 1):
            previous = descriptions[-1] if descriptions else None
            request = self.panel.questions.reason_on(turns[:length], previous, caption)
            answer = await record.ask(request)
            if answer is not None:
                descriptions = answer.descriptions
        descriptions = descriptions or [query.modification_text]
        if not this.done():  # another query may have the same turns
            this.set_result(descriptions)
        return descriptions


def check_queries(queries: Sequence[Query], gallery: Gallery) -> None:
    """Check the arguments of a search before anything is paid for. Raises an `ImageError` or `ValueError` for an empty
    gallery, repeated ids, a missing or unreadable reference image, or a query without reference and text."""
    check_searchable(queries, gallery)
    for query in queries:
        if query.has_reference:
            if query.reference_image is not None or query.reference_id not in gallery.positions:
                gallery.reference_image(query)
        elif not query.modification_text.strip():
            raise ValueError(f"Query {query.id!r} has neither a reference image nor a text: there is nothing to find.")
