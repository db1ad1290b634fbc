"""Collect the words of the grammar of modification texts: `modification_words.txt`.

    python -m research.treebank.words --data $CIR_DATA_ROOT --tagger en_core_web_sm --lexicon en-lexicon.txt

Single words and compounds, no sentences, come from captions of COCO val2017 and of the training split of FashionIQ, as
a spaCy model tags them, and from the names of the Grocery Store data set. More are the words of CLIP's vocabulary, in
its order of frequency, with their tag in the lexicon of Brill's tagger (MIT licence; textblob has it as
`en/en-lexicon.txt`). The captions of CIRR, CIRCO and the other benchmarks are not read.
"""

import gzip
import json
import re
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run

TARGET = Path(__file__).with_name("modification_words.txt")
TAGS = {"NN": 6000, "NNS": 2500, "JJ": 2500, "JJR": 120, "VB": 1200, "VBG": 900, "VBN": 900}  # most words of a tag
MIN_COUNT = 2  # of a word or compound in the captions
CLIP_MERGES = 48_894
# Vulgar words, which the vocabulary of the web has
EXCLUDED = re.compile(
    r"n\w*gg\w+|f\w*ck\w*|sh[ie]t\w*|\w*porn\w*|rap(e|es|ed|ing)|slut\w*|whor\w+|bitch\w*|cunt\w*|nude\w*"
)
# Words that are as often something else, or take the place of a noun
NOT_NOUNS = frozenset("left right same other such none lot one ones something nothing everything anything".split())


@dataclass
class Arguments:
    """Where the words come from."""

    _argument_group_name = "Words"

    data: str = HfArg(help="Folder with plugir, fashioniq, grocery_store and clip_bpe.")
    tagger: str = HfArg(help="A spaCy pipeline that tags words and finds noun chunks.")
    lexicon: str = HfArg(help="File of lines of a word and its most frequent tag.")
    captions: int = HfArg(default=25_000, help="Captions of each of COCO and FashionIQ.")


def main(argv: Sequence[str]) -> dict[str, int]:
    """Write the words. Returns the number of words with each tag."""
    (args,) = CommandParser([Arguments], "python -m research.treebank.words", __doc__).parse(argv)
    texts = training_captions(Path(args.data), args.captions)
    lexicon = read_lexicon(Path(args.lexicon))
    words, compounds = collect(tagged(args.tagger, texts), lexicon)
    add_frequent(words, lexicon, clip_words(Path(args.data)))
    compounds |= grocery_names(Path(args.data))
    lists = {tag: sorted(words[tag]) for tag in TAGS}
    lists["compound"] = sorted(c for c in compounds if not c.endswith("/NNS"))
    lists["compounds"] = sorted(c for c in compounds if c.endswith("/NNS"))
    wrapper = textwrap.TextWrapper(118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    blocks = [f"{tag}:\n{wrapper.fill(' '.join(found))}" for tag, found in lists.items()]
    TARGET.write_text("# Written by words.py\n\n" + "\n".join(blocks) + "\n", encoding="utf-8")
    return {tag: len(found) for tag, found in lists.items()}


def tagged(pipeline: str, texts: Sequence[str]) -> Iterator[Any]:
    """Return the documents of a spaCy pipeline, with tags and noun chunks."""
    import spacy

    return spacy.load(pipeline, exclude=["ner", "lemmatizer"]).pipe(texts, batch_size=256)


def training_captions(data: Path, limit: int) -> list[str]:
    """Return captions of COCO val2017 and of the training split of FashionIQ, without repeats."""
    coco = [
        text
        for row in json.loads((data / "plugir/Protocol/coco_captions.json").read_text())
        for text in row["caption"]
    ]
    return [*dict.fromkeys(coco)][:limit] + fashioniq_captions(data)[:limit]


def fashioniq_captions(data: Path) -> list[str]:
    """Return the captions of the training split of FashionIQ, categories in turn, without repeats."""
    files = [
        json.loads((data / f"fashioniq/captions/cap.{name}.train.json").read_text())
        for name in ("dress", "shirt", "toptee")
    ]
    return list(
        dict.fromkeys(text.strip() for rows in zip(*files, strict=False) for row in rows for text in row["captions"])
    )


def read_lexicon(path: Path) -> dict[str, str]:
    """Read `word tag` lines. Comments begin with a semicolon."""
    pairs = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(";"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def collect(documents: Iterable[Any], lexicon: dict[str, str]) -> tuple[dict[str, set[str]], set[str]]:
    """Return the words of tagged documents by tag, and compounds as `tennis/NN_player/NN`. A word counts for a tag
    that it has half of the time, and in the lexicon, if it is there."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    compounds: Counter[str] = Counter()
    for document in documents:
        for token in document:
            counts[token.lower_][token.tag_] += 1
        for chunk in document.noun_chunks:
            first = chunk.end
            while first > chunk.start and document[first - 1].tag_ in ("NN", "NNS"):
                first -= 1
            tail = document[first : chunk.end]
            if len(tail) in (2, 3) and all(_is_word(token.lower_) for token in tail):
                compounds["_".join(f"{token.lower_}/{token.tag_}" for token in tail)] += 1
    words: dict[str, set[str]] = defaultdict(set)
    for word, tags in counts.items():
        tag, count = tags.most_common(1)[0]
        if count >= MIN_COUNT and count > tags.total() / 2 and _is_word(word) and lexicon.get(word, tag) == tag:
            words[tag].add(word)
    known = words["NN"] | words["NNS"] | words["VBG"] | words["JJ"]
    return words, {
        c for c, count in compounds.items() if count >= MIN_COUNT and c.split("_")[-1].split("/")[0] in known
    }


def add_frequent(words: dict[str, set[str]], lexicon: dict[str, str], frequent: Iterable[str]) -> None:
    """Add words, the frequent ones first, with their tag in the lexicon, until [`TAGS`] are full."""
    for word in frequent:
        tag = {"VBD": "VBN", "VBP": "VB"}.get(lexicon.get(word, ""), lexicon.get(word, ""))
        if tag in TAGS and len(words[tag]) < TAGS[tag] and _is_word(word):
            words[tag].add(word)


def clip_words(data: Path) -> list[str]:
    """Return the whole words of CLIP's vocabulary, the frequent ones first."""
    with gzip.open(data / "clip_bpe/bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as lines:
        merges = [line.split() for line in lines][1 : CLIP_MERGES + 1]
    return [(left + right)[: -len("</w>")] for left, right in merges if right.endswith("</w>")]


def grocery_names(data: Path) -> set[str]:
    """Return the names of two or three words of the Grocery Store classes as compounds."""
    rows = (data / "grocery_store/dataset/classes.csv").read_text(encoding="utf-8").splitlines()[1:]
    names = [row.split(",")[0].lower().split("-") for row in rows]
    return {
        "_".join(f"{word}/NN" for word in name) for name in names if len(name) in (2, 3) and all(map(_is_word, name))
    }


def _is_word(word: str) -> bool:
    return bool(re.fullmatch("[a-z]{3,14}", word)) and word not in NOT_NOUNS and not EXCLUDED.fullmatch(word)


if __name__ == "__main__":
    sys.exit(run(main, "python -m research.treebank.words"))
