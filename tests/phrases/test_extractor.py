"""Noun phrases: order, rules and exact spans with scripted trees, robustness and options with tiny random parsers."""

import json
import os
from functools import cache
from pathlib import Path

import pytest

from contextcir.phrases.chart_parser import save_parser
from contextcir.phrases.extractor import NounPhraseExtractor
from tests.tiny_parser import tiny_parser

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")
nltk = pytest.importorskip("nltk")
spacy = pytest.importorskip("spacy")


@pytest.fixture(scope="module", autouse=True)
def one_tokenizer():
    """All extractors share spaCy's tokenizer, which takes 0.1 s to build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spacy, "blank", cache(spacy.blank))
        yield


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("parser") / "tiny.pt"
    save_parser(tiny_parser(), path)
    return path


TAGS = "NN NNS VB VBZ JJ DT IN CC , . : `` '' CD RB PRP EX POS".split()


@pytest.fixture
def scripted(tiny_path, monkeypatch):
    """A function that builds an extractor whose parser returns the given trees, one for each sentence."""
    from benepar.parse_base import CompressedParserOutput

    def build(*trees, **options):
        extractor = NounPhraseExtractor(tiny_path, **options)
        trees = [nltk.Tree.fromstring(f"(TOP {tree})") for tree in trees]

        def parse(sentences, **_):
            for sentence, tree in zip(sentences, trees, strict=True):
                assert sentence.words == tree.leaves()
            tags = {tag: place for place, tag in enumerate(TAGS)}
            monkeypatch.setattr(extractor.parser, "tag_from_index", dict(enumerate(TAGS)))
            return [CompressedParserOutput.from_tree(tree, extractor.parser.label_vocab, tags) for tree in trees]

        monkeypatch.setattr(extractor.parser, "parse", parse)
        return extractor

    return build


def texts_of(phrases):
    return [phrase["text"] for phrase in phrases]


GREENERY = """(S (VP (VB swap) (NP (NP (DT the) (NN circle)) (PP (IN left) (IN of) (NP (DT the) (NN star))))
    (PP (IN for) (NP (DT a) (NN square)))) (. .))"""


def test_branches_come_before_leaves_with_exact_spans(scripted):
    text = "swap the circle left of the star for a square."
    (phrases,) = scripted(GREENERY).extract([text])
    # depth of a square: S VP PP NP; of "the circle": S VP NP NP; of "the star": one deeper
    assert texts_of(phrases) == ["the circle left of the star", "the circle", "a square", "the star"]
    assert phrases[0] == {"text": "the circle left of the star", "start": 5, "end": 32}
    assert all(text[p["start"] : p["end"]] == p["text"] for p in phrases)


def test_at_most_max_phrases(scripted):
    text = "swap the circle left of the star for a square."
    assert texts_of(scripted(GREENERY, max_phrases=2).extract([text])[0]) == [
        "the circle left of the star",
        "the circle",
    ]
    with pytest.raises(ValueError, match="max_phrases=0"):
        scripted(GREENERY, max_phrases=0)


def test_leaf_only(scripted):
    text = "swap the circle left of the star for a square."
    assert texts_of(scripted(GREENERY, leaf_only=True).extract([text])[0]) == ["the circle", "a square", "the star"]


def test_leaf_only_looks_at_all_phrases_before_cutting(scripted):
    text = "swap the circle left of the star for a square."
    assert texts_of(scripted(GREENERY, leaf_only=True, max_phrases=1).extract([text])[0]) == ["the circle"]


def test_phrases_of_several_sentences_are_ordered_together(scripted):
    first = "(S (VP (VB Add) (NP (NP (DT a) (NN dog)) (PP (IN with) (NP (DT a) (NN hat))))) (. .))"
    second = "(S (VP (VB Remove) (NP (DT the) (NN cat))) (. .))"
    text = "Add a dog with a hat.  Remove the cat."
    (phrases,) = scripted(first, second).extract([text])
    assert texts_of(phrases) == ["a dog with a hat", "the cat", "a dog", "a hat"]
    assert phrases[1]["start"] == text.index("the cat")


def test_a_line_break_ends_a_sentence(scripted):
    extractor = scripted("(S (VP (VB Add) (NP (DT a) (NN dog))))", "(S (VP (VB Remove) (NP (DT the) (NN cat))))")
    assert texts_of(extractor.extract(["Add a dog\nRemove the cat"])[0]) == ["a dog", "the cat"]


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ("(S (NP (PRP It)) (VP (VBZ is) (ADVP (RB dark))))", "It is dark"),
        ("(S (NP (EX there)) (VP (VBZ is) (ADVP (RB light))))", "there is light"),
        ("(S (VP (VB face) (NP (NN left))))", "face left"),
        ("(S (VP (VB show) (NP (DT the))))", "show the"),
        ("(S (VP (VB show) (NP (DT The) (JJ other) (CD one))))", "show The other one"),
        ("(S (VP (VB show) (NP (: ...))))", "show ..."),
        ("(S (VP (VB show) (NP (NN 🙂))))", "show 🙂"),
    ],
)
def test_phrases_that_name_nothing_are_left_out(scripted, tree, text):
    assert scripted(tree).extract([text]) == [[]]


PICTURE = (
    "(S (NP (DT The) (NN target) (NN photo)) (VP (VBZ shows) (NP (NP (DT a) (NN pair)) (PP (IN of) (NP (PRP it))))))"
)


def test_phrases_that_are_no_concepts_on_demand(scripted):
    text = "The target photo shows a pair of it"
    assert scripted(PICTURE).extract([text]) == [[]]
    everything = texts_of(scripted(PICTURE, concepts_only=False).extract([text])[0])
    assert everything == ["The target photo", "a pair of it", "a pair", "it"]


def test_conjuncts_of_a_flat_phrase_are_phrases_in_it(scripted):
    tree = "(S (VP (VB add) (NP (JJ white) (NNS pants) (, ,) (NNS hats) (CC and) (NNS shoes))))"
    text = "add white pants , hats and shoes"
    inside = ["white pants", "hats", "shoes"]
    assert texts_of(scripted(tree).extract([text])[0]) == ["white pants , hats and shoes", *inside]
    assert texts_of(scripted(tree, leaf_only=True).extract([text])[0]) == inside
    nested = "(NP (NP (DT a) (NN hat)) (CC and) (NP (DT a) (NN shoe)))"
    assert texts_of(scripted(nested).extract(["a hat and a shoe"])[0]) == ["a hat and a shoe", "a hat", "a shoe"]


def test_a_command_is_no_part_of_a_phrase(scripted):
    tree = "(S (NP (NP (NN Fill) (NNS cups)) (PP (IN with) (NP (NN tea)))) (. .))"
    assert texts_of(scripted(tree).extract(["Fill cups with tea ."])[0]) == ["cups with tea", "cups", "tea"]


def test_a_side_is_a_concept(scripted):
    assert texts_of(
        scripted("(S (VP (VB move) (PP (IN to) (NP (DT the) (NN left)))))").extract(["move to the left"])[0]
    )


def test_phrases_lose_punctuation_and_possessives_at_their_ends(scripted):
    tree = """(S (VP (VB Add) (NP (`` ") (NP (NP (DT the) (NN man) (POS 's)) (NN hat)) (, ,) ('' ")) ))"""
    (phrases,) = scripted(tree).extract(['Add "the man\'s hat,"'])
    assert texts_of(phrases) == ["the man's hat", "the man"]  # the outer two are the same span


def test_a_span_occurs_once(scripted):
    assert texts_of(scripted("(NP (NP (DT the) (NN dog)))").extract(["the dog"])[0]) == ["the dog"]


HOSTILE = [
    "",
    " ",
    "\n\t\r\n",
    "?!... —",
    "😀 👩‍👩‍👧 🏳️‍🌈",
    "the na\u00efve cafe\u0301 and the 犬 in the کتابخانه",
    "the  red\u00a0dog\u200b ,with   spaces",
    "\x00\x01 the \ufeff dog \ud7ff",
    "x" * 10_000,
    "a dog \ud83d and a cat",  # a lone surrogate
    "the dog and " * 300,
    "?" * 10_000,  # spaCy alone would take ten seconds
    "(the dog) [the cat] {it} -LRB- http://a.b/c?d=e#f @you #tag 50% $5",
    "Don't remove the dogs' toys; it's the cat’s!",
    "1.5 m. tall e.g. a tree. Mr. Smith's hat.",
]


def test_any_text_gives_exact_spans(tiny_path):
    extractor = NounPhraseExtractor(tiny_path)
    found = extractor.extract(HOSTILE)
    assert sum(map(len, found)) > 20  # a random parser finds phrases everywhere
    for text, phrases in zip(HOSTILE, found, strict=True):
        assert len(phrases) <= 10
        assert len({(p["start"], p["end"]) for p in phrases}) == len(phrases)
        for phrase in phrases:
            assert 0 <= phrase["start"] < phrase["end"] <= len(text)
            assert phrase["text"] == text[phrase["start"] : phrase["end"]]
            assert phrase["text"] == phrase["text"].strip(" \n\t.,;:!?()[]")
    assert found[:4] == [[]] * 4 and found[11] == [] and found[8] == []


def test_items_that_are_not_texts_are_named(tiny_path):
    extractor = NounPhraseExtractor(tiny_path)
    with pytest.raises(TypeError, match="Text 1 .*None.*NoneType"):
        extractor.extract(["the dog", None])
    with pytest.raises(TypeError, match="'the dog'"):
        extractor.parse("the dog")


def test_batches_do_not_change_the_phrases(tiny_path):
    extractor = NounPhraseExtractor(tiny_path)
    texts = [text for text in HOSTILE if len(text) < 100] * 2
    assert extractor.extract(texts) == [extractor.extract([text])[0] for text in texts]
    assert extractor.extract([]) == []


def test_long_sentences_are_cut_at_punctuation(tiny_path):
    extractor = NounPhraseExtractor(tiny_path)
    words = ["dog"] * 70 + [","] + ["cat"] * 70
    lengths = [len(sentence.words) for sentence in extractor._sentences(" ".join(words))]
    assert lengths == [71, 70]


def test_parse_returns_trees(tiny_path):
    ((tree,), none, two) = NounPhraseExtractor(tiny_path).parse(["Remove the dog", "", "A dog. A cat."])
    assert tree.leaves() == ["Remove", "the", "dog"]
    assert none == [] and len(two) == 2


def test_the_fingerprint_changes_with_weights_and_options(tiny_path, tmp_path):
    save_parser(tiny_parser(seed=1), tmp_path / "other.pt")
    first = NounPhraseExtractor(tiny_path).fingerprint
    assert first == NounPhraseExtractor(tiny_path).fingerprint
    others = [
        NounPhraseExtractor(tiny_path, leaf_only=True),
        NounPhraseExtractor(tiny_path, concepts_only=False),
        NounPhraseExtractor(tiny_path, max_phrases=9),
        NounPhraseExtractor(tmp_path / "other.pt"),
    ]
    assert len({first, *(extractor.fingerprint for extractor in others)}) == 5


# -- the shipped parser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return NounPhraseExtractor()


@pytest.fixture(scope="module")
def shipped_leaves():
    return NounPhraseExtractor(leaf_only=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Remove the greenery in the background.", {"the greenery", "the background"}),
        ("add another lorikeet on the branch", {"another lorikeet", "the branch"}),
        ("Swap the small red circle for a blue star", {"the small red circle", "a blue star"}),
        ("make the background a sandy beach", {"the background", "a sandy beach"}),
        ("Show two dogs instead of one, and a red ball.", {"two dogs", "a red ball"}),
    ],
)
def test_shipped_parser_on_captions(shipped, text, expected):
    assert expected <= set(texts_of(shipped.extract([text])[0]))


LEAVES = {  # captions as people word edits -> all their leaf phrases
    "Add religious statues": ["religious statues"],
    "add white kitchen island and staircase": ["white kitchen island", "staircase"],
    "Have a pink metal wall.": ["a pink metal wall"],
    "Add knee pads to the white pants.": ["knee pads", "the white pants"],
    "Snow in background.": ["Snow", "background"],
    "five wild dogs over carrion": ["five wild dogs", "carrion"],
    "Transform the stone facade": ["the stone facade"],
    "Fill up two glasses": ["two glasses"],
    "a close up of a dark brown dog's face": ["a dark brown dog"],
}


@pytest.mark.parametrize("text", LEAVES)
def test_shipped_parser_on_imperatives_and_fragments(shipped_leaves, text):
    assert texts_of(shipped_leaves.extract([text])[0]) == LEAVES[text]


def test_the_face_of_a_dog(shipped):
    assert "a dark brown dog's face" in texts_of(shipped.extract(["a close up of a dark brown dog's face"])[0])


@pytest.mark.parametrize("picture", ["the target photo", "the target image", "the reference image", "the picture"])
def test_shipped_parser_does_not_name_the_picture(shipped, picture):
    assert texts_of(shipped.extract([f"{picture} shows a red ball"])[0]) == ["a red ball"]


def test_a_caption_without_a_phrase(shipped):
    assert shipped.extract(["Make it darker", ""]) == [[], []]


@pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no CIRR captions")
def test_real_captions(shipped):
    path = Path(os.environ["CIR_DATA_ROOT"]) / "cirr" / "captions" / "cap.rc2.val.json"
    captions = [row["caption"] for row in json.loads(path.read_text())][:400]
    found = shipped.extract(captions)
    assert sum(1 for phrases in found if phrases) > 0.95 * len(captions)
    for text, phrases in zip(captions, found, strict=True):
        assert all(text[p["start"] : p["end"]] == p["text"] for p in phrases)
        assert not {p["text"].lower() for p in phrases} & {"it", "there", "left", "them"}
