"""Trees, augmentation, grammar, loss and scores of the parser's training."""

import random

import pytest
import torch

from contextcir.scenes import sample_trees
from research.treebank import augmentation
from research.treebank.augmentation import Substitution, caption_style, fragments, misspell
from research.treebank.grammar import ModificationGrammar
from research.treebank.objective import Example, batches, gold_labels, new_parser, parser_loss
from research.treebank.scores import evaluate, np_brackets
from research.treebank.trees import labelled_spans, leaves, read_tree, to_brackets
from tests.tiny_parser import HPARAMS

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")
nltk = pytest.importorskip("nltk")

TREE = """(ROOT (S (NP-SBJ (EX There)) (VP (VBZ is) (NP-PRD=2 (NP (DT a) (NN dog)) (-LRB- -LRB-) (NP (-NONE- *T*-1))
    (ADJP (JJ big)) (-RRB- -RRB-) (PP-LOC (IN on) (NP (NP (NN grass)))))) (. .)))"""


def test_words_of_trees_are_plain_text():
    tree = read_tree(TREE)
    assert to_brackets(tree) == (
        "(ROOT (S (NP (EX There)) (VP (VBZ is) (NP (NP (DT a) (NN dog)) (-LRB- () (ADJP (JJ big)) (-RRB- )) "
        "(PP (IN on) (NP (NP (NN grass)))))) (. .)))"
    )
    assert [word for _, word in leaves(tree)] == "There is a dog ( big ) on grass .".split()


def test_labelled_spans_equal_those_of_benepar():
    from benepar.decode_chart import get_labeled_spans

    for text in sample_trees(50, seed=5):
        expected = {
            (start, end + 1, label) for start, end, label in get_labeled_spans(nltk.Tree.fromstring(f"(TOP {text})"))
        }
        assert set(labelled_spans(read_tree(text))) == {span for span in expected if span[2]}
    assert (8, 9, "NP::NP") in labelled_spans(read_tree(TREE))


def test_np_brackets_ignore_punctuation_and_repeats():
    tags = ["DT", "NN", ",", "NN", "."]
    spans = [(0, 2, "NP"), (0, 3, "NP"), (3, 4, "S::NP"), (2, 3, "NP"), (0, 5, "S"), (3, 5, "VP::NP")]
    assert np_brackets(tags, spans) == {(0, 2), (2, 3)}


def test_scores(monkeypatch):
    trees = [read_tree("(S (NP (DT the) (NN dog)) (VP (VBZ has) (NP (DT a) (NN hat))))")]
    parser = new_parser(trees, {"a"}, HPARAMS)
    guess = read_tree("(S (NP (DT the) (NN dog) (NN has)) (NP (DT a) (NN hat)))")
    monkeypatch.setattr(type(parser), "parse", lambda self, examples, **_: [compressed(guess, parser)])
    scores = evaluate(parser, trees)
    assert (scores["np_precision"], scores["np_recall"], scores["np_f1"]) == (50, 50, 50)
    assert scores["tag_accuracy"] == 80  # "has" is taken for a noun
    assert scores["all_labels_f1"] == pytest.approx(100 * 2 * 2 / (4 + 3), abs=0.01)  # S and one NP


def compressed(tree, parser):
    from benepar.parse_base import CompressedParserOutput

    text = str(tree).replace("'", "").replace(",", "").replace("[", "").replace("]", "")
    return CompressedParserOutput.from_tree(nltk.Tree.fromstring(text), parser.label_vocab, parser.tag_vocab)


def test_substitution_keeps_labels():
    rng = random.Random(0)
    trees = [read_tree(text) for text in sample_trees(80, seed=3)]
    substitute = Substitution(trees)
    changed = 0
    for tree in trees:
        new = substitute(tree, rng, p_constituent=0.2, p_word=0.5)
        assert new[0] == tree[0]
        changed += new != tree
        for tag, word in leaves(new):
            assert word in substitute.words[tag]
    assert changed > 60
    assert substitute(trees[0], rng, p_constituent=0, p_word=0) == trees[0]


