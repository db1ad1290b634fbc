"""Kept captions as data: good4cir's `dataset.json`, and triplets of the project's contract with where they come from.

A caption is a triplet of its own; good4cir's joined captions are further ones. Imported by whoever writes a data set,
and not before: `datasets` and the triplets' torch take more memory than all the rest of a run.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Features, List, Value

from contextcir.captions.joining import join_captions
from contextcir.captions.pipeline import PairResult
from contextcir.captions.stages import Caption
from contextcir.data.images import encoded_file
from contextcir.data.pairs import Pair
from contextcir.data.triplets import TRIPLET_FEATURES

PAIRS_PER_PASS = 200  # whose texts are parsed together

GENERATED_FEATURES = Features(
    TRIPLET_FEATURES
    | {
        "pair_id": Value("string"),
        "original_caption": Value("string"),
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

    Args:
        results (`Iterable[PairResult]`): Of all pairs.
        path (`Path`): Images are called by their ids, which by default are the paths or URLs that were given.
    """
    with open(path, "w", encoding="utf-8") as file:
        separator = "[\n"
        for result in results:
            if captions := result.kept:
                entry = {"reference_image": result.reference_id, "target_image": result.target_id}
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
        pairs (`Iterable[Pair]`): With their images on disk or inside.
        results (`Iterable[PairResult]`): Of each; those that were kept had images that can be read.
        extract (`Callable`): Texts -> the noun phrases of each.
        recipe (`str`): For the column of that name.
        prompts (`str`): Hash of the prompts, likewise.
        largest_join (`int`): Most captions in one text.

    Yields:
        `dict`: Rows of `GENERATED_FEATURES`, never more than those of `PAIRS_PER_PASS` pairs at a time.
    """
    kept = ((pair, result) for pair, result in zip(pairs, results, strict=True) if not result.reason)
    while some := list(islice(kept, PAIRS_PER_PASS)):
        texts = [_texts(result, largest_join) for _, result in some]
        phrases = iter(extract([text for ones in texts for text, _ in ones]))
        for (pair, result), ones in zip(some, texts, strict=True):
            images = {
                "reference_image": encoded_file(pair.reference_image),
                "target_image": encoded_file(pair.target_image),
            }
            shared = images | _provenance(result) | {"recipe": recipe, "prompts": prompts}
            for number, (text, captions) in enumerate(ones):
                yield shared | {
                    "id": f"{result.id}-{number}",
                    "modification_text": text,
                    "noun_phrases": next(phrases),
                    "num_changes": len(captions),
                    "operations": [caption.operation for caption in captions if caption.operation],
                }


def _texts(result: PairResult, largest_join: int) -> list[tuple[str, list[Caption]]]:
    """The texts of a pair and the captions that each is made of, single ones first."""
    captions = result.kept
    joined = join_captions(captions, largest=largest_join, seed=result.id)
    singles = [(caption.text, [caption]) for caption in captions]
    return singles + [(text, [captions[place] for place in places]) for text, places in joined]


def _provenance(result: PairResult) -> dict[str, Any]:
    return {
        "pair_id": result.id,
        "reference_id": result.reference_id,
        "target_id": result.target_id,
        "original_caption": result.original_caption,
        "model": result.stages[-1]["model"],
        "requests": [stage["request_id"] for stage in result.stages],
    }
