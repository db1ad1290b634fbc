"""Self-training: trees of real captions on whose noun phrases two parsers agree.

    python -m research.treebank.agreement --data $CIR_DATA_ROOT --second en_core_web_sm --output runs/agreed.ptb.gz

A caption is kept, with the tree of the first parser, where the leaf noun phrases of that tree are the noun chunks of a
spaCy pipeline. The captions are those of COCO val2017 and of the training split of FashionIQ, so the file is not part
of the project, and no benchmark's test captions are read.
"""

import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.phrases.concepts import is_concept
from research.treebank.trees import Tree, to_brackets
from research.treebank.words import tagged, training_captions

MIN_WORDS, MAX_WORDS = 2, 25


@dataclass
class Arguments:
    """Which captions, and which parsers."""

    _argument_group_name = "Agreement"

    data: str = HfArg(help="Folder with plugir and fashioniq.")
    second: str = HfArg(help="A spaCy pipeline that finds noun chunks.")
    output: str = HfArg(help="File for the trees, one a line, .ptb.gz.")
    parser: str | None = HfArg(default=None, help="First parser; by default the shipped one.")
    captions: int = HfArg(default=20_000, help="Captions of each of COCO and FashionIQ.")


def main(argv: Sequence[str]) -> dict[str, int]:
    """Write the trees. Returns the number of captions and of trees."""
    (args,) = CommandParser([Arguments], "python -m research.treebank.agreement", __doc__).parse(argv)
    import torch

    from contextcir.phrases.extractor import NounPhraseExtractor

    torch.set_num_threads(1)
    texts = [
        text.strip() for text in training_captions(Path(args.data), args.captions) if not set(text) & set("()[]<>")
    ]
    texts = [text for text in texts if MIN_WORDS <= len(text.split()) <= MAX_WORDS]
    extractor = NounPhraseExtractor(args.parser, max_phrases=1000, leaf_only=True)
    found = zip(texts, tagged(args.second, texts), extractor.extract(texts), strict=True)
    agreed = [text for text, document, phrases in found if spans(phrases) == chunks(document)]
    trees = [sentences[0] for sentences in extractor.parse(agreed) if len(sentences) == 1]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(args.output, "wt", encoding="utf-8") as file:
        file.writelines(to_brackets(plain(tree)) + "\n" for tree in trees)
    return {"captions": len(texts), "trees": len(trees)}


def spans(phrases: Sequence[dict[str, Any]]) -> set[tuple[int, int]]:
    """Return the character spans of phrases."""
    return {(phrase["start"], phrase["end"]) for phrase in phrases}


def chunks(document: Any) -> set[tuple[int, int]]:
    """Return the character spans of the noun chunks of a spaCy document that are concepts. Of a possessive it is that
    of the owner, as in a tree."""
    found = set()
    for chunk in document.noun_chunks:
        tokens = list(chunk)
        owner = next((place for place, token in enumerate(tokens) if token.tag_ == "POS"), len(tokens))
        owned = document[chunk.start : chunk.start + owner] if owner else chunk
        if is_concept(owned.text):
            found.add((owned.start_char, owned.end_char))
    return found


def plain(tree: Any) -> Tree:
    """Return an nltk tree as nested tuples."""
    if len(tree) == 1 and isinstance(tree[0], str):
        return (tree.label(), tree[0])
    return (tree.label(), [plain(child) for child in tree])


if __name__ == "__main__":
    sys.exit(run(main, "python -m research.treebank.agreement"))
