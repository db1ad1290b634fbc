"""Pixels, token ids, noun-phrase spans and counts of the processors; real CLIP ids if its merges are present."""

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessorPil, CLIPProcessor

from modeling_contextcir import CIRImageProcessor, ContextCIRProcessor, InstructCIRProcessor
from tests.conftest import build_clip_tokenizer

COUNTS = {"num_truncated_texts", "num_dropped_phrases"}
PHRASE_TENSORS = {"phrase_input_ids", "phrase_attention_mask", "phrase_sample", "phrase_token_mask"}
MERGES = [("r", "e"), ("re", "d</w>"), ("t", "h"), ("th", "e</w>")]


@pytest.fixture(scope="module", params=[ContextCIRProcessor, InstructCIRProcessor], ids=lambda kind: kind.__name__)
def either(request, clip_folder):
    """A processor of either class."""
    return request.param.from_pretrained(clip_folder)


@pytest.fixture(scope="session")
def data_root():
    if "CIR_DATA_ROOT" not in os.environ:
        pytest.skip("needs CIR_DATA_ROOT, the folder of the real data")
    return Path(os.environ["CIR_DATA_ROOT"])


@pytest.fixture(scope="session")
def real_processor(data_root):
    """CLIP's own vocabulary, from the published merges."""
    file = data_root / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.open(file, "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    return ContextCIRProcessor(CLIPImageProcessorPil(), build_clip_tokenizer(merges))


def own_tokens(inputs):
    """For each phrase its ids in context, and its isolated ids without begin and end."""
    in_context = [
        inputs["input_ids"][sample][mask].tolist()
        for sample, mask in zip(inputs["phrase_sample"], inputs["phrase_token_mask"], strict=True)
    ]
    isolated = [
        ids[mask.bool()][1:-1].tolist()
        for ids, mask in zip(inputs["phrase_input_ids"], inputs["phrase_attention_mask"], strict=True)
    ]
    return in_context, isolated


# Both processors


def test_images_and_texts(either, images):
    inputs = either(images=images[:3], text=["the red", "", "a"])
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask"}
    assert set(either.model_input_names) - set(inputs) == (
        PHRASE_TENSORS if isinstance(either, ContextCIRProcessor) else set()
    )
    assert inputs["pixel_values"].shape == (3, 3, 30, 30) and inputs["pixel_values"].dtype == torch.float32
    start, end = either.tokenizer.bos_token_id, either.tokenizer.eos_token_id
    the, red, a = either.tokenizer.convert_tokens_to_ids(["the</w>", "red</w>", "a</w>"])
    assert inputs["input_ids"].tolist() == [[start, the, red, end], [start, end, end, end], [start, a, end, end]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    single = either(images=images[0], text="the red")
    assert torch.equal(single["pixel_values"], inputs["pixel_values"][:1])
    assert single["input_ids"].tolist() == [[start, the, red, end]]
    assert either(images=Image.new("RGB", (1, 1)))["pixel_values"].shape == (1, 3, 30, 30)


def test_pixels_are_those_of_the_pil_backend(either, images):
    expected = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    expected = torch.tensor(np.stack(expected(images)["pixel_values"]))
    assert torch.equal(either(images=images)["pixel_values"], expected)
    torchvision = type("CLIPImageProcessor", (CLIPImageProcessorPil,), {})  # as transformers calls it
    other = type(either)(torchvision.from_dict(either.image_processor.to_dict()), either.tokenizer)
    assert type(other.image_processor) is CIRImageProcessor
    assert torch.equal(other(images=images)["pixel_values"], expected)


def test_long_texts_are_cut_and_counted(either):
    fits = "the red " * 37 + "a"  # 75 tokens, begin and end
    inputs = either(text=["the red " * 50, fits, fits + " a"], count_truncated=True)
    assert inputs["num_truncated_texts"].shape == () and inputs["num_truncated_texts"] == 2
    assert inputs["input_ids"].shape == (3, 77)
    assert (inputs["input_ids"][:, -1] == either.tokenizer.eos_token_id).all()
    assert either(text=[fits], count_truncated=True)["num_truncated_texts"] == 0
    assert "num_truncated_texts" not in either(text=["the red " * 50])


def test_without_a_limit_of_the_tokenizer_texts_are_cut_at_77(either):
    unlimited = build_clip_tokenizer(MERGES)
    unlimited.model_max_length = int(1e30)
    assert type(either)(either.image_processor, unlimited)(text=["a " * 99])["input_ids"].shape == (1, 77)


def test_a_call_without_images_and_texts_is_refused(either):
    with pytest.raises(ValueError, match="`images`.*`text`"):
        either()


def test_paths_are_refused(either, images, tmp_path):
    path = tmp_path / "a.png"
    images[0].save(path)
    for given in (path, str(path), [images[0], str(path)], [[str(path)]]):
        with pytest.raises(ValueError, match=f"'{path}'.*contextcir.data.images.load_image"):
            either(images=given)
        with pytest.raises(ValueError, match=f"'{path}'"):
            either.image_processor(given)
    with pytest.raises(ValueError, match="https://example.org/a.png"):
        either(images="https://example.org/a.png")


def test_a_tokenizer_without_its_vocabulary_is_refused(either, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path}/clip.*\b2\b.*\b258\b.*tokenizer.json"):
        type(either).from_pretrained(tmp_path / "clip")


def test_save_load_save(either, images, tmp_path):
    either.save_pretrained(tmp_path / "one")
    again = AutoProcessor.from_pretrained(tmp_path / "one")
    assert type(again) is type(either) and type(again.image_processor) is CIRImageProcessor
    again.save_pretrained(tmp_path / "two")
    AutoProcessor.from_pretrained(tmp_path / "two").save_pretrained(tmp_path / "three")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    code = {f"{type(either).__module__.split('.')[1]}.py", "clip_processor.py"}
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json"} | code <= names
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name
    assert json.loads((tmp_path / "three" / "tokenizer_config.json").read_text())["backend"] == "tokenizers"
    phrases = {"noun_phrases": [[(0, 3)]] * 8} if isinstance(either, ContextCIRProcessor) else {}
    one, other = (some(images=images, text=["the red"] * 8, **phrases) for some in (either, again))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_saved_tokenizer_forgets_its_last_call(either, tmp_path):
    either(text=["the red"], padding="max_length", max_length=50)
    either.save_pretrained(tmp_path)
    again = type(either).from_pretrained(tmp_path)
    again.tokenizer.padding_side = "left"
    assert again(text=["the red", "a " * 60])["attention_mask"].sum(dim=1).tolist() == [4, 62]
    assert again(text=["the red", "a"])["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_clip_makes_the_same_ids_from_the_same_folder(clip_folder, either):
    clip = CLIPProcessor.from_pretrained(clip_folder, backend="pil")
    assert clip(text=["the red cat"])["input_ids"][0] == either(text=["the red cat"])["input_ids"][0].tolist()


# Noun phrases


def test_noun_phrases(processor):
    texts = ["the red cat and the dog", "", "swap the hat"]
    spans = [[{"text": "the red cat", "start": 0, "end": 11}, (16, 23)], [], [(5, 12)]]
    inputs = processor(text=texts, noun_phrases=spans)
    assert set(inputs) == {"input_ids", "attention_mask"} | PHRASE_TENSORS | COUNTS
    assert inputs["phrase_sample"].tolist() == [0, 0, 2]
    assert inputs["phrase_token_mask"].shape == (3, inputs["input_ids"].shape[1])
    assert inputs["phrase_token_mask"].dtype == torch.bool
    in_context, isolated = own_tokens(inputs)
    tokenizer = processor.tokenizer
    assert in_context == isolated == [tokenizer(p)["input_ids"][1:-1] for p in ("the red cat", "the dog", "the hat")]
    assert not inputs["num_dropped_phrases"] and not inputs["num_truncated_texts"]


def test_without_any_noun_phrase_the_tensors_are_empty(processor):
    inputs = processor(text=["the red", "a"], noun_phrases=[[], []])
    assert inputs["phrase_input_ids"].shape == inputs["phrase_attention_mask"].shape == (0, 2)
    assert inputs["phrase_sample"].shape == (0,) and inputs["phrase_token_mask"].shape == (0, 4)
    assert inputs["phrase_input_ids"].dtype == torch.long and inputs["phrase_token_mask"].dtype == torch.bool


UNICODE = [
    ("ajoute un café crème près du chat", "un café crème"),
    ("ajoute un cafe\u0301 cre\u0300me pre\u0300s du chat", "un cafe\u0301 cre\u0300me"),  # combining accents
    ("put the 🐕‍🦺 on the sofa", "the 🐕‍🦺"),
    ("把 红色 帽子 换成 蓝色", "红色 帽子"),
    ("Make THE Red   Hat\tbigger", "THE Red   Hat"),  # runs of blanks, upper case
    ("the İstanbul poster, not the other", "the İstanbul poster"),  # lower case is longer than upper case
    ("the dog's red collar, please", "the dog's red collar"),
    ("add “the red hat” – don’t hide it", "the red hat"),
    ("add the hat in 1950s style", "the hat in 1950s style"),
    ("  the hat", "the hat"),
]


@pytest.mark.parametrize(("text", "phrase"), UNICODE, ids=[phrase for _, phrase in UNICODE])
def test_spans_on_unicode_text(processor, text, phrase):
    start = text.index(phrase)
    inputs = processor(text=["pad " * 9, text], noun_phrases=[[], [(start, start + len(phrase))]])
    assert inputs["num_dropped_phrases"] == 0
    in_context, isolated = own_tokens(inputs)
    assert in_context == isolated and len(in_context[0]) > 0


@pytest.mark.parametrize(
    ("text", "span", "kept"),
    [
        ("the redhat", (4, 7), True),  # ends inside a word, but at the end of a token
        ("the cat", (3, 7), False),  # begins with a blank
        ("the cat", (3, 4), False),  # a blank only
        ("the cat sat", (1, 7), False),  # begins inside "the", one token
        ("a 🐕 b", (2, 3), True),
    ],
)
def test_only_exact_spans_are_kept(processor, text, span, kept):
    inputs = processor(text=[text], noun_phrases=[[span]])
    assert len(inputs["phrase_sample"]) == kept and inputs["num_dropped_phrases"] == (not kept)


def test_phrases_of_cut_texts_are_dropped_and_counted(processor):
    words = "the red " * 50
    inputs = processor(text=[words, "a"], noun_phrases=[[(0, 7), (8 * 37, 8 * 37 + 7), (8 * 49, 8 * 49 + 7)], []])
    assert inputs["input_ids"].shape == (2, 77)
    assert inputs["num_truncated_texts"] == 1 and inputs["num_dropped_phrases"] == 2


@pytest.mark.parametrize("span", [(3, 99), (-1, 3), (5, 5), (6, 2)])
def test_spans_outside_the_text_are_refused(processor, span):
    start, end = span
    with pytest.raises(ValueError, match=rf"Row 1\b.*\({start}, {end}\).*\b7\b.*'the cat'"):
        processor(text=["a", "the cat"], noun_phrases=[[], [span]])


SPANS = [
    0,
    None,
    "to",
    (0, 3, 5),
    (0.0, 3.0),
    {"text": "the cat"},
    {"start": 0, "end": None},
    {"start": 0.0, "end": 3.0},
]


@pytest.mark.parametrize("span", SPANS, ids=str)
def test_spans_of_another_form_are_refused(processor, span):
    with pytest.raises(ValueError) as error:
        processor(text=["a", "the cat"], noun_phrases=[[], [span]])
    assert "Row 1:" in str(error.value) and repr(span) in str(error.value) and "'start', 'end'" in str(error.value)


@pytest.mark.parametrize("spans", [None, 3, {"text": "the cat", "start": 0, "end": 7}], ids=str)
def test_noun_phrases_that_are_no_lists_are_refused(processor, spans):
    with pytest.raises(ValueError) as error:
        processor(text="the cat", noun_phrases=[spans])
    assert "Row 0:" in str(error.value) and repr(spans) in str(error.value)


def test_other_wrong_noun_phrases_are_refused(processor):
    for arguments, message in (
        ({"text": "the cat", "noun_phrases": [(0, 3)]}, r"Row 0: .*\b0\b.*\(start, end\)"),  # not nested
        (
            {"text": ["the red cat"], "noun_phrases": [[{"text": "the cat", "start": 0, "end": 7}]]},
            "Row 0: .*'the cat'.*'the red'",
        ),
        ({"text": ["a"], "noun_phrases": [[], []]}, r"\b2\b.*\b1\b"),
        ({"noun_phrases": [[]]}, "`noun_phrases`.*`text`"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(**arguments)


# Real vocabulary

KNOWN_IDS = {
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "a diagram": [49406, 320, 22697, 49407],
    "a photo of a dog": [49406, 320, 1125, 539, 320, 1929, 49407],
    "hello world!": [49406, 3306, 1002, 256, 49407],
    "": [49406, 49407],
}


@pytest.mark.parametrize("text", KNOWN_IDS)
def test_clip_ids(real_processor, text):
    assert real_processor(text=text)["input_ids"].tolist() == [KNOWN_IDS[text]]


def test_real_captions(real_processor, data_root):
    """Word-aligned spans of real CIRR captions are all found, and their tokens are those of the isolated span."""
    records = json.loads(next((data_root / "cirr").rglob("cap.rc2.val.json")).read_text())[:300]
    texts = [record["caption"] for record in records]
    spans = []
    for text in texts:
        words = text.split(" ")
        starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
        chosen = [(int(s), int(s) + len(w)) for s, w in zip(starts, words, strict=True) if w]
        spans.append([(chosen[0][0], chosen[len(chosen) // 2][1]), chosen[-1]])
    inputs = real_processor(text=texts, noun_phrases=spans)
    assert inputs["num_dropped_phrases"] + len(inputs["phrase_sample"]) == 600
    assert inputs["num_dropped_phrases"] <= 2 * inputs["num_truncated_texts"]
    in_context, isolated = own_tokens(inputs)
    assert in_context == isolated
