"""Training of the parser: a small complete run, and the record and card of the shipped parser."""

import gzip
import hashlib
import json
import os

import pytest
import torch

from contextcir.cli.options import as_flags
from contextcir.phrases import chart_parser
from contextcir.scenes import NounPhrase, sample_trees
from research import train_parser
from research.treebank.data import read_treebank
from research.treebank.record import evaluate_texts, write_card
from research.treebank.scores import evaluate
from research.treebank.trees import read_tree

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")


@pytest.fixture(scope="module")
def gum(tmp_path_factory):
    """A folder in the layout of the treebank, with trees of the scenes grammar."""
    folder = tmp_path_factory.mktemp("gum")
    for name, seed, count in (("train", 1, 60), ("dev", 2, 12)):
        with gzip.open(folder / f"gum_{name}.ptb.gz", "wt", encoding="utf-8") as file:
            file.writelines(f"(ROOT {tree})\n" for tree in sample_trees(count, seed))
        lines = ["doc\tgenre\tlicence\tfirst_line\ttrees", f"a_{name}\tnews\tCC BY 2.5\t1\t{count}"]
        (folder / f"gum_{name}.docs.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_scores_of_spans():
    class Query:
        text = "the dog and it"
        noun_phrases = [NounPhrase("the dog", 0, 7), NounPhrase("it", 12, 14)]

    class Extractor:
        def extract(self, texts):
            return [[{"start": 0, "end": 7}, {"start": 4, "end": 7}] for _ in texts]

    assert evaluate_texts(Extractor(), [Query]) == {"span_f1": 66.67, "texts": 1}


SMALL = {"d_model": 32, "d_label_hidden": 19, "num_layers": 1, "dropout": 0, "batch_tokens": 200}
SMALL |= {"scenes_trees": 20, "caption_trees": 20, "dev_trees": 20, "epochs": 4, "learning_rate": 2e-2}


@pytest.mark.slow
def test_a_run_learns_repeats_and_is_recorded(gum, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIR_DATA_ROOT", str(gum.parent))

    def train(name, **options):
        train_parser.main(as_flags({"gum": gum, "output_dir": tmp_path / name} | SMALL | options))
        epochs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return epochs, json.loads((tmp_path / name / "parser.json").read_text())

    epochs, recorded = train("a")
    assert len(epochs) == 4 and epochs[3]["loss"] < 0.8 * epochs[0]["loss"]
    assert epochs[3]["scenes_dev"]["tag_accuracy"] > 40
    best = recorded["best"]
    assert train_parser.quality(best) == max(map(train_parser.quality, epochs))
    weights = (tmp_path / "a" / "parser.pt").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == recorded["sha256"]
    assert train("b")[1]["best"]["gum_dev"] == best["gum_dev"]

    _, continued = train("c", init_from=tmp_path / "a" / "parser.pt", epochs=1, learning_rate=1e-6)
    assert continued["initial_run"] == recorded
    assert continued["best"]["scenes_dev"]["np_f1"] == pytest.approx(best["scenes_dev"]["np_f1"], abs=2)
    assert (tmp_path / "c" / "README.md").read_text().count("    python -m research.train_parser") == 2

    averaged, _ = train("d", init_from=[tmp_path / name / "parser.pt" for name in "ac"], epochs=0)
    assert [line["epoch"] for line in averaged] == [0]
    parts = [chart_parser.load_parser(tmp_path / name / "parser.pt").f_label[0].weight for name in "acd"]
    torch.testing.assert_close(parts[2], (parts[0] + parts[1]) / 2, atol=2e-3, rtol=0)  # float16

    card = (tmp_path / "a" / "README.md").read_text()
    assert f"| gum_dev (12 trees) | {best['gum_dev']['np_f1']:.1f} |" in card
    assert f"| dev, cirr_val | 40 | {recorded['labelled']['dev']['cirr_val']['leaf_f1']:.1f} |" in card
    assert "| train | news | CC BY 2.5 | 1 | 60 |" in card
    assert str(gum.parent) not in card + json.dumps(recorded) and "$CIR_DATA_ROOT/" in card
    loaded = chart_parser.load_parser(tmp_path / "a" / "parser.pt")
    dev = [read_tree(line) for line in gzip.open(gum / "gum_dev.ptb.gz", "rt")]
    assert evaluate(loaded, dev)["np_f1"] == pytest.approx(best["gum_dev"]["np_f1"], abs=2)  # float16


@pytest.fixture(scope="module")
def shipped():
    """The record of the parser that ships with the package."""
    return json.loads(chart_parser.DEFAULT_PARSER.with_name("parser.json").read_text())


def test_the_shipped_card_is_rendered_from_the_shipped_record(tmp_path, shipped):
    (tmp_path / "parser.json").write_text(json.dumps(shipped))
    write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == chart_parser.DEFAULT_PARSER.with_name("README.md").read_text()
    assert hashlib.sha256(chart_parser.DEFAULT_PARSER.read_bytes()).hexdigest() == shipped["sha256"]


def test_scores_of_the_shipped_parser_on_scenes(shipped):
    trees = [read_tree(text) for text in sample_trees(100, 12345)]
    assert evaluate(chart_parser.load_parser(), trees)["np_f1"] > shipped["best"]["scenes_dev"]["np_f1"] - 2


@pytest.mark.slow
@pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no GUM treebank")
def test_scores_of_the_shipped_parser_on_gum(shipped):
    trees = read_treebank(os.path.join(os.environ["CIR_DATA_ROOT"], "gum_const"), "dev")
    scores = evaluate(chart_parser.load_parser(), trees)
    assert scores["np_f1"] == pytest.approx(shipped["best"]["gum_dev"]["np_f1"], abs=0.1)
