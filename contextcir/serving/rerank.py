"""The contract of a re-ranker: questions with answers for each image, and a verdict with its reason."""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, Field

from contextcir.retrieval.base import Query
from contextcir.retrieval.store.gallery import StoredGallery


class Answer(BaseModel):
    """A question about an image."""

    question: str = Field(examples=["Is the square blue?"])
    expected: str = Field(examples=["yes"])
    got: str = Field(examples=["yes"])


class Judged(BaseModel):
    """What was found out about an image. Both parts may be missing, if they were not asked or not answered."""

    id: str
    answers: list[Answer] = []
    verdict: str | None = Field(None, examples=["accept"])
    reason: str | None = Field(None, examples=["The square has become blue, all else is unchanged."])


class RerankResponse(BaseModel):
    """The images in their new order, best first."""

    results: list[Judged]


Rerank = Callable[[Query, StoredGallery, Sequence[str]], Sequence[Judged]]
