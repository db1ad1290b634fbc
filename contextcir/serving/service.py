"""Answer requests: from a form to an answer, within the limits."""

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from contextcir.data.images import ImageError
from contextcir.retrieval.base import Query
from contextcir.retrieval.store.gallery import StoredGallery
from contextcir.serving.batching import Batcher, Lane
from contextcir.serving.decoder import Decoders
from contextcir.serving.errors import RefusedError, Slots, sentence
from contextcir.serving.intake import Form, Intake, until_gone
from contextcir.serving.meters import Meters
from contextcir.serving.rerank import Judged, Rerank
from contextcir.serving.schemas import (
    AttentionForm,
    AttentionResponse,
    Example,
    Milliseconds,
    Phrase,
    PhraseMaps,
    PhrasesForm,
    ReferenceForm,
    RerankForm,
    Result,
    SearchForm,
    SearchResponse,
)
from contextcir.serving.search import Found, Wanted, search_batch
from contextcir.serving.served import Served
from contextcir.serving.settings import Settings
from contextcir.serving.thumbnails import SIZES, Thumbnail, Thumbnails, thumbnail

V = TypeVar("V", bound=BaseModel)
F = TypeVar("F", bound=ReferenceForm)
READERS = 2  # threads that read references of the gallery, and as many that draw thumbnails
ASIDE = 16  # requests for phrases and attention at a time
SEEN_SIZE = 512  # of the picture that attention is drawn on


class Looks(Protocol):
    """Where a model looks: see [`~contextcir.visualization.concepts.ConceptMaps`]."""

    @property
    def image(self) -> Image.Image: ...

    @property
    def context(self) -> Sequence[np.ndarray | None]: ...

    @property
    def isolated(self) -> Sequence[np.ndarray | None]: ...


Phrases = Callable[[str], Sequence[Mapping[str, Any]]]
Attention = Callable[[Image.Image, str, Sequence[Mapping[str, Any]]], Looks]


