"""Define the forms of requests and answers. FastAPI writes the documentation of the API from these classes."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, WithJsonSchema, field_validator, model_validator

from contextcir.retrieval.filters import Condition
from contextcir.serving.settings import MAX_RESULTS, MAX_TEXT

Scalar = bool | int | float | str
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Strict(BaseModel):
    """A request. Fields that are not known are an error, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Filter(Strict):
    """A condition on a column: images without a value do not fulfil it."""

    column: str = Field(max_length=200)
    operator: Literal["=", "!=", "<", "<=", ">", ">="] = "="
    value: Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=200)]

    @model_validator(mode="after")
    def _one_value(self) -> "Filter":
        if isinstance(self.value, list) and self.operator not in ("=", "!="):
            raise ValueError(f"{self.operator} takes one value, got a list")
        return self

    def condition(self) -> Condition:
        """The same condition, as the search takes it."""
        return Condition(
            self.column, self.operator, tuple(self.value if isinstance(self.value, list) else [self.value])
        )


def _json(example: str, description: str) -> Any:
    """How the documentation shows a field of a form that holds JSON."""
    return WithJsonSchema({"type": "string", "description": description, "examples": [example]})


class ReferenceForm(Strict):
    """A query: a reference image, a modification text, or both."""

    text: Text = Field("", description="What should be different", examples=["in red, without the belt"])
    reference: Annotated[
        str | None, WithJsonSchema({"type": "string", "description": "Id of an image of the gallery"})
    ] = Field(None, max_length=4096)

    @field_validator("reference")
    @classmethod
    def _given(cls, value: str | None) -> str | None:
        return value or None  # as browsers send an empty field


class SearchForm(ReferenceForm):
    """A search."""

    k: int = Field(20, ge=1, le=MAX_RESULTS, description="Number of results")
    mode: Literal["composed", "image", "text"] = Field("composed", description="Leave out one half of the query")
    image_weight: float = Field(0.0, ge=0, le=1, description="More keeps results closer to the reference image")
    filters: Annotated[
        Json[Annotated[list[Filter], Field(max_length=20)]] | None,
        _json('[{"column": "price", "operator": "<=", "value": 20}]', "Conditions as JSON, all of which must hold"),
    ] = None

    @property
    def where(self) -> tuple[Condition, ...]:
        """The conditions of the filters."""
        return tuple(one.condition() for one in self.filters or [])


class AttentionForm(ReferenceForm):
    """A query whose phrases are looked at."""


class RerankForm(ReferenceForm):
    """A query, and images to judge."""

    ids: Annotated[
        Json[Annotated[list[str], Field(min_length=1, max_length=MAX_RESULTS)]],
        _json('["a.jpg", "b.jpg"]', "Ids as JSON, best first"),
    ]


class PhrasesForm(Strict):
    """A text."""

    text: Text = Field(examples=["make the red circle blue"])


class Result(BaseModel):
    """One image that was found."""

    rank: int = Field(description="1 for the best", examples=[1])
    id: str = Field(examples=["shirts/0042.jpg"])
    score: float = Field(description="Dot product of the embeddings", examples=[0.731])
    facts: dict[str, Any] = Field(description="Column -> value", examples=[{"colour": "red", "price": 19.5}])


class Milliseconds(BaseModel):
    """Where the time of a search went."""

    read: float = Field(description="Reading the form and the reference image")
    queue: float = Field(description="Waiting for the model")
    embed: float = Field(description="The forward pass that the query was part of")
    search: float = Field(description="The search that it was part of")


class SearchResponse(BaseModel):
    """The results of a search, best first."""

    results: list[Result]
    generation: int = Field(description="Generation of the gallery that was searched")
    milliseconds: Milliseconds


class Choice(BaseModel):
    """A value of a column, and how many images have it."""

    value: bool | str
    count: int


class Column(BaseModel):
    """A column to filter by."""

    name: str
    kind: Literal["number", "truth", "choice", "text"] = Field(description="Text: more values than are listed")
    least: float | None = None
    most: float | None = None
    whole: bool = False
    choices: list[Choice] = []
    distinct: int = 0


class Example(BaseModel):
    """An image to begin with, and a text that goes with it."""

    id: str
    text: Text = ""


class Capabilities(BaseModel):
    """What the server can do beside searching."""

    phrases: bool
    attention: bool
    rerank: bool


class Limits(BaseModel):
    """What requests may hold."""

    upload_bytes: int
    pixels: int
    text: int = MAX_TEXT
    k: int = MAX_RESULTS


class Info(BaseModel):
    """What is served."""

    name: str = Field(examples=["my-gallery"])
    count: int = Field(description="Images that can be found", examples=[2000])
    bad: int = Field(description="Images that could not be read when the gallery was made", examples=[0])
    generation: int
    model: str = Field(examples=["user/contextcir-vit-b-32"])
    columns: list[Column]
    examples: list[Example]
    capabilities: Capabilities
    limits: Limits
    sizes: list[int] = Field(description="Sizes of thumbnails")


class Phrase(BaseModel):
    """A noun phrase: `text[start:end]`."""

    text: str
    start: int
    end: int


class PhrasesResponse(BaseModel):
    """The noun phrases of a text."""

    phrases: list[Phrase]


class PhraseMaps(Phrase):
    """Where the model looks for a phrase: rows of patches, each map with sum 1; null if no token belongs to it."""

    context: list[list[float]] | None = Field(description="Read inside its text")
    isolated: list[list[float]] | None = Field(description="Read alone")
    distance: float | None = Field(description="Total variation distance of the two, in [0, 1]")


class AttentionResponse(BaseModel):
    """Where the model looks in the reference image."""

    image: str = Field(description="The reference as the model sees it: a JPEG as a data URL")
    phrases: list[PhraseMaps]


class HealthResponse(BaseModel):
    """`stale`: there is a newer generation of the gallery that cannot be opened; the old one is served."""

    status: Literal["ok", "stale"]


class ErrorResponse(BaseModel):
    """Why a request was not carried out."""

    error: str = Field(examples=["text: string should have at most 500 characters."])


def form_of(kind: type[BaseModel], *, upload: bool, examples: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The form that a route takes, for the documentation."""
    schema = kind.model_json_schema()
    if upload:
        schema["properties"]["upload"] = {
            "type": "string",
            "format": "binary",
            "description": "The reference image, instead of the id of one",
        }
    shown = {name: {"value": value} for name, value in examples.items()}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema, "examples": shown}}}
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that are errors, for the documentation."""
    meanings: Mapping[int, str] = {
        400: "The form cannot be read",
        401: "The token is missing or wrong",
        404: "There is no such image",
        408: "The request took too long to arrive",
        413: "The upload is too large",
        415: "It is no form",
        422: "A field or the picture cannot be used",
        429: "The server is busy; `Retry-After` says for how many seconds",
        502: "The chat servers do not answer",
    }
    return {status: {"model": ErrorResponse, "description": meanings[status]} for status in statuses}
