"""Words of the grammar from tagged captions, and captions on whose phrases two parsers agree."""

import gzip
import json

import pytest

from research.treebank import words
from research.treebank.agreement import chunks, plain
from research.treebank.grammar import ModificationGrammar, flatten
from research.treebank.trees import read_tree, to_brackets

spacy = pytest.importorskip("spacy")
nltk = pytest.importorskip("nltk")


def document(tagged: str):
    """A spaCy document of `word/TAG/dependency/head`."""
    rows = [word.split("/") for word in tagged.split()]
    nouns = {"NN": "NOUN", "NNS": "NOUN", "PRP": "PRON"}
    return spacy.tokens.Doc(
        spacy.blank("en").vocab,
        words=[row[0] for row in rows],
        tags=[row[1] for row in rows],
        pos=[nouns.get(row[1], "X") for row in rows],
        deps=[row[2] for row in rows],
        heads=[int(row[3]) for row in rows],
    )


TENNIS = "A/DT/det/2 tennis/NN/compound/2 ball/NN/nsubj/3 hits/VBZ/ROOT/3 hot/JJ/amod/5 pans/NNS/dobj/3"
OWNER = "the/DT/det/1 man/NN/poss/3 's/POS/case/1 hat/NN/nsubj/4 fits/VBZ/ROOT/4 him/PRP/dobj/4"


def test_words_and_compounds_of_captions():
    lexicon = {"hits": "NNS", "hot": "JJ"}  # a word with another tag in the lexicon is left out
    found, compounds = words.collect([document(TENNIS)] * 2, lexicon)
    assert {tag: found[tag] for tag in ("NN", "NNS", "JJ", "VBZ")} == {
        "NN": {"tennis", "ball"},
        "NNS": {"pans"},
        "JJ": {"hot"},
        "VBZ": set(),
    }
    assert compounds == {"tennis/NN_ball/NN"}
    rare, none = words.collect([document(TENNIS)], lexicon)
    assert not any(rare.values()) and none == set()


def test_frequent_words_fill_the_lists(monkeypatch):
    monkeypatch.setattr(words, "TAGS", {"NN": 2, "VBN": 9})
    found = {"NN": {"ball"}, "VBN": set()}
    lexicon = {"dog": "NN", "cat": "NN", "went": "VBD", "of": "IN", "left": "NN"}
    words.add_frequent(found, lexicon, ["of", "left", "dog", "cat", "went", "?"])
    assert found == {"NN": {"ball", "dog"}, "VBN": {"went"}}


def test_files_of_words(tmp_path):
    (tmp_path / "clip_bpe").mkdir()
    with gzip.open(tmp_path / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz", "wt") as file:
        file.write('"bpe_simple_vocab_16e6.txt#version: 0.2\ni n\nth e</w>\ndo g</w>\n')
    assert words.clip_words(tmp_path) == ["the", "dog"]
    (tmp_path / "fashioniq" / "captions").mkdir(parents=True)
    for name in ("dress", "shirt", "toptee"):
        rows = [{"captions": [f"is a {name} ", "is red"]}]
        (tmp_path / "fashioniq" / "captions" / f"cap.{name}.train.json").write_text(json.dumps(rows))
    assert words.fashioniq_captions(tmp_path) == ["is a dress", "is red", "is a shirt", "is a toptee"]
    (tmp_path / "grocery_store" / "dataset").mkdir(parents=True)
    (tmp_path / "grocery_store" / "dataset" / "classes.csv").write_text("Class Name\nGranny-Smith,1\nLime,2\n")
    assert words.grocery_names(tmp_path) == {"granny/NN_smith/NN"}
    (tmp_path / "lexicon.txt").write_text(";;; comment\n\ndog NN VB\ncat NN\n")
    assert words.read_lexicon(tmp_path / "lexicon.txt") == {"cat": "NN"}


def test_compounds_have_a_tag_for_each_word():
    grammar = ModificationGrammar([])
    assert {"(NN tennis) (NN ball)", "(NN granny) (NN smith)"} <= set(grammar.alternatives["compound"])
    assert all(rule.endswith(")") and "(NNS " in rule for rule in grammar.alternatives["compounds"])
    assert len(grammar.alternatives["NN"]) > 3000


def test_a_phrase_that_is_all_of_another_is_one():
    tree = read_tree("(NP (NP (NP (NN snow))) (PP (IN in) (NP (NP (NN fog)))))")
    assert to_brackets(flatten(tree)) == "(NP (NP (NN snow)) (PP (IN in) (NP (NN fog))))"


def test_chunks_are_concepts_and_owners():
    def texts(tagged):
        made = document(tagged)
        return {made.text[start:end] for start, end in chunks(made)}

    assert texts(TENNIS) == {"A tennis ball", "hot pans"}
    assert texts(OWNER) == {"the man"}  # as the leaf of a tree; and no pronoun


def test_trees_of_nltk_become_tuples():
    text = "(S (VP (VB add) (NP (NN snow))))"
    assert plain(nltk.Tree.fromstring(text)) == read_tree(text)
    assert plain(nltk.Tree("NN", ["dog"])) == ("NN", "dog")
