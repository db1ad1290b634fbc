"""Kept captions as data: good4cir's `dataset.json`, and triplets with their provenance.

Each caption is one triplet. The last step of good4cir (ConText-CIR, section 3.3) makes further ones without a model:
"concatenating multiple text modifiers into increasingly complex queries". The paper gives no numbers and no wording.
Here each pair gets one text for each number of changes up to a maximum. Its captions are drawn at random, and joined
in their order as sentences or by "and".

Import this module only to write a data set: `datasets` and torch take more memory than the rest of a run.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Features, List, Value

from contextcir.captions.pipeline import PairResult
from contextcir.captions.stages import Caption
from contextcir.data.images import encoded_file
from contextcir.data.pairs import Pair
from contextcir.data.triplets import TRIPLET_FEATURES

PAIRS_PER_PASS = 200  # whose texts are parsed together
JOINED_WORDS = 60  # of a joined text; CLIP's text encoder ends at 77 tokens
# Two sentences, or one that is no request ("the sofa should be blue"): these cannot be joined by "and".
NO_CLAUSE = re.compile(
    r"[.;]|^(?:the|an?|this|that|these|those|there|it|no|all|every|both|in|on|at|with)\b", re.IGNORECASE
)

GENERATED_FEATURES = Features(
    TRIPLET_FEATURES
    | {
        "pair_id": Value("string"),
        "original_caption": Value("string"),
        "similarity": Value("float32"),
        "num_changes": Value("int32"),
        "operations": List(Value("string")),
        "recipe": Value("string"),
        "model": Value("string"),
        "prompts": Value("string"),
        "requests": List(Value("string")),
    }
)


def write_good4cir(results: Iterable[PairResult], path: Path) -> None:
    """
    Write kept captions in good4cir's format: a list of `reference_image`, `target_image`, `difference_captions`.

    Images are named by their ids, which by default are the paths or URLs that were given.
    """
    with open(path, "w", encoding="utf-8") as file:
        separator = "[\n"
        for result in results:
            if captions := result.kept:
                entry: dict[str, Any] = {"reference_image": result.reference_id, "target_image": result.target_id}
                entry["difference_captions"] = [caption.text for caption in captions]
                file.write(separator + json.dumps(entry, ensure_ascii=False, indent=1))
                separator = ",\n"
        file.write("\n]\n" if separator == ",\n" else "[]\n")


def triplet_rows(
    pairs: Iterable[Pair],
    results: Iterable[PairResult],
    extract: Callable[[list[str]], list[list[dict]]],
    *,
    recipe: str,
    prompts: str,
    largest_join: int,
) -> Iterator[dict[str, Any]]:
    """
    Make triplets.

    Args:
        pairs (`Iterable[Pair]`): Pairs with their images on disk or in memory.
        results (`Iterable[PairResult]`): The result of each pair.
        extract (`Callable`): Finds the noun phrases of each text.
        recipe (`str`): The recipe, for the column of that name.
        prompts (`str`): The hash of its prompts, likewise.
        largest_join (`int`): The most captions in one text.

    Yields:
        `dict`: Rows of `GENERATED_FEATURES`. At most those of `PAIRS_PER_PASS` pairs are in memory.
    """
    kept = ((pair, result) for pair, result in zip(pairs, results, strict=True) if not result.reason)
    while some := list(islice(kept, PAIRS_PER_PASS)):
        texts = [_texts(result, largest_join) for _, result in some]
        phrases = iter(extract([text for ones in texts for text, _ in ones]))
        for (pair, result), ones in zip(some, texts, strict=True):
            shared = {
                "reference_image": encoded_file(pair.reference_image),
                "target_image": encoded_file(pair.target_image),
                "pair_id": result.id,
                "reference_id": result.reference_id,
                "target_id": result.target_id,
                "original_caption": result.original_caption,
                "similarity": pair.similarity,
                "model": result.stages[-1]["model"],
                "requests": [stage["request_id"] for stage in result.stages],
                "recipe": recipe,
                "prompts": prompts,
            }
            for number, (text, captions) in enumerate(ones):
                yield shared | {
                    "id": f"{result.id}-{number}",
                    "modification_text": text,
                    "noun_phrases": next(phrases),
                    "num_changes": len(captions),
                    "operations": [caption.operation for caption in captions if caption.operation],
                }


def _texts(result: PairResult, largest_join: int) -> list[tuple[str, list[Caption]]]:
    """Return the texts of a pair and the captions in each, single captions first."""
    singles = [(caption.text, [caption]) for caption in result.kept]
    return singles + join_captions(result.kept, largest=largest_join, seed=result.id)


def join_captions(captions: Sequence[Caption], *, largest: int, seed: str) -> list[tuple[str, list[Caption]]]:
    """
    Join 2, 3, ... captions into one text each.

    Args:
        captions (`Sequence[Caption]`): Captions of one pair, one change each.
        largest (`int`): The most captions in a text; below 2 nothing is joined.
        seed (`str`): Seed of the draw, such as the pair's id.

    Returns:
        `list[tuple[str, list[Caption]]]`: Texts of at most `JOINED_WORDS` words, and the captions in each.
    """
    rng, joined = random.Random(seed), []
    for count in range(2, min(largest, len(captions)) + 1):
        drawn = [captions[place] for place in sorted(rng.sample(range(len(captions)), count))]
        text = _join([caption.text for caption in drawn], rng)
        if len(text.split()) <= JOINED_WORDS:
            joined.append((text, drawn))
    return joined


def _join(texts: Sequence[str], rng: random.Random) -> str:
    clauses = [text.rstrip(" .,;!") for text in texts]
    if rng.random() < 0.5 or any(NO_CLAUSE.search(clause) for clause in clauses):
        return ". ".join(clause[:1].upper() + clause[1:] for clause in clauses) + "."
    first, *others = clauses
    others = [_lower_start(clause) for clause in others]
    last = f" and {others[-1]}" if len(clauses) == 2 else f", and {others[-1]}"
    return ", ".join([first, *others[:-1]]) + last


def _lower_start(clause: str) -> str:
    """A caption begins with a verb, or with a name such as TV, which keeps its capitals."""
    return clause[:1].lower() + clause[1:] if clause.split()[0][1:].islower() else clause