class Service:
    """
    A served gallery at work. Arguments as for [`~contextcir.serving.app.create_app`].

    One thread asks the model, for searches and for attention; another finds phrases; a third re-ranks.
    """

    def __init__(
        self,
        gallery: StoredGallery,
        settings: Settings,
        *,
        phrases: Phrases | None = None,
        attention: Attention | None = None,
        rerank: Rerank | None = None,
        examples: Sequence[Example] = (),
        reopen: Callable[[], StoredGallery] | None = None,
    ):
        if gallery.retriever is None:
            raise ValueError("The gallery was opened without a retriever. Use Gallery.open(folder, retriever).")
        self.settings, self.meters = settings, Meters()
        self.phrases, self.attention, self.rerank = phrases, attention, rerank
        self.thumbnails = Thumbnails()
        self.served = Served(gallery, examples, reopen)
        self.intake = Intake(settings)
        self.decoders = Decoders(settings.decoders, settings.decode_seconds, settings.pixels)
        self.lanes = {name: Lane(f"contextcir {name}") for name in ("model", "phrases", "rerank")}
        self.aside = Slots(ASIDE, "The server is busy")
        self.judges = Slots(2, "The server is re-ranking for others")
        self.batcher: Batcher[Wanted, Found]
        self.reading: asyncio.Semaphore  # references of searches do not wait for thumbnails
        self.drawing: asyncio.Semaphore

    async def start(self) -> list[asyncio.Task]:
        """Begin to work, in the event loop that runs. Returns tasks to cancel at the end."""
        self.reading, self.drawing = asyncio.Semaphore(READERS), asyncio.Semaphore(READERS)
        limits = self.settings
        self.batcher = Batcher(
            lambda searches: search_batch(self.served.gallery, searches),
            self.lanes["model"],
            size=limits.batch,
            wait=limits.wait,
            limit=limits.queue,
            sizes=self.meters.batch,
        )
        return [asyncio.create_task(self.batcher.run()), asyncio.create_task(self.served.watch())]

    async def stop(self) -> None:
        """End threads and processes, after what they are doing."""
        await self.decoders.close()
        for lane in self.lanes.values():
            lane.close()

    async def search(self, request: Request) -> SearchResponse:
        """Search, as a form asks."""
        self.batcher.check()  # before an upload is read for nothing
        begin = time.perf_counter()
        form, image = await self._query(request, SearchForm)
        image, text = image if form.mode != "text" else None, form.text if form.mode != "image" else ""
        if image is None and (form.mode == "image" or not text.strip()):
            needed = {"text": "a text", "image": "a reference image", "composed": "a reference image, a text, or both"}
            raise RefusedError(422, f"There is nothing to search for: give {needed[form.mode]}.")
        read = time.perf_counter() - begin
        wanted = Wanted(
            image,
            text,
            form.k,
            where=form.where,
            image_weight=form.image_weight if image is not None and text.strip() else 0.0,
            exclude=(form.reference,) if image is not None and form.reference else (),
        )
        found, queued = await until_gone(request, self.batcher.submit(wanted))
        self.meters.stages(read=read, queue=queued, embed=found.embed, search=found.search)
        stages = {"read": read, "queue": queued, "embed": found.embed, "search": found.search}
        return SearchResponse(
            results=[Result(rank=hit.rank, id=hit.id, score=hit.score, facts=hit.facts) for hit in found.hits],
            generation=found.generation,
            milliseconds=Milliseconds(**{name: round(1000 * seconds, 1) for name, seconds in stages.items()}),
        )

    async def thumbnail(self, id_: str, size: int) -> Thumbnail:
        """A small picture of the gallery."""
        gallery = self.served.gallery
        if size not in SIZES:
            raise RefusedError(422, f"Got size {size}, expected one of {', '.join(map(str, SIZES))}.")
        if id_ not in gallery.positions:
            raise RefusedError(404, "The gallery has no image of this id.")
        kept = self.thumbnails.kept(gallery, id_, size)
        return kept or await self._read(self.drawing, self.thumbnails.make, gallery, id_, size)

    async def find_phrases(self, request: Request) -> list[Phrase]:
        """The noun phrases of a text."""
        if self.phrases is None:
            raise RefusedError(404, "This server finds no phrases: it was started without the extra 'parse'.")
        with self.aside.take():
            async with self.intake.reading(request) as raw:
                form = _validated(PhrasesForm, raw)
            found = await until_gone(request, self._phrases_of(form.text))
        return [Phrase(text=one["text"], start=one["start"], end=one["end"]) for one in found]

    async def look(self, request: Request) -> AttentionResponse:
        """Where the model looks for the phrases of a text."""
        if self.attention is None or self.phrases is None:
            raise RefusedError(
                404, "This server has no attention of phrases: its model has none, or 'parse' is missing."
            )
        with self.aside.take():
            form, image = await self._query(request, AttentionForm)
            if image is None or not form.text.strip():
                raise RefusedError(422, "Attention needs a reference image and a text.")
            phrases = await self._phrases_of(form.text)
            looks = await until_gone(request, self.lanes["model"].run(self.attention, image, form.text, phrases))
            seen = base64.b64encode(thumbnail(looks.image, SEEN_SIZE, quality=90)).decode()
        maps = zip(phrases, looks.context, looks.isolated, strict=True)
        return AttentionResponse(
            image=f"data:image/jpeg;base64,{seen}", phrases=[_maps(phrase, *both) for phrase, *both in maps]
        )

    async def _phrases_of(self, text: str) -> list[Mapping[str, Any]]:
        """The phrases of a text as it is read: from left to right, an outer one before those inside it."""
        assert self.phrases is not None  # its callers look
        found = await self.lanes["phrases"].run(self.phrases, text)
        return sorted(found, key=lambda phrase: (phrase["start"], -phrase["end"]))

    async def judge(self, request: Request) -> list[Judged]:
        """Re-rank images, with reasons."""
        if self.rerank is None:
            raise RefusedError(404, "This server does not re-rank: it was started without chat servers.")
        with self.judges.take():
            form, image = await self._query(request, RerankForm)
            gallery = self.served.gallery
            if unknown := [id_ for id_ in form.ids if id_ not in gallery.positions]:
                raise RefusedError(422, f"The gallery has no image {unknown[0][:100]!r}.")
            if not form.text.strip():
                raise RefusedError(422, "There is nothing to judge by: give a text.")
            query = Query("served", form.text, reference_image=image, reference_id=form.reference)
            try:
                return list(await self.lanes["rerank"].run(self.rerank, query, gallery, form.ids))
            except Exception as error:
                if hasattr(error, "exit_code"):  # a server or a budget stopped it
                    raise RefusedError(502, "The chat servers do not answer, or the budget is spent.") from error
                raise

    async def _query(self, request: Request, kind: type[F]) -> tuple[F, Image.Image | None]:
        """A form, and the reference image that it gives."""
        async with self.intake.reading(request) as raw:
            form = _validated(kind, raw)
            return form, await self._reference(form, raw.upload)

    async def _reference(self, form: ReferenceForm, upload: bytes | None) -> Image.Image | None:
        """The reference image of a form: an upload, or one of the gallery."""
        if upload is not None:
            if form.reference is not None:
                raise RefusedError(422, "Give an upload or the id of a reference, not both.")
            try:
                return await self.decoders.decode(upload)
            except ImageError as error:
                raise RefusedError(422, str(error).replace("the upload: ", "The upload ", 1)) from None
        if form.reference is None:
            return None
        gallery = self.served.gallery
        if form.reference not in gallery.positions:
            raise RefusedError(404, f"The gallery has no image {form.reference[:100]!r}.")
        return await self._read(self.reading, gallery.image, form.reference)

    async def _read(self, places: asyncio.Semaphore, function: Callable[..., Any], *args: Any) -> Any:
        """Read an image of the gallery in a thread. The message of a failure would say where the images are."""
        async with places:
            try:
                return await asyncio.to_thread(function, *args)
            except ImageError:
                raise RefusedError(404, "The picture cannot be read any more. Was it moved or removed?") from None


def _validated(kind: type[V], form: Form) -> V:
    try:
        return kind.model_validate(form.fields)
    except ValidationError as error:
        raise RefusedError(422, sentence(error)) from None


def _maps(phrase: Mapping[str, Any], context: np.ndarray | None, isolated: np.ndarray | None) -> PhraseMaps:
    both = context is not None and isolated is not None
    return PhraseMaps(
        text=phrase["text"],
        start=phrase["start"],
        end=phrase["end"],
        context=None if context is None else context.tolist(),
        isolated=None if isolated is None else isolated.tolist(),
        distance=float(np.abs(context - isolated).sum() / 2) if both else None,  # type: ignore[operator]
    )
