"""Simulated faults and their rates: of the connection, of the form of answers, of batches, and of their content.

Faults of an answer depend on the seed of the server and the content of the request: the same request always has the
same fault. Faults of the connection (429, 5xx, no answer) are drawn again at each attempt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

from transformers.hf_argparser import HfArg

from contextcir.scenes.edits import EDIT_OF, Edit
from contextcir.scenes.oracle.quirks import FORMS, REJECTIONS, USAGES
from contextcir.scenes.world import MAX_OBJECTS, VALUES, Scene, Thing, sample_other_value, sample_thing

SECONDS = ("latency", "jitter", "retry_after", "hang", "drip", "batch_seconds")
CONNECTION = ("rate_429", "rate_5xx", "rate_timeout")
FORM = ("refusals", "content_filter", "cut", "malformed", "moderated", "errors_inside", "invalid_json")


def rate(help: str) -> float:
    """Return a field of [`Faults`] for a rate, 0 by default."""
    return HfArg(default=0.0, help=help)


@dataclass(frozen=True)
class Faults:
    """Faults of the oracle; none by default. Rates are shares of all cases, from 0 to 1."""

    _argument_group_name = "Faults"

    latency: float = HfArg(default=0.0, help="Seconds before each answer.")
    jitter: float = HfArg(default=0.0, help="Maximum of additional random seconds (uniform).")
    rate_429: float = rate("Requests rejected by the rate limit (429).")
    retry_after: float = HfArg(default=0.1, help="Retry-After of a 429, in seconds.")
    rate_5xx: float = rate("Requests that fail with 500, 502 or 503.")
    rate_timeout: float = rate("Requests without an answer.")
    hang: float = HfArg(default=30.0, help="Seconds until a request without an answer is disconnected.")
    drip: float = HfArg(default=0.0, help="Seconds in which an answer arrives piece by piece.")
    quota: int = HfArg(default=0, help="Number of answers until insufficient_quota; 0: unlimited.")
    max_bytes: int = HfArg(default=0, help="Bytes of a request above which it is too large (413); 0: unlimited.")
    redirect: str = HfArg(default="", help="Address to which every request is sent on (307).")
    rejects: list[str] | None = HfArg(default=None, help=f"What the server rejects: {', '.join(REJECTIONS)}.")

    refusals: float = rate("Requests that the model refuses.")
    content_filter: float = rate("Answers removed by a content filter.")
    cut: float = rate("Answers cut in the middle.")
    malformed: float = rate("Answers that break the schema or are not JSON. About half of them can be repaired.")
    moderated: float = rate("Requests that moderation rejects (403).")
    errors_inside: float = rate("Answers that are an error with status 200.")
    invalid_json: float = rate("Answers in which the server itself finds no JSON (json_validate_failed).")
    form: str = HfArg(default="", help=f"Form of all answers: {', '.join(FORMS)}.")
    usage: str = HfArg(default="", help=f"What answers count as tokens: {', '.join(USAGES)}.")
    reject_schema: bool = HfArg(default=False, help="Reject json_schema, as servers without schema support do.")
    answering_model: str = HfArg(default="", help="Model name in answers, if it differs from the requested one.")

    failed_batches: int = HfArg(default=0, help="Number of first batches that fail before they start.")
    expired_batches: int = HfArg(default=0, help="Number of next batches that expire half-way.")
    partly_failed_batches: int = HfArg(default=0, help="Number of next batches that fail in every third line.")
    most_enqueued: int = HfArg(
        default=0, help="Requests of batches in progress above which one fails (token_limit_exceeded); 0: unlimited."
    )
    damaged_lines: float = rate("Damaged lines of files of answers.")
    batch_seconds: float = HfArg(default=0.0, help="Seconds before a batch starts.")

    objects_hallucinated: float = rate("Lists of objects with an object that is not in the image.")
    objects_missed: float = rate("Objects missing in lists of objects.")
    objects_wrong: float = rate("Objects with a wrong attribute in lists of objects.")
    differences_wrong: float = rate("Invented differences.")
    captions_wrong: float = rate("Image captions with an error.")
    reformulations_wrong: float = rate("Invented reformulations.")
    reasoning_wrong: float = rate("Target descriptions with an error.")
    propositions_wrong: float = rate("Propositions with the wrong expected answer.")
    verification_wrong: float = rate("Wrong yes/no answers.")
    evaluation_wrong: float = rate("Wrong verdicts.")
    injection_obeyed: float = rate("Verifications and evaluations that obey words in an image or a caption.")

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is None or isinstance(value, list):
                continue
            if isinstance(spec.default, float) and spec.name not in SECONDS and not 0 <= value <= 1:
                raise ValueError(f"{spec.name} is a rate: got {value}, expected 0 to 1.")
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"{spec.name} must be at least 0, got {value}.")
        for option, names, known in (
            ("rejects", self.rejects or [], REJECTIONS),
            ("form", [self.form], FORMS),
            ("usage", [self.usage], USAGES),
        ):
            if wrong := [name for name in names if name and name not in known]:
                raise ValueError(f"{option} is {', '.join(wrong)}, expected one of {', '.join(known)}.")
        for group in (CONNECTION, FORM):
            if sum(getattr(self, name) for name in group) > 1 + 1e-9:
                raise ValueError(
                    f"The sum of {', '.join(group)} must be at most 1: a request has one of these faults."
                )

    def draw(self, rng: random.Random, names: Sequence[str]) -> str:
        """Draw one of some faults with the probability of its rate, or none (an empty string)."""
        drawn = rng.random()
        for name in names:
            if drawn < getattr(self, name):
                return name
            drawn -= getattr(self, name)
        return ""


def misperceive(rng: random.Random, scene: Scene, *, hallucinated: float, missed: float, wrong: float) -> Scene:
    """Return a scene with missed and wrong things, each with a rate, and perhaps one hallucinated thing."""
    things = [thing for thing in scene.things if rng.random() >= missed] or [rng.choice(scene.things)]
    seen = scene.with_things(_with_error(rng, thing) if rng.random() < wrong else thing for thing in things)
    free = scene.free_cells()
    if free and rng.random() < hallucinated:
        seen = seen.with_things([*seen.things, sample_thing(rng, rng.choice(free))])
    return seen


def mistake(rng: random.Random, scene: Scene) -> Scene:
    """Return a scene with exactly one error: a missed, a wrong or a hallucinated thing."""
    kinds = ["wrong"] + ["missed"] * (len(scene.things) > 1) + ["hallucinated"] * (len(scene.things) < MAX_OBJECTS)
    kind = rng.choice(kinds)
    if kind == "hallucinated":
        return scene.with_things([*scene.things, sample_thing(rng, rng.choice(scene.free_cells()))])
    thing = rng.choice(scene.things)
    return scene.changed(thing, None if kind == "missed" else _with_error(rng, thing))


def invent_edit(rng: random.Random, scene: Scene) -> Edit:
    """Return an edit of a random attribute of a random thing."""
    thing = rng.choice(scene.things)
    name = rng.choice(sorted(VALUES))
    return Edit(EDIT_OF[name], thing, sample_other_value(rng, thing, name))


def malform(rng: random.Random, content: str) -> str:
    """Return damaged JSON as models write it: with text around it (repairable), of another shape, or no JSON."""
    return rng.choice(
        (
            f"```json\n{content}\n```",
            f"Sure, here is the answer:\n{content}\nLet me know if you need anything else!",
            content[:-1] + ",}",
            json.dumps({"answer": content[:20]}),
            content.replace('"', "'").replace(":", " =", 1),
            "I looked at everything closely, and it is hard to say.",
        )
    )


def _with_error(rng: random.Random, thing: Thing) -> Thing:
    return sample_other_value(rng, thing, rng.choice(sorted(VALUES)))
