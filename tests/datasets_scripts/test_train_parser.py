"""Training the parser: a whole run in miniature, and the record and card of the one that ships."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from contextcir.phrases import chart_parser
from contextcir.scenes import NounPhrase, sample_trees
from datasets_scripts import train_parser
from datasets_scripts.treebank.scores import evaluate
from datasets_scripts.treebank.trees import read_tree

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")


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


def test_spans_of_texts_by_hand():
    class Query:
        text = "the dog and it"
        noun_phrases = [NounPhrase("the dog", 0, 7), NounPhrase("it", 12, 14)]

    class Extractor:
        def extract(self, texts):
            return [[{"start": 0, "end": 7}, {"start": 4, "end": 7}] for _ in texts]

    assert train_parser.evaluate_texts(Extractor(), [Query]) == {"span_f1": 66.67, "texts": 1}


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
    assert (tmp_path / "c" / "README.md").read_text().count("    contextcir data parser") == 2

    card = (tmp_path / "a" / "README.md").read_text()
    assert f"| gum_dev (12 trees) | {record['best']['gum_dev']['np_f1']:.1f} |" in card
    assert "| train | news | CC BY 2.5 | 1 | 60 |" in card
    assert str(gum.parent) not in card + json.dumps(record) and "$CIR_DATA_ROOT/" in card
    loaded = chart_parser.load_parser(tmp_path / "a" / "parser.pt")
    dev = [read_tree(line) for line in gzip.open(gum / "gum_dev.ptb.gz", "rt")]
    assert evaluate(loaded, dev)["np_f1"] == pytest.approx(record["best"]["gum_dev"]["np_f1"], abs=2)  # fp16


def test_the_shipped_card_is_rendered_from_the_shipped_record(tmp_path):
    shipped = chart_parser.DEFAULT_PARSER.parent
    (tmp_path / "parser.json").write_bytes((shipped / "parser.json").read_bytes())
    train_parser.write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == (shipped / "README.md").read_text()
    record = json.loads((shipped / "parser.json").read_text())
    assert hashlib.sha256(chart_parser.DEFAULT_PARSER.read_bytes()).hexdigest() == record["sha256"]


def test_shipped_parser_scores_on_scenes_what_its_card_says():
    record = json.loads((chart_parser.DEFAULT_PARSER.parent / "parser.json").read_text())
    trees = [read_tree(text) for text in sample_trees(100, 12345)]
    assert evaluate(chart_parser.load_parser(), trees)["np_f1"] > record["best"]["scenes_dev"]["np_f1"] - 2


@pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no GUM treebank")
def test_shipped_parser_scores_on_gum_what_its_card_says():
    record = json.loads((chart_parser.DEFAULT_PARSER.parent / "parser.json").read_text())
    with gzip.open(Path(os.environ["CIR_DATA_ROOT"]) / "gum_const" / "gum_dev.ptb.gz", "rt", encoding="utf-8") as file:
        trees = [read_tree(line) for line in file]
    scores = evaluate(chart_parser.load_parser(), trees)
    assert scores["np_f1"] == pytest.approx(record["best"]["gum_dev"]["np_f1"], abs=0.1)
