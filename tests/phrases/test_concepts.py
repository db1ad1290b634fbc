"""Which noun phrases are concepts, and how flat coordinations are split."""

import pytest

from contextcir.phrases.concepts import conjuncts, is_concept, without_command


@pytest.mark.parametrize(
    "phrase",
    """the dog|two dogs|the left|more people|a young one|someone's foot|a picture frame|the number 7 bus|no people
    |t shirt|a close friend|the dog in the photo|a close-up of a dog|50% cotton|the target's hat|the first floor
    |a group|the background|犬|a pair of boots|the old man|a 3d shape""".replace("\n    ", "").split("|"),
)
def test_concepts(phrase):
    assert is_concept(phrase)


NOTHING = {
    "the picture": "the target photo|the target image|the reference image|the picture|a close|a close up|a close-up"
    "|Photo|the target|a closer view shot|the second image|a longer shot|the other pictures",
    "pronouns": "it|there|The other one|them all|one of them|all of those|something else|more of them|no one|Only one",
    "amounts": "a pair|two pieces|the rest|the same number|a lot|2|two more|a large number|a couple of dozen|half",
    "adverbs": "left|forwards|instead",
    "no words": "...|🙂| |%",
}


@pytest.mark.parametrize("phrase", [phrase for some in NOTHING.values() for phrase in some.split("|")])
def test_phrases_that_name_nothing(phrase):
    assert not is_concept(phrase)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("DT NN CC NN", [(0, 2), (3, 4)]),  # the angle and style
        ("JJ NN NN CC NN", [(0, 3), (4, 5)]),  # white kitchen island and staircase
        ("NNS , NNS , CC NNS", [(0, 1), (2, 3), (5, 6)]),  # cups, plates, and forks
        ("NN CC JJ NN", [(0, 1), (2, 4)]),
        ("JJ CC JJ NN CC NN", [(0, 4), (5, 6)]),  # black and white fur and paws
        ("DT JJ CC JJ NN", []),  # a black and white dog
        ("DT JJ , JJ NN", []),  # a small, round table
        ("NN CC", []),
        ("DT NN", []),
    ],
)
def test_conjuncts_of_flat_phrases(tags, expected):
    assert conjuncts(tags.split()) == expected


@pytest.mark.parametrize(
    ("text", "phrase", "left"),
    [
        ("add windows", "add windows", "windows"),
        ("remove it and add windows", "add windows", "windows"),
        ("target on two buses", "target on two buses", "two buses"),
        ("crop and show it", "crop", ""),
        ("add", "add", "add"),  # one word is no command
        ("a table and place mats", "place mats", "place mats"),  # a noun as often
        ("place mats", "place mats", "mats"),
        ("the show", "the show", "the show"),
        ("the men show hats", "show hats", "show hats"),  # no command
    ],
)
def test_a_command_is_no_part_of_a_phrase(text, phrase, left):
    words, inside = text.split(), phrase.split()
    start = next(place for place in range(len(words)) if words[place : place + len(inside)] == inside)
    end = start + len(inside)
    assert " ".join(words[without_command(words, start, end) : end]) == left
