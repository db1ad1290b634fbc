"""Every gate drops what it should, and keeps real captions."""

import json
import os
from pathlib import Path

import pytest

from contextcir.captions.gates import gate_captions
from contextcir.captions.recipes import load_prompts


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("Make the sofa blue", None),
        ("sofa", "length"),
        ("sofa " * 51, "length"),
        ("Make the sofa as in the second image", "names_images"),
        ("Change the sofa to the one from Image 2", "names_images"),
        ("The sofa in image B is blue", "names_images"),
        ("Use the sofa of the target picture", "names_images"),
        ("In both images the sofa is blue", "names_images"),
        ("Hang the second picture above the sofa", None),
        ("Put a new photo frame on the sofa", None),
        ("Add an image a dog would like to the sofa", None),
        ("<target_objects> sofa blue", "echoes_prompt"),
        ("The text is a request that makes sense by itself sofa", "echoes_prompt"),
        ("**Change:** the {sofa} => *red* \U0001f600", "not_plain"),
        ('"Make the sofa red."', "not_plain"),
        ("<b>red</b> sofa", "not_plain"),
        ("make the sofa <|im_end|>", "not_plain"),
        ("caption_a: a sofa", "not_plain"),
        ("a sofa as on https://x.y/z", "not_plain"),
        ("Show 2 sofas, one half-open & 50% larger (it's the man's)", None),
        ("Difference: make the sofa red", "no_request"),
        ("No change", "no_request"),
        ("There is no difference between the sofas", "no_request"),
        ("I cannot see any difference on the sofa", "no_request"),
        ("Sure! Here is the text: sofa", "no_request"),
        ("Change the sofa", None),
        ("A red SOFA on grass", "echoes_caption"),
        ("Recolour the SOFA, please!", "repeats_original"),
        ("Put it a bit further left", "names_no_object"),
        ("Add more lamps", None),
        ("Exchange the boxes", None),
        ("Swap the berries for cherries", None),
    ],
)
def test_a_caption_fails_its_gate(text, gate):
    verdict = gate_captions(
        [text],
        max_words=50,
        prompts=load_prompts("good4cir").values(),
        names=["sofa", "floor lamp", "a box", "berry", "pictures"],
        original="recolour the sofa please",
        seen=["A red sofa on grass.", "A blue cat on sand."],
    )
    assert verdict == [gate]


def test_the_first_of_duplicates_is_kept():
    texts = ["Make the sofa blue.", "sofa", "make the sofa  BLUE", "Make the sofa green"]
    assert gate_captions(texts, max_words=9) == [None, "length", "duplicate", None]


def test_without_objects_and_an_original_nothing_is_compared():
    assert gate_captions(["Make it blue"], max_words=9) == [None]


def test_real_captions_pass():
    root = os.environ.get("CIR_DATA_ROOT")
    if not root or not Path(root, "good4cir_captions").is_dir():
        pytest.skip("CIR_DATA_ROOT is not set: no real captions to test against")
    prompts = load_prompts("good4cir").values()
    for entry in json.loads(Path(root, "good4cir_captions", "captions.json").read_text())["pairs"]:
        texts, original = entry["difference_captions"], entry["original_caption"]
        assert gate_captions(texts, max_words=50, prompts=prompts, original=original) == [None] * len(texts)