def test_caption_style_changes_case_and_final_stops(monkeypatch):
    tree = read_tree("(ROOT (S (VP (VB Remove) (NP (DT the) (NN Dog))) (. .)))")
    rng = random.Random(0)
    monkeypatch.setattr(augmentation, "misspell", lambda word, _: word)
    texts = {" ".join(word for _, word in leaves(caption_style(tree, rng))) for _ in range(100)}
    assert texts == {
        f"{words}{stop}" for words in ("Remove the Dog", "remove the dog", "remove the Dog") for stop in ("", " .")
    }


def test_misspell():
    rng = random.Random(0)
    assert {misspell("zebra", rng) for _ in range(200)} == {
        *("zbera", "zerba", "zebar"),  # two letters swapped
        *("zera", "zeba", "zbra"),  # one dropped, never the first two
        *("zeebra", "zebbra", "zebrra"),  # one doubled
    }
    assert misspell("the", rng) == "the" and misspell("50%", rng) == "50%"


def test_fragments():
    tree = read_tree("(ROOT (S (VP (VB Remove) (NP (DT the) (NN dog))) (. .)))")
    assert [to_brackets(f) for f in fragments(tree)] == [
        "(ROOT (NP (DT the) (NN dog)))",
        "(ROOT (S (VP (VB Remove) (NP (DT the) (NN dog)))))",
    ]


def test_modification_grammar():
    grammar = ModificationGrammar(["(NP (DT the) (NNP Zebra))"])
    rng = random.Random(0)
    trees = [grammar.sample(rng) for _ in range(400)]
    labels = {label for tree in trees for *_, chain in labelled_spans(tree) for label in chain.split("::")}
    assert labels <= {
        "S",
        "VP",
        "NP",
        "PP",
        "ADJP",
        "ADVP",
        "SBAR",
        "WHNP",
        "FRAG",
        "PRT",
        "UCP",
        "WHADVP",
    }  # no mistyped symbol
    words = [word.lower() for tree in trees for _, word in leaves(tree)]
    assert "zebra" in words and not any("<" in word or "_" in word for word in words)
    assert len({to_brackets(tree) for tree in trees}) > 380
    assert grammar.sample(random.Random(7)) == grammar.sample(random.Random(7))


def test_loss_is_the_cross_entropy_of_the_scores():
    trees = [read_tree(text) for text in sample_trees(6, seed=4)]
    parser = new_parser(trees, set("abcdefghijklmnopqrstuvwxyz"), HPARAMS).eval()
    examples = [Example(tree) for tree in trees]
    loss = parser_loss(parser, examples)
    expected = words = 0
    for example in examples:
        span_scores, tag_scores = parser(parser.pad_encoded([parser.encode(example)]))
        chart, tags = gold_labels(parser, example)
        expected += torch.nn.functional.cross_entropy(span_scores[0][chart >= 0], chart[chart >= 0], reduction="sum")
        expected += 0.5 * torch.nn.functional.cross_entropy(tag_scores[0, 1:-1], tags[1:-1], reduction="sum")
        words += len(example.words)
    torch.testing.assert_close(loss, expected / words)


def test_the_label_of_a_rare_unary_chain_is_its_inner_part():
    trees = [read_tree("(S (VP (VB go)))"), read_tree("(S (NP (NN dog)) (VP (VB go)))")]
    parser = new_parser(trees, {"a"}, HPARAMS)
    chart, _ = gold_labels(parser, Example(trees[0]))
    assert "S::VP" not in parser.label_vocab and chart.tolist() == [[parser.label_vocab["VP"]]]


def test_batches_hold_every_example_once():
    examples = [Example(read_tree(text)) for text in sample_trees(70, seed=6)]
    found = batches(examples, 90, random.Random(0))
    assert sorted(map(id, (e for batch in found for e in batch))) == sorted(map(id, examples))
    assert all(len(batch) == 1 or len(batch) * max(len(e.words) for e in batch) <= 120 for batch in found)
