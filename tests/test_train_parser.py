"""Training the parser: trees in, spans, the augmentation, the loss, the score, and a whole run in miniature."""

import gzip
import hashlib
import json
import os
import random
from pathlib import Path

import pytest
import torch

from contextcir import chart_parser
from contextcir.scenes import NounPhrase, sample_trees
from datasets_scripts import train_parser

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")
nltk = pytest.importorskip("nltk")

TREE = """(ROOT (S (NP-SBJ (EX There)) (VP (VBZ is) (NP-PRD=2 (NP (DT a) (NN dog)) (-LRB- -LRB-) (NP (-NONE- *T*-1))
    (ADJP (JJ big)) (-RRB- -RRB-) (PP-LOC (IN on) (NP (NP (NN grass)))))) (. .)))"""


@pytest.fixture(scope="module")
def gum(tmp_path_factory):
    """A folder laid out as the treebank, filled from the scenes grammar."""
    folder = tmp_path_factory.mktemp("gum")
    for name, seed, count in (("train", 1, 60), ("dev", 2, 12)):
        with gzip.open(folder / f"gum_{name}.ptb.gz", "wt", encoding="utf-8") as file:
            file.writelines(f"(ROOT {tree})\n" for tree in sample_trees(count, seed))
        lines = ["doc\tgenre\tlicence\tfirst_line\ttrees", f"a_{name}\tnews\tCC BY 2.5\t1\t{count}"]
        (folder / f"gum_{name}.docs.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_reads_trees_as_plain_text():
    tree = train_parser.read_tree(TREE)
    assert train_parser.to_brackets(tree) == (
        "(ROOT (S (NP (EX There)) (VP (VBZ is) (NP (NP (DT a) (NN dog)) (-LRB- () (ADJP (JJ big)) (-RRB- )) "
        "(PP (IN on) (NP (NP (NN grass)))))) (. .)))"
    )
    assert [word for _, word in train_parser.leaves(tree)] == [
        "There",
        "is",
        "a",
        "dog",
        "(",
        "big",
        ")",
        "on",
        "grass",
        ".",
    ]


def test_labelled_spans_are_benepars():
    from benepar.decode_chart import get_labeled_spans

    for text in sample_trees(50, seed=5):
        expected = {
            (start, end + 1, label) for start, end, label in get_labeled_spans(nltk.Tree.fromstring(f"(TOP {text})"))
        }
        assert set(train_parser.labelled_spans(train_parser.read_tree(text))) == {span for span in expected if span[2]}
    assert (8, 9, "NP::NP") in train_parser.labelled_spans(train_parser.read_tree(TREE))


def test_np_brackets_ignore_punctuation_and_repeats():
    tags = ["DT", "NN", ",", "NN", "."]
    spans = [(0, 2, "NP"), (0, 3, "NP"), (3, 4, "S::NP"), (2, 3, "NP"), (0, 5, "S"), (3, 5, "VP::NP")]
    assert train_parser.np_brackets(tags, spans) == {(0, 2), (2, 3)}


def test_score_by_hand(monkeypatch):
    trees = [train_parser.read_tree("(S (NP (DT the) (NN dog)) (VP (VBZ has) (NP (DT a) (NN hat))))")]
    parser = train_parser.new_parser(trees, {"a"}, arguments())
    guess = train_parser.read_tree("(S (NP (DT the) (NN dog) (NN has)) (NP (DT a) (NN hat)))")
    monkeypatch.setattr(type(parser), "parse", lambda self, examples, **_: [compressed(guess, parser)])
    scores = train_parser.evaluate(parser, trees)
    assert (scores["np_precision"], scores["np_recall"], scores["np_f1"]) == (50, 50, 50)
    assert scores["tag_accuracy"] == 80  # "has" is taken for a noun
    assert scores["all_labels_f1"] == pytest.approx(100 * 2 * 2 / (4 + 3), abs=0.01)  # S and one NP


def compressed(tree, parser):
    from benepar.parse_base import CompressedParserOutput

    text = str(tree).replace("'", "").replace(",", "").replace("[", "").replace("]", "")
    return CompressedParserOutput.from_tree(nltk.Tree.fromstring(text), parser.label_vocab, parser.tag_vocab)


def arguments(**changes):
    from argparse import Namespace

    options = {"dropout": 0.0, "encoder": "bilstm", "num_layers": 1, "d_model": 32, "d_label_hidden": 19}
    return Namespace(**options | changes)


def test_substitution_keeps_labels():
    rng = random.Random(0)
    trees = [train_parser.read_tree(text) for text in sample_trees(80, seed=3)]
    substitute = train_parser.Substitution(trees)
    changed = 0
    for tree in trees:
        new = substitute(tree, rng, p_constituent=0.2, p_word=0.5)
        assert new[0] == tree[0]
        changed += new != tree
        for tag, word in train_parser.leaves(new):
            assert word in substitute.words[tag]
    assert changed > 60
    assert substitute(trees[0], rng, p_constituent=0, p_word=0) == trees[0]


def test_like_a_caption_changes_only_case_and_final_stops(monkeypatch):
    tree = train_parser.read_tree("(ROOT (S (VP (VB Remove) (NP (DT the) (NN Dog))) (. .)))")
    rng = random.Random(0)
    monkeypatch.setattr(train_parser, "misspelt", lambda word, _: word)
    texts = {
        " ".join(word for _, word in train_parser.leaves(train_parser.like_a_caption(tree, rng))) for _ in range(100)
    }
    assert texts == {
        f"{words}{stop}" for words in ("Remove the Dog", "remove the dog", "remove the Dog") for stop in ("", " .")
    }


def test_misspelt():
    rng = random.Random(0)
    assert {train_parser.misspelt("zebra", rng) for _ in range(200)} == {
        *("zbera", "zerba", "zebar"),  # two letters swapped
        *("zera", "zeba", "zbra"),  # one dropped, never the first two
        *("zeebra", "zebbra", "zebrra"),  # one doubled
    }
    assert train_parser.misspelt("the", rng) == "the" and train_parser.misspelt("50%", rng) == "50%"


def test_spans_of_texts_by_hand():
    class Query:
        text = "the dog and it"
        noun_phrases = [NounPhrase("the dog", 0, 7), NounPhrase("it", 12, 14)]

    class Extractor:
        def extract(self, texts):
            return [[{"start": 0, "end": 7}, {"start": 4, "end": 7}] for _ in texts]

    assert train_parser.evaluate_texts(Extractor(), [Query]) == {"span_f1": 66.67, "texts": 1}


def test_fragments():
    tree = train_parser.read_tree("(ROOT (S (VP (VB Remove) (NP (DT the) (NN dog))) (. .)))")
    assert [train_parser.to_brackets(f) for f in train_parser.fragments(tree)] == [
        "(ROOT (NP (DT the) (NN dog)))",
        "(ROOT (S (VP (VB Remove) (NP (DT the) (NN dog)))))",
    ]


def test_modification_grammar():
    grammar = train_parser.ModificationGrammar(["(NP (DT the) (NNP Zebra))"])
    rng = random.Random(0)
    trees = [grammar.sample(rng) for _ in range(400)]
    labels = {
        label for tree in trees for *_, chain in train_parser.labelled_spans(tree) for label in chain.split("::")
    }
    assert labels <= {"S", "VP", "NP", "PP", "ADJP", "ADVP", "SBAR", "WHNP", "FRAG", "PRT"}  # no mistyped symbol
    words = [word.lower() for tree in trees for _, word in train_parser.leaves(tree)]
    assert "zebra" in words and not any("<" in word or "_" in word for word in words)
    assert len({train_parser.to_brackets(tree) for tree in trees}) > 380
    assert grammar.sample(random.Random(7)) == grammar.sample(random.Random(7))


def test_loss_is_the_cross_entropy_of_the_parsers_own_scores():
    trees = [train_parser.read_tree(text) for text in sample_trees(6, seed=4)]
    parser = train_parser.new_parser(trees, set("abcdefghijklmnopqrstuvwxyz"), arguments()).eval()
    examples = [train_parser.Example(tree) for tree in trees]
    loss = train_parser.loss_of(parser, examples)
    expected = words = 0
    for example in examples:
        span_scores, tag_scores = parser(parser.pad_encoded([parser.encode(example)]))
        chart, tags = train_parser.gold_labels(parser, example)
        expected += torch.nn.functional.cross_entropy(span_scores[0][chart >= 0], chart[chart >= 0], reduction="sum")
        expected += 0.5 * torch.nn.functional.cross_entropy(tag_scores[0, 1:-1], tags[1:-1], reduction="sum")
        words += len(example.words)
    torch.testing.assert_close(loss, expected / words)


def test_a_rare_unary_chain_is_learnt_as_its_inner_part():
    trees = [train_parser.read_tree("(S (VP (VB go)))"), train_parser.read_tree("(S (NP (NN dog)) (VP (VB go)))")]
    parser = train_parser.new_parser(trees, {"a"}, arguments())
    chart, _ = train_parser.gold_labels(parser, train_parser.Example(trees[0]))
    assert "S::VP" not in parser.label_vocab and chart.tolist() == [[parser.label_vocab["VP"]]]


def test_batches_hold_every_example_once():
    examples = [train_parser.Example(train_parser.read_tree(text)) for text in sample_trees(70, seed=6)]
    found = train_parser.batches(examples, 90, random.Random(0))
    assert sorted(map(id, (e for batch in found for e in batch))) == sorted(map(id, examples))
    assert all(len(batch) == 1 or len(batch) * max(len(e.words) for e in batch) <= 120 for batch in found)


SMALL = [
    "--d_model",
    "32",
    "--d_label_hidden",
    "19",
    "--num_layers",
    "1",
    "--scenes_trees",
    "20",
    "--caption_trees",
    "20",
    "--dev_trees",
    "20",
    "--dropout",
    "0",
]


def test_a_run_learns_writes_and_repeats(gum, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIR_DATA_ROOT", str(gum.parent))
    command = ["--gum", str(gum), "--epochs", "4", "--learning_rate", "2e-2", "--batch_tokens", "200", *SMALL]
    for name in ("a", "b"):
        train_parser.main([*command, "--output_dir", str(tmp_path / name)])
    record = json.loads((tmp_path / "a" / "parser.json").read_text())
    epochs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(epochs) == 8 and epochs[3]["loss"] < 0.8 * epochs[0]["loss"]
    assert epochs[3]["scenes_dev"]["tag_accuracy"] > 40
    assert record["best"]["gum_dev"]["np_f1"] == max(epoch["gum_dev"]["np_f1"] for epoch in epochs)
    weights = (tmp_path / "a" / "parser.pt").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["sha256"]
    assert json.loads((tmp_path / "b" / "parser.json").read_text())["best"]["gum_dev"] == record["best"]["gum_dev"]

    again = ["--init_from", str(tmp_path / "a" / "parser.pt"), "--output_dir", str(tmp_path / "c")]
    train_parser.main([*command, "--epochs", "1", "--learning_rate", "1e-6", *again])
    continued = json.loads((tmp_path / "c" / "parser.json").read_text())
    assert continued["initial_run"] == record
    assert continued["best"]["scenes_dev"]["np_f1"] == pytest.approx(record["best"]["scenes_dev"]["np_f1"], abs=2)
    assert (tmp_path / "c" / "README.md").read_text().count("    python datasets_scripts/train_parser.py") == 2

    card = (tmp_path / "a" / "README.md").read_text()
    assert f"| gum_dev (12 trees) | {record['best']['gum_dev']['np_f1']:.1f} |" in card
    assert "| train | news | CC BY 2.5 | 1 | 60 |" in card
    assert str(gum.parent) not in card + json.dumps(record) and "$CIR_DATA_ROOT/" in card
    loaded = chart_parser.load_parser(tmp_path / "a" / "parser.pt")
    dev = [train_parser.read_tree(line) for line in gzip.open(gum / "gum_dev.ptb.gz", "rt")]
    assert train_parser.evaluate(loaded, dev)["np_f1"] == pytest.approx(
        record["best"]["gum_dev"]["np_f1"], abs=2
    )  # fp16


def test_the_shipped_card_is_rendered_from_the_shipped_record(tmp_path):
    shipped = chart_parser.DEFAULT_PARSER.parent
    (tmp_path / "parser.json").write_bytes((shipped / "parser.json").read_bytes())
    train_parser.write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == (shipped / "README.md").read_text()
    record = json.loads((shipped / "parser.json").read_text())
    assert hashlib.sha256(chart_parser.DEFAULT_PARSER.read_bytes()).hexdigest() == record["sha256"]


def test_shipped_parser_scores_on_scenes_what_its_card_says():
    record = json.loads((chart_parser.DEFAULT_PARSER.parent / "parser.json").read_text())
    trees = [train_parser.read_tree(text) for text in sample_trees(100, 12345)]
    assert (
        train_parser.evaluate(chart_parser.load_parser(), trees)["np_f1"] > record["best"]["scenes_dev"]["np_f1"] - 2
    )


@pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no GUM treebank")
def test_shipped_parser_scores_on_gum_what_its_card_says():
    record = json.loads((chart_parser.DEFAULT_PARSER.parent / "parser.json").read_text())
    with gzip.open(Path(os.environ["CIR_DATA_ROOT"]) / "gum_const" / "gum_dev.ptb.gz", "rt", encoding="utf-8") as file:
        trees = [train_parser.read_tree(line) for line in file]
    scores = train_parser.evaluate(chart_parser.load_parser(), trees)
    assert scores["np_f1"] == pytest.approx(record["best"]["gum_dev"]["np_f1"], abs=0.1)
