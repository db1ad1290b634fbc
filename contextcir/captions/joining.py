"""Several captions of a pair in one text: more triplets, of increasing complexity, without a model.

The last step of good4cir (ConText-CIR, section 3.3: "concatenating multiple text modifiers into increasingly complex
queries"). How many, and in what words, the paper does not say: here there is one text for each number of changes up
to a largest, of captions drawn at random and kept in their order, as sentences or with "and" as people would.
"""

import random
import re
from collections.abc import Sequence

from contextcir.captions.stages import Caption

MAX_WORDS = 60  # of a joined text; CLIP's text encoder ends at 77 tokens
# Two sentences, or one that is no request ("the sofa should be blue"): "and" would join what does not go together.
NO_CLAUSE = re.compile(
    r"[.;]|^(?:the|an?|this|that|these|those|there|it|no|all|every|both|in|on|at|with)\b", re.IGNORECASE
)


def join_captions(captions: Sequence[Caption], *, largest: int, seed: str) -> list[tuple[str, tuple[int, ...]]]:
    """
    Join 2, 3, ... captions into one text each.

    Args:
        captions (`Sequence[Caption]`): Of one pair, each one change.
        largest (`int`): Most captions in a text; below 2 there are no texts.
        seed (`str`): Same seed, same texts, such as the pair's id.

    Returns:
        `list[tuple[str, tuple[int, ...]]]`: Texts of at most `MAX_WORDS` words, and the captions that each is made of.
    """
    rng, joined = random.Random(seed), []
    for count in range(2, min(largest, len(captions)) + 1):
        places = tuple(sorted(rng.sample(range(len(captions)), count)))
        text = _join([captions[place].text for place in places], rng)
        if len(text.split()) <= MAX_WORDS:
            joined.append((text, places))
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
    """A caption begins with a verb, or with a name such as TV that stays as it is."""
    return clause[:1].lower() + clause[1:] if clause.split()[0][1:].islower() else clause
