"""The application: routes with their documentation, the page, and what goes around them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

try:
    import python_multipart  # noqa: F401  # reads forms
    from fastapi import FastAPI, Query, Request, Response
except ImportError as error:
    raise ImportError(f"A server needs FastAPI and more ({error}): pip install contextcir[serve]") from error
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from contextcir import __version__
from contextcir.retrieval.store.gallery import StoredGallery
from contextcir.serving.errors import RefusedError
from contextcir.serving.rerank import Rerank, RerankResponse
from contextcir.serving.schemas import (
    AttentionForm,
    AttentionResponse,
    Capabilities,
    Example,
    HealthResponse,
    Info,
    Limits,
    PhrasesForm,
    PhrasesResponse,
    RerankForm,
    SearchForm,
    SearchResponse,
    errors,
    form_of,
)
from contextcir.serving.security import Guard
from contextcir.serving.service import Attention, Phrases, Service
from contextcir.serving.settings import Settings
from contextcir.serving.thumbnails import SIZES

STATIC = Path(__file__).with_name("static")
DAY = 24 * 3600


def create_app(
    gallery: StoredGallery,
    *,
    settings: Settings | None = None,
    phrases: Phrases | None = None,
    attention: Attention | None = None,
    rerank: Rerank | None = None,
    examples: Sequence[tuple[str, str]] = (),
    reopen: Callable[[], StoredGallery] | None = None,
) -> FastAPI:
    """
    Make an application that serves a gallery: an ASGI application, for uvicorn and its like. One process is enough,
    and has to be: each would load the model.

    Args:
        gallery ([`~contextcir.retrieval.store.gallery.StoredGallery`]): Open for search, with its retriever. Any model
            will do, see [`~contextcir.retrieval.dense.DenseRetriever`].
        settings ([`~contextcir.serving.settings.Settings`], *optional*): Limits; by default for this machine alone.
        phrases (`Callable`, *optional*): Text -> its noun phrases, `{"text", "start", "end"}`.
        attention (`Callable`, *optional*): Reference image (RGB), text and phrases -> where the model looks, such as
            [`~contextcir.visualization.concepts.concept_maps`] with a model and its processor. Needs `phrases`.
        rerank (`Callable`, *optional*): Query, gallery and ids -> these images in a new order, with reasons, see
            [`~contextcir.serving.rerank.Judged`].
        examples (`Sequence[tuple[str, str]]`, *optional*): Ids of images with texts, that the page begins with. By
            default images at random.
        reopen (`Callable`, *optional*): Opens the gallery when a new generation of it is there; by default from its
            folder, with its retriever.

    Returns:
        `FastAPI`

    Raises:
        `ImportError`: FastAPI is not installed.
        `ValueError`: The gallery was opened without a retriever.
    """
    given = [Example(id=id_, text=text) for id_, text in examples]
    service = Service(
        gallery,
        settings or Settings(),
        phrases=phrases,
        attention=attention,
        rerank=rerank,
        examples=given,
        reopen=reopen,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = await service.start()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.stop()

    app = FastAPI(
        title="contextcir",
        summary="Search a gallery with a reference image and a text that says what should be different.",
        version=__version__,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(Guard, settings=service.settings, observe=service.meters.request)
    add_error_handlers(app)
    add_search(app, service)
    add_looks(app, service)
    add_facts(app, service)
    app.get("/", include_in_schema=False)(_page)
    app.mount("/static", _Files(directory=STATIC), name="static")
    return app


def add_error_handlers(app: FastAPI) -> None:
    """Answer with `{"error": sentence}`, whatever is wrong."""

    async def known(_: Request, error: HTTPException) -> Response:
        texts = {404: "There is nothing at this address.", 405: "This address does not take this method."}
        return RefusedError(
            error.status_code, texts.get(error.status_code, str(error.detail)), error.headers
        ).response()

    async def invalid(_: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        return RefusedError(422, f"{fault['loc'][-1]}: {fault['msg'][0].lower()}{fault['msg'][1:]}.").response()

    app.add_exception_handler(HTTPException, known)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]


def add_search(app: FastAPI, service: Service) -> None:
    """Routes that search and re-rank."""
    query = {"text": "in red, without the belt", "reference": "shirts/0042.jpg"}

    @app.post(
        "/search",
        summary="Search with a reference image, a text, or both",
        response_model=SearchResponse,
        responses=errors(400, 401, 404, 408, 413, 415, 422, 429),
        openapi_extra=form_of(
            SearchForm,
            upload=True,
            examples={
                "composed": query | {"k": 10},
                "text only": {"text": "a red dress", "mode": "text"},
                "filtered": query | {"filters": '[{"column": "price", "operator": "<=", "value": 20}]'},
            },
        ),
    )
    async def search(request: Request) -> Response:
        """The reference is an upload (at most 10 MB), or the id of an image of the gallery, which is then left out of
        the results. An upload is forgotten with the answer."""
        return _json(await service.search(request))

    if service.rerank is not None:

        @app.post(
            "/rerank",
            summary="Judge images with chat models, and put them into a new order",
            response_model=RerankResponse,
            responses=errors(400, 401, 404, 408, 413, 415, 422, 429, 502),
            openapi_extra=form_of(RerankForm, upload=True, examples={"two": query | {"ids": '["a.jpg", "b.jpg"]'}}),
        )
        async def rerank(request: Request) -> Response:
            """Takes as long as the chat models take: seconds, or minutes."""
            return _json(RerankResponse(results=await service.judge(request)))


def add_looks(app: FastAPI, service: Service) -> None:
    """Routes about noun phrases, where the server can find them."""
    if service.phrases is None:
        return

    @app.post(
        "/phrases",
        summary="Find the noun phrases of a text",
        response_model=PhrasesResponse,
        responses=errors(400, 401, 408, 413, 415, 422, 429),
        openapi_extra=form_of(PhrasesForm, upload=False, examples={"one": {"text": "make the red circle blue"}}),
    )
    async def phrases(request: Request) -> Response:
        return _json(PhrasesResponse(phrases=await service.find_phrases(request)))

    if service.attention is None:
        return
    example = {"text": "make the red circle blue", "reference": "scenes/0001.png"}

    @app.post(
        "/attention",
        summary="See where the model looks for the noun phrases of a text",
        response_model=AttentionResponse,
        responses=errors(400, 401, 404, 408, 413, 415, 422, 429),
        openapi_extra=form_of(AttentionForm, upload=True, examples={"one": example}),
    )
    async def attention(request: Request) -> Response:
        return _json(await service.look(request))


def add_facts(app: FastAPI, service: Service) -> None:
    """Routes that say what is served, and how it is doing."""
    served = service.served

    @app.get(
        "/images/{id:path}",
        summary="A small picture of the gallery, as JPEG",
        response_class=Response,
        responses=errors(401, 404, 422) | {200: {"content": {"image/jpeg": {}}}, 304: {"description": "As before"}},
    )
    async def image(
        request: Request,
        id: str,  # noqa: A002
        size: Annotated[int, Query(description=f"Of the longer side: {', '.join(map(str, SIZES))}")] = 256,
    ) -> Response:
        """By id alone. What a file says beside its pixels (EXIF, such as where it was taken) is left out."""
        found = await service.thumbnail(id, size)
        headers = {"ETag": found.etag, "Cache-Control": f"private, max-age={DAY}"}
        if found.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type="image/jpeg", headers=headers)

    @app.get("/info", summary="What is served, and what can be asked", response_model=Info, responses=errors(401, 422))
    async def info(
        seed: Annotated[int | None, Query(ge=0, lt=2**31, description="Other examples, at random")] = None,
    ) -> Response:
        facts, limits = served.facts, service.settings
        able = {name: getattr(service, name) is not None for name in ("phrases", "attention", "rerank")}
        able["attention"] &= able["phrases"]
        return _json(
            Info(
                name=facts.name,
                count=len(facts.gallery),
                bad=len(facts.gallery.manifest.bad),
                generation=facts.gallery.manifest.generation,
                model=facts.model,
                columns=facts.columns,
                examples=served.some(seed=seed),
                capabilities=Capabilities(**able),
                limits=Limits(upload_bytes=limits.upload_bytes, pixels=limits.pixels),
                sizes=list(SIZES),
            )
        )

    @app.get("/health", summary="Whether the server is well", response_model=HealthResponse)
    async def health() -> Response:
        return _json(HealthResponse(status="stale" if served.stale else "ok"))

    @app.get("/metrics", summary="Counts for Prometheus", response_class=Response, responses=errors(401))
    async def metrics() -> Response:
        gallery = served.gallery
        counts = {"images": len(gallery), "generation": gallery.manifest.generation}
        text, kind = service.meters.text(queue=service.batcher.pending, **counts)
        return Response(text, media_type=kind)


async def _page() -> Response:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


class _Files(StaticFiles):
    """Files of the page. Browsers ask whether they have changed, so that an update is seen."""

    def file_response(self, *args, **kwargs) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _json(answer: BaseModel) -> Response:
    """An answer as JSON. Numbers that JSON does not have, such as NaN in a column, become null."""
    return Response(answer.model_dump_json(), media_type="application/json")
