"""What goes wrong, and how often: on the line, in the form of answers, in batches, and in what is seen and said.

Whatever is wrong with an answer follows from the server's seed and the content of the request: the same request meets
the same fault however it comes. What is wrong with the line (429, 5xx, silence) is drawn anew at each try.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from transformers.hf_argparser import HfArg

from contextcir.scenes.edits import EDIT_OF, Edit
from contextcir.scenes.world import MAX_OBJECTS, VALUES, Scene, Thing, sample_thing

SECONDS = ("latency", "jitter", "retry_after", "hang", "batch_seconds")
LINE = ("rate_429", "rate_5xx", "rate_timeout")
FORM = ("refusals", "content_filter", "cut", "malformed")


def rate(help: str) -> float:
    """A field of [`Faults`] that holds a share of all cases, 0 by default."""
    return HfArg(default=0.0, help=help)


@dataclass(frozen=True)
class Faults:
    """What goes wrong; by default nothing does. Rates are shares of all cases, from 0 to 1."""

    latency: float = HfArg(default=0.0, help="Seconds that each answer takes.")
    jitter: float = HfArg(default=0.0, help="Up to so many seconds more, evenly spread.")
    rate_429: float = rate("Requests turned away for coming too fast.")
    retry_after: float = HfArg(default=0.1, help="Seconds that a 429 asks to wait (Retry-After).")
    rate_5xx: float = rate("Requests that fail with 500, 502 or 503.")
    rate_timeout: float = rate("Requests that are never answered.")
    hang: float = HfArg(default=30.0, help="Seconds after which a request without answer is cut off.")
    quota: int = HfArg(default=0, help="Answers until insufficient_quota; 0: no end.")

    refusals: float = rate("Requests that the model refuses.")
    content_filter: float = rate("Answers that a content filter withholds.")
    cut: float = rate("Answers cut in the middle.")
    malformed: float = rate("Answers that break the schema or are not JSON; about half of them can be repaired.")
    no_schema: bool = HfArg(default=False, help="Refuse json_schema, as servers without it do.")
    answering_model: str = HfArg(default="", help="Model that answers name instead of the one asked.")

    failed_batches: int = HfArg(default=0, help="So many batches fail before they start.")
    expired_batches: int = HfArg(default=0, help="So many batches, after those, expire half-way.")
    partly_failed_batches: int = HfArg(default=0, help="So many, after those, fail in every third line.")
    batch_seconds: float = HfArg(default=0.0, help="Seconds before a batch begins.")

    objects_hallucinated: float = rate("Object lists with an object that is not there.")
    objects_missed: float = rate("Objects left out of object lists.")
    objects_wrong: float = rate("Objects that object lists give a wrong attribute.")
    differences_wrong: float = rate("Differences that are made up.")
    captions_wrong: float = rate("Captions of images with an error.")
    reformulations_wrong: float = rate("Reformulations that are made up.")
    reasoning_wrong: float = rate("Descriptions of targets with an error.")
    propositions_wrong: float = rate("Propositions whose expected answer is the wrong one.")
    verification_wrong: float = rate("Yes/no answers that are the wrong one.")
    evaluation_wrong: float = rate("Verdicts that are the wrong one.")
    injection_obeyed: float = rate("Verifications and evaluations that obey words found in an image or a caption.")

    def __post_init__(self):
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(spec.default, float) and spec.name not in SECONDS and not 0 <= value <= 1:
                raise ValueError(f"{spec.name} is a share of all cases: got {value}, expected 0 to 1.")
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"{spec.name} cannot be negative: got {value}.")
        for names in (LINE, FORM):
            if sum(getattr(self, name) for name in names) > 1 + 1e-9:
                raise ValueError(f"a request meets one of these at most, but they add up to more than 1: {names}.")

    def draw(self, rng: random.Random, names: Sequence[str]) -> str:
        """One of some rates, by its name, as often as it says; otherwise an empty string."""
        luck = rng.random()
        for name in names:
            if luck < getattr(self, name):
                return name
            luck -= getattr(self, name)
        return ""


def misperceive(rng: random.Random, scene: Scene, *, hallucinated: float, missed: float, wrong: float) -> Scene:
    """A scene as seen by someone who misses things and misjudges them, each with a rate, and sees one that is not."""
    things = [thing for thing in scene.things if rng.random() >= missed] or [rng.choice(scene.things)]
    seen = scene.with_things(_misjudged(rng, thing) if rng.random() < wrong else thing for thing in things)
    free = scene.free_cells()
    if free and rng.random() < hallucinated:
        seen = seen.with_things([*seen.things, sample_thing(rng, rng.choice(free))])
    return seen


def mistake(rng: random.Random, scene: Scene) -> Scene:
    """A scene with exactly one error: something is missed, misjudged or made up."""
    kinds = ["misjudged"] + ["missed"] * (len(scene.things) > 1) + ["made up"] * (len(scene.things) < MAX_OBJECTS)
    kind = rng.choice(kinds)
    if kind == "made up":
        return scene.with_things([*scene.things, sample_thing(rng, rng.choice(scene.free_cells()))])
    thing = rng.choice(scene.things)
    return scene.changed(thing, None if kind == "missed" else _misjudged(rng, thing))


def made_up(rng: random.Random, scene: Scene) -> Edit:
    """An edit that something in a scene might undergo, asked for or not."""
    thing = rng.choice(scene.things)
    name = rng.choice(sorted(VALUES))
    return Edit(EDIT_OF[name], thing, _with_another(rng, thing, name))


def malform(rng: random.Random, content: str) -> str:
    """JSON as models spoil it: dressed up (which can be undone), of another shape, or no JSON at all."""
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


def _misjudged(rng: random.Random, thing: Thing) -> Thing:
    return _with_another(rng, thing, rng.choice(sorted(VALUES)))


def _with_another(rng: random.Random, thing: Thing, name: str) -> Thing:
    others = [value for value in VALUES[name] if value != getattr(thing, name)]
    return replace(thing, **{name: rng.choice(others)})
