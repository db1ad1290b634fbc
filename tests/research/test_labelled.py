"""Captions labelled by hand: how they are read and scored, and what the shipped parser finds in them."""

import os
from collections import Counter

import pytest

from research.treebank.labelled import LabelledCaption, read_labelled, score_leaves
from research.treebank.record import extractor_of_leaves

pytest.importorskip("benepar", reason="noun phrases need the extra `parse`")


class Found:
    """An extractor that finds the given words."""

    def __init__(self, *found):
        self.found = found

    def extract(self, texts):
        return [
            [{"start": text.index(word), "end": text.index(word) + len(word)} for word in words]
            for text, words in zip(texts, self.found, strict=True)
        ]


def labelled(text, *words):
    return LabelledCaption(
        "cirr_val", text, frozenset((text.index(word), text.index(word) + len(word)) for word in words)
    )


def test_scores_of_leaves():
    captions = [
        labelled("Show the dog and a cat", "the dog", "a cat"),
        labelled("Add a show", "a show"),  # a word that labels hold is no command
        labelled("make it red"),
        labelled("Snow in background", "Snow", "background"),
    ]
    scores = score_leaves(Found(["Show the dog", "a cat"], ["a show"], [], []), captions)
    assert scores == {
        "leaf_f1": 50.0,  # 2 of 3 found, of 5
        "leaf_precision": 66.7,
        "leaf_recall": 40.0,
        "with_phrase": 66.7,
        "commands_inside": 1,
        "captions": 4,
    }


def test_labels_of_cirr_need_no_files(monkeypatch):
    monkeypatch.delenv("CIR_DATA_ROOT", raising=False)
    captions = read_labelled("dev")
    assert Counter(caption.source for caption in captions) == {"cirr_val": 40}
    assert captions[1].text == "Black dog sits in front of fence."
    assert sorted(captions[1].text[start:end] for start, end in captions[1].phrases) == ["Black dog", "fence"]
    assert len(read_labelled("test")) == 50


@pytest.mark.skipif("CIR_DATA_ROOT" not in os.environ, reason="CIR_DATA_ROOT is not set: no texts of the captions")
@pytest.mark.parametrize("name, number", [("dev", 200), ("test", 100)])
def test_all_labels_are_whole_words_of_their_captions(name, number):
    captions = read_labelled(name)
    assert len(captions) == number
    for caption in captions:
        for start, end in caption.phrases:
            around = caption.text[max(start - 1, 0) : start] + caption.text[end : end + 1]
            assert 0 <= start < end <= len(caption.text) and not any(map(str.isalnum, around))


@pytest.mark.parametrize("name", ["dev", "test"])
def test_the_shipped_parser_on_labelled_captions(name):
    scores = score_leaves(extractor_of_leaves(), read_labelled(name))
    assert scores["leaf_f1"] >= 95 and scores["with_phrase"] >= 95 and scores["commands_inside"] == 0
