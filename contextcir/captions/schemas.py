"""The answers of a model at each stage, as pydantic classes.

Servers that support JSON schemas follow them. Their docstrings and descriptions are sent along and are part of a
request's id, so a change of them changes the prompts. Lengths are left to the quality gates, since not all servers
support such limits.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from contextcir.chat.schemas import plain_word

Operation = Annotated[Literal["add", "remove", "modify", "replace"], BeforeValidator(plain_word)]


class DescribedObject(BaseModel):
    """An object of an image."""

    name: str = Field(description="What it is, in a few words.")
    descriptors: list[str] = Field(description="What it looks like: each a short phrase.")


class ReferenceObjects(BaseModel):
    """The objects of the image, the background included."""

    objects: list[DescribedObject]


class TargetObjects(BaseModel):
    """The objects of the target image, the background included."""

    objects: list[DescribedObject]


class Difference(BaseModel):
    """One change from the reference image to the target image."""

    operation: Operation
    text: str = Field(description="The change as a person would ask for it.")
    source_object: str | None = Field(
        default=None, description="The object that is removed, modified or replaced, as listed."
    )
    target_object: str | None = Field(default=None, description="The object that is there afterwards, as listed.")


class Differences(BaseModel):
    """All that is to change."""

    differences: list[Difference]


class ImageCaption(BaseModel):
    """The image in words."""

    caption: str = Field(description="All that can be seen, in plain sentences.")


class Reformulation(BaseModel):
    """What is to change, in a few words."""

    change: str = Field(description="The change, in at most 12 plain words.")
