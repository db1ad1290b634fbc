"""Training examples of a reformulator, each two captions and the change between them: read, filter and split them.

InstructCIR (arXiv 2504.00812, section II-A) fine-tunes its own reformulator on texts of a stronger model, or on those
of a supervised data set (its "GT" variant). Examples pass the same gates as the texts of a reformulator, so that it
does not learn to write texts that are dropped later.
"""

import json
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextcir.captions.gates import MAX_WORDS, is_empty, same_words, text_problem
from contextcir.chat.prompts import Prompt
from contextcir.data.dataset_cache import cache_of

COLUMNS = ("caption_a", "caption_b", "modification_text")
PAIRS_COLUMNS = {"reference", "target", "captions", "reason"}  # of `pairs.jsonl`, besides the ids


@dataclass(frozen=True)
class Example:
    """
    A training example.

    Args:
        caption_a (`str`): Caption of the reference image.
        caption_b (`str`): Caption of the target image.
        modification_text (`str`): The change from the first to the second.
    """

    caption_a: str
    caption_b: str
    modification_text: str


def read_examples(source: str, split: str = "train") -> list[Example]:
    """
    Read examples, without filtering them.

    Args:
        source (`str`): A `.jsonl` file with the columns `caption_a`, `caption_b` and `modification_text`;
            `pairs.jsonl` from `contextcir generate --recipe instructcir`; or a folder or Hub name of a dataset with
            these columns.
        split (`str`, defaults to `"train"`): Split of a dataset.

    Raises:
        ValueError: There are no examples, a line is not a JSON object, a column is missing or holds something else
            than text, or the captions are of another recipe.
    """
    rows = _lines(Path(source)) if source.endswith(".jsonl") else enumerate(_dataset(source, split), 1)
    examples = [example for number, row in rows for example in _read(row, f"{source}, row {number}")]
    if not examples:
        raise ValueError(f"{source} holds no examples. Give rows with {', '.join(COLUMNS)}.")
    return examples


def _dataset(source: str, split: str) -> Iterable[dict[str, Any]]:
    from datasets import exceptions, load_dataset  # imported here, since a file of lines does not need it

    try:
        return load_dataset(source, split=split, cache_dir=cache_of(source)).to_iterable_dataset()
    except (exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"{source!r} is neither a .jsonl file nor a folder or Hub name of a dataset that can be read ({error})."
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would split inside of texts
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, row {number} is not JSON: {error}") from None


def _read(row: Any, where: str) -> Iterator[Example]:
    """Yield the examples of a row: one, or one for each kept caption of a row of `pairs.jsonl`."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with {', '.join(COLUMNS)}, got {type(row).__name__}.")
    if row.keys() >= PAIRS_COLUMNS:
        captions = [] if row["reason"] else row["captions"]
        texts = [caption["text"] for caption in captions if caption["dropped"] is None]
        values = [(row["reference"], row["target"], text) for text in texts]
    elif missing := [name for name in COLUMNS if name not in row]:
        raise ValueError(f"{where}: {', '.join(missing)} missing, there are {', '.join(row)}.")
    else:
        values = [(row["caption_a"], row["caption_b"], row["modification_text"])]
    for one in values:
        for name, value in zip(COLUMNS, one, strict=True):
            if not isinstance(value, str):
                hint = " Only the recipe instructcir writes captions of images." if isinstance(value, list) else ""
                raise ValueError(f"{where}: {name} is {type(value).__name__}, expected text.{hint}")
        a, b, text = one
        yield Example(a.strip(), b.strip(), " ".join(text.split()))


def judge_examples(
    examples: Iterable[Example], prompts: Collection[Prompt] = ()
) -> tuple[list[Example], dict[str, int]]:
    """
    Remove examples that should not be learned.

    Args:
        examples (`Iterable[Example]`): All examples.
        prompts (`Collection[Prompt]`): Prompts that the texts must not repeat.

    Returns:
        `tuple[list[Example], dict[str, int]]`: The kept examples, and the number of removed ones by reason:
        `empty_caption`, `same_captions`, `repeated`, or the gate that the text fails (`length`: not 2 to 12 words).
    """
    kept: dict[Example, None] = {}
    left_out: Counter[str] = Counter()
    for example in examples:
        captions = (example.caption_a, example.caption_b)
        problem: str | None
        if any(map(is_empty, captions)):
            problem = "empty_caption"
        elif same_words(*captions):
            problem = "same_captions"
        elif example in kept:
            problem = "repeated"
        else:
            problem = text_problem(example.modification_text, MAX_WORDS["instructcir"], prompts, captions)
        if problem:
            left_out[problem] += 1
        else:
            kept[example] = None
    return list(kept), dict(left_out.most_common())


def split_examples(examples: Sequence[Example], fraction: float, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """
    Hold out examples at random. Examples of the same two captions, in either order, stay together.

    Args:
        examples (`Sequence[Example]`): All examples.
        fraction (`float`): Share of the pairs of captions to hold out, in (0, 1); at least one pair on each side.
        seed (`int`, defaults to 0): Seed of the draw.

    Returns:
        `tuple[list[Example], list[Example]]`: Training examples and held-out examples.

    Raises:
        ValueError: All examples are of one pair of captions.
    """
    groups: dict[frozenset[str], list[Example]] = {}
    for example in examples:
        groups.setdefault(frozenset((example.caption_a, example.caption_b)), []).append(example)
    if len(groups) < 2:
        raise ValueError(f"All {len(examples)} examples are of one pair of captions: none can be held out. Add more.")
    drawn = list(groups.values())
    random.Random(seed).shuffle(drawn)
    count = min(max(1, round(fraction * len(drawn))), len(drawn) - 1)
    held_out, learned = ([example for group in some for example in group] for some in (drawn[:count], drawn[count:]))
    return learned, held_out
