"""Which noun phrases are concepts: names of something that an image can show.

A phrase that only names the picture ("the target photo"), a pronoun ("the other one") or an amount without a thing
("a pair", in "a pair of boots") has nothing to attend to. A phrase with such a part and a thing ("a close-up of a
dog") is a concept. The lists are closed and in English.
"""

import re
from collections.abc import Sequence

# Pronouns, existential "there", determiners, and words that join them ("one of them", "all of the other")
FUNCTION_WORDS = frozenset(
    """a an the i me you he him she her it we us they them my your his its our their myself yourself himself herself
    itself ourselves themselves mine yours hers ours theirs this that these those who whom whose which what whatever
    there here something anything nothing everything someone anyone everyone somebody anybody nobody everybody none
    one ones another other others each either neither both all some any many few several more most less least fewer
    much enough else same such no only just about of""".split()
)
# Adverbs that parsers take for nouns if they stand alone ("facing left"; "the left" is a place)
ADVERBS = frozenset(
    """left right instead now then away also too not up down out off only outside inside together apart again must
    should would could can will forward forwards backward backwards sideways""".split()
)
# Words for the pictures themselves, and what is said of them without naming a thing in them
PICTURES = frozenset(
    """image images picture pictures pic pics photo photos photograph photographs photography shot shots snapshot
    snapshots closeup closeups close target""".split()
)
OF_PICTURES = frozenset(
    """up view views close closer longer target reference source original query candidate given first second new
    current next previous final desired resulting edited modified entire whole full angle wide zoomed old""".split()
)
# Amounts, which name nothing without what they are amounts of
AMOUNTS = frozenset(
    """amount amounts number numbers quantity pair pairs couple lot lots bit piece pieces rest remainder half majority
    plenty dozen dozens hundred hundreds thousand thousands two three four five six seven eight nine ten eleven
    twelve""".split()
)
OF_AMOUNTS = frozenset(
    "large larger small smaller great greater little equal different similar extra additional".split()
)

# Verbs of change that begin a command. The second ones are nouns as often: they are verbs at the start of a text only
COMMANDS = frozenset(
    """add attach change convert crop delete erase exclude extend fill focus get give have hang include increase insert
    install keep make modify move put reduce remove replace rotate show shows swap take transform use zoom""".split()
)
COMMANDS_AT_START = COMMANDS | frozenset("cut display place set switch target turn".split())
OPEN_CLAUSES = frozenset(", ; . : and then".split())
PARTICLES = frozenset("on to up off out in with of".split())


def is_concept(phrase: str) -> bool:
    """
    Return whether a phrase may name something in an image.

    ```python
    >>> [is_concept(phrase) for phrase in ("the dog", "the target photo", "the other one", "a pair", "a close-up")]
    [True, False, False, False, False]
    ```
    """
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", phrase.lower())
    if not words or (len(words) == 1 and words[0] in ADVERBS):
        return False
    rest = [word for word in words if word not in FUNCTION_WORDS]
    names_picture = any(word in PICTURES for word in rest) and all(word in PICTURES | OF_PICTURES for word in rest)
    is_amount = all(word in AMOUNTS or word.isdigit() for word in rest) or (
        rest[-1] in AMOUNTS and all(word in AMOUNTS | OF_AMOUNTS for word in rest)
    )
    return not names_picture and not is_amount


def without_command(words: Sequence[str], start: int, end: int) -> int:
    """
    Return where a phrase begins without the command in front of it, which parsers take for a noun now and then ("add"
    in "add windows").

    Args:
        words (`Sequence[str]`): The words of a sentence, in small letters. A sentence of one word is no command.
        start (`int`): First word of the phrase.
        end (`int`): The word after its last one.

    Returns:
        `int`: The new first word, `end` if nothing is left.
    """
    commands = COMMANDS_AT_START if start == 0 else COMMANDS
    opens = start == 0 or words[start - 1] in OPEN_CLAUSES
    if len(words) == 1 or not opens or words[start] not in commands:
        return start
    start += 1
    while start < end and words[start] in PARTICLES:
        start += 1
    return start


def conjuncts(tags: Sequence[str]) -> list[tuple[int, int]]:
    """
    Split a flat phrase at its conjunctions: "white pants and shoes" into "white pants" and "shoes".

    Treebanks coordinate bare nouns without brackets around each. The words before the first noun go with it, and
    coordinated adjectives ("black and white dogs") stay together.

    Args:
        tags (`Sequence[str]`): Penn tags of the words of a phrase without a phrase inside.

    Returns:
        `list[tuple[int, int]]`: `(start, end)` of each conjunct, empty if there are fewer than two.
    """
    if "CC" not in tags:
        return []
    found, start = [], 0
    for place, tag in enumerate([*tags, "CC"]):
        if tag not in ("CC", ","):
            continue
        if place > start and tags[place - 1].startswith("NN"):
            found.append((start, place))
            start = place + 1
        elif place == start:  # the comma before "and"
            start = place + 1
    return found if len(found) > 1 and found[-1][1] == len(tags) else []
