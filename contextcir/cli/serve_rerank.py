"""Re-rank what a served gallery has found, by ImageScope, with the reasons of its chat models."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from operator import itemgetter
from typing import Any

from contextcir.cli.imagescope_arguments import ImageScopeArguments
from contextcir.cli.servers import ServerArguments

WITHOUT_EFFECT = (
    "tau",
    "rerank",
    "after_each_stage",
    "max_failed",
)  # options of measuring, and of another first retriever


def check(scope: ImageScopeArguments, servers: ServerArguments) -> None:
    """Refuse options that have no effect, and re-ranking without a folder for what is paid for."""
    default = ImageScopeArguments()
    for name in WITHOUT_EFFECT:
        if getattr(scope, name) != getattr(default, name):
            raise ValueError(f"--{name} has no effect here: the gallery's own model finds what is re-ranked.")
    if (scope, servers) != (default, ServerArguments()) and not scope.trace:
        raise ValueError("ImageScope keeps all answers, which are paid for: give it a folder with --trace.")


def reranker(scope: ImageScopeArguments, servers: ServerArguments) -> "Reranker | None":
    """Connect to the chat servers, if there are any. Errors as for [`~contextcir.cli.imagescope.panel_of`]."""
    return Reranker(scope, servers) if scope.trace else None


class LastRecord:
    """A trace that keeps the record of one query, in memory."""

    record: dict[str, Any]

    def write(self, record: dict[str, Any]) -> None:
        """Keep a record instead of the one before."""
        self.record = record

    def compact(self) -> None:
        """Nothing to do."""


class Given:
    """A retriever that returns images that were found before, in their order."""

    def __init__(self, ids: Sequence[str]):
        self.ids = list(ids)

    def search(self, queries: Sequence[Any], gallery: Any, k: int, **options: Any) -> Any:
        """The images, for each query."""
        from contextcir.retrieval.base import Ranking

        return Ranking([query.id for query in queries], [self.ids[:k] for _ in queries])


class Reranker:
    """
    Re-rank images, one call at a time, in a thread of its own: the ledger of answers belongs to the thread that opened
    it.

    Args:
        scope ([`~contextcir.cli.imagescope_arguments.ImageScopeArguments`]): The roles, and numbers of images.
        servers ([`~contextcir.cli.servers.ServerArguments`]): The chat servers.
    """

    def __init__(self, scope: ImageScopeArguments, servers: ServerArguments):
        self.scope, self.servers = scope, servers
        self._opened, self._thread = ExitStack(), ThreadPoolExecutor(1, "contextcir chat")
        self._thread.submit(self._open).result()

    def __call__(self, query: Any, gallery: Any, ids: Sequence[str]) -> list[Any]:
        """See [`~contextcir.serving.rerank.Rerank`]."""
        return self._thread.submit(self._judge, query, gallery, ids).result()

    def close(self, seconds: float) -> bool:
        """Disconnect. Returns whether that was possible within some seconds: a question may be on its way."""
        closing = self._thread.submit(self._opened.close)
        self._thread.shutdown(wait=False)
        return not wait([closing], seconds).not_done

    def _open(self) -> None:
        from contextcir.cli.imagescope import panel_of

        self._panel = self._opened.enter_context(panel_of(self.scope, self.servers, ""))
        self._record = LastRecord()
        self._panel.trace = self._record  # type: ignore[assignment]  # the texts of users are not written anywhere

    def _judge(self, query: Any, gallery: Any, ids: Sequence[str]) -> list[Any]:
        from contextcir.retrieval.imagescope import ImageScope

        depths = {"verified": self.scope.verified, "evaluated": self.scope.evaluated}
        order = ImageScope(self._panel, Given(ids), **depths).search([query], gallery, len(ids)).gallery_ids[0]
        return [judged(id_, self._record.record) for id_ in order]


def judged(id_: str, record: Mapping[str, Any]) -> Any:
    """What a record says of an image."""
    from contextcir.serving.rerank import Answer, Judged

    asked = map(itemgetter("question", "expected"), record["propositions"])
    got = record["answers"].get(id_) or []
    answers = [
        Answer(question=question, expected=expected, got=answer)
        for (question, expected), answer in zip(asked, got, strict=False)
    ]
    verdict = record["verdicts"].get(id_) or {}
    return Judged(id=id_, answers=answers, verdict=verdict.get("verdict"), reason=verdict.get("reason"))
