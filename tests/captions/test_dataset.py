"""Captions of a pair are joined into longer texts."""

from contextcir.captions.dataset import JOINED_WORDS, join_captions
from contextcir.captions.stages import Caption

FOUR = [Caption(text) for text in ("Remove the lamp.", "Make the sofa blue", "Add a TV", "TV goes on the wall,")]


def test_joined_texts_grow_and_keep_the_order_of_captions():
    joined = join_captions(FOUR, largest=4, seed="a")
    assert [len(captions) for _, captions in joined] == [2, 3, 4]
    for text, captions in joined:
        spots = [text.lower().index(caption.text.lower().rstrip(".,")) for caption in captions]
        assert captions == [caption for caption in FOUR if caption in captions] and spots == sorted(spots)


def test_joined_texts_are_sentences():
    texts = {text for seed in range(40) for text, _ in join_captions(FOUR[:2], largest=9, seed=str(seed))}
    assert texts == {"Remove the lamp. Make the sofa blue.", "Remove the lamp and make the sofa blue"}
    texts = {join_captions(FOUR, largest=4, seed=str(seed))[-1][0] for seed in range(40)}
    assert "Remove the lamp, make the sofa blue, add a TV, and TV goes on the wall" in texts


def test_joining_is_seeded_and_bounded():
    assert join_captions(FOUR, largest=3, seed="a") == join_captions(FOUR, largest=3, seed="a")
    assert len({str(join_captions(FOUR, largest=2, seed=str(seed))) for seed in range(40)}) > 5
    assert join_captions(FOUR, largest=1, seed="a") == join_captions(FOUR[:1], largest=4, seed="a") == []
    long = [Caption("word " * (JOINED_WORDS // 2 + 1))] * 2 + [Caption("short")]
    assert all(len(text.split()) <= JOINED_WORDS for text, _ in join_captions(long, largest=3, seed="a"))
    assert len(join_captions([Caption("A word. And a second one")] * 2, largest=2, seed="x")[0][0].split(". ")) == 4
