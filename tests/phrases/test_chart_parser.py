"""The constituency parser: scores equal to benepar's, its file, and the format of released models."""

import sys
from types import SimpleNamespace

import pytest
import torch

from contextcir.phrases import chart_parser
from contextcir.phrases.chart_parser import DEFAULT_PARSER, load_parser, new_parser, save_parser
from contextcir.phrases.extractor import NounPhraseExtractor
from tests.tiny_parser import HPARAMS, LABELS, tiny_parser

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")


@pytest.mark.parametrize("encoder", ["bilstm", "transformer"])
def test_compact_scores_equal_benepars_own(encoder):
    parser = tiny_parser(encoder=encoder).eval()
    benepars = type(parser).__mro__[1]
    texts = ["the dog", "a dog a cat the dog", "one"]
    sentences = [SimpleNamespace(words=text.split(), space_after=None, tree=None) for text in texts]
    spans, tags = parser(parser.pad_encoded([parser.encode(s) for s in sentences]))
    encoded = benepars.pad_encoded(parser, [benepars.encode(parser, s) for s in sentences])
    expected_spans, expected_tags = benepars.forward(parser, encoded)
    for i, sentence in enumerate(sentences):
        n = len(sentence.words)
        upper = torch.ones(n, n, dtype=torch.bool).triu()
        torch.testing.assert_close(spans[i, :n, :n][upper], expected_spans[i, :n, :n][upper])
        torch.testing.assert_close(tags[i, : n + 2], expected_tags[i, : n + 2])


def test_save_and_load_keep_the_parser(tmp_path):
    parser = tiny_parser()
    save_parser(parser, tmp_path / "tiny.pt")
    loaded = load_parser(str(tmp_path / "tiny.pt"))
    assert not loaded.training and loaded.config["label_vocab"] == parser.config["label_vocab"]
    for name, tensor in parser.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor.half().float(), rtol=0, atol=0)


def test_a_missing_parser_is_named():
    with pytest.raises(FileNotFoundError, match=r"'benepar_no1'.*benepar.download\('benepar_no1'\)"):
        load_parser("benepar_no1")
    with pytest.raises(FileNotFoundError, match="no/such/file.pt"):
        load_parser("no/such/file.pt")


def test_invalid_parsers_are_errors(tmp_path):
    torch.save({"weights": torch.ones(3)}, tmp_path / "else.pt")
    with pytest.raises(ValueError, match="else.pt .*label_vocab"):
        load_parser(tmp_path / "else.pt")
    parser = tiny_parser()
    parser.f_label[0].weight.data[3, 4] = float("nan")
    save_parser(parser, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match="nan.pt .*finite"):
        load_parser(tmp_path / "nan.pt")


def test_the_error_without_the_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "benepar", None)
    with pytest.raises(ImportError, match=r"pip install contextcir\[parse\]"):
        load_parser()


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """An extractor with a parser in the released format, on sub-words."""
    from transformers import T5Config, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("▁dog", -1.0)]
    letters = [(letter, -3.0) for letter in "abdeghoprtv"]
    tokenizer = T5Tokenizer(vocab=pieces + letters, extra_ids=0, model_max_length=512)
    tokenizer.save_pretrained(folder)
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    hparams = HPARAMS | {"use_pretrained": True, "use_chars_lstm": False, "pretrained_model": "t5-small"}
    labels = {label: i for i, label in enumerate(LABELS)}
    config.benepar = {"tag_vocab": {"UNK": 0, "NN": 1}, "label_vocab": labels, "char_vocab": None, "hparams": hparams}
    del hparams["encoder"], hparams["force_root_constituent"]  # released files have neither
    config.save_pretrained(folder)
    torch.manual_seed(0)
    with chart_parser._special_tokens_shim():
        built = dict(config.benepar, hparams=hparams | {"force_root_constituent": True})
        parser = new_parser(**built, pretrained_model_path=str(folder))
    torch.save(parser.state_dict() | {"bert.position_ids": torch.arange(3)}, folder / "benepar_model.bin")
    return NounPhraseExtractor(str(folder))


def test_the_released_t5_format_loads(t5):
    from transformers import PreTrainedTokenizerBase

    assert (t5.parser.retokenizer.start_token_idx, t5.parser.retokenizer.stop_token_idx) == (0, -1)
    (phrases,) = t5.extract(["the dog at the door"])
    assert phrases and all("the dog at the door"[p["start"] : p["end"]] == p["text"] for p in phrases)
    assert not hasattr(PreTrainedTokenizerBase, "build_inputs_with_special_tokens")  # the shim is removed


@pytest.mark.fault(
    "L31", "a text with too many sub-words for a parser is named, skipped and counted; the others go on"
)
def test_a_text_of_more_than_512_pieces_is_skipped(t5, caplog):
    long = " ".join(["abdeghoprtv"] * 60)  # 60 words of 11 letters
    texts = ["the dog", long, "the dog at the door", f"the dog.\n{long}"]
    alone = [t5.extract([texts[place]])[0] for place in (0, 2)]
    assert t5.num_skipped == 0
    with caplog.at_level("WARNING"):
        found = t5.extract(texts)
    assert [found[0], found[2]] == alone and found[1] == [] and found[3] == alone[0]
    assert t5.num_skipped == 2
    assert "Text 1 ('abdeghoprtv" in caplog.text and "512" in caplog.text and "Text 3" in caplog.text
    assert [len(trees) for trees in t5.parse(texts)] == [1, 0, 1, 1]


def test_the_shipped_parser_is_small():
    assert DEFAULT_PARSER.stat().st_size <= 12_000_000
