"""Token ids, noun-phrase spans and counters of the processor; real CLIP ids where the real merges are at hand."""

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

from modeling_contextcir import ContextCIRProcessor
from tests.conftest import build_clip_tokenizer

COUNTERS = {"num_truncated_texts", "num_dropped_phrases"}
PHRASE_TENSORS = {"phrase_input_ids", "phrase_attention_mask", "phrase_sample", "phrase_token_mask"}


@pytest.fixture(scope="module")
def processor(clip_folder):
    return ContextCIRProcessor.from_pretrained(clip_folder)


@pytest.fixture(scope="session")
def data_root():
    if "CIR_DATA_ROOT" not in os.environ:
        pytest.skip("CIR_DATA_ROOT is not set: the real data is not at hand")
    return Path(os.environ["CIR_DATA_ROOT"])


@pytest.fixture(scope="session")
def real_processor(data_root):
    """CLIP's own vocabulary, from the published merges."""
    lines = (
        gzip.open(data_root / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read().split("\n")
    )
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    return ContextCIRProcessor(CLIPImageProcessorPil(), build_clip_tokenizer(merges))


def own_tokens(inputs):
    """Of each phrase: its ids in context, and its ids by itself without begin and end."""
    in_context = [
        inputs["input_ids"][sample][mask].tolist()
        for sample, mask in zip(inputs["phrase_sample"], inputs["phrase_token_mask"], strict=True)
    ]
    isolated = [
        ids[mask.bool()][1:-1].tolist()
        for ids, mask in zip(inputs["phrase_input_ids"], inputs["phrase_attention_mask"], strict=True)
    ]
    return in_context, isolated


def test_images_and_texts(processor, images):
    inputs = processor(images=images[:3], text=["the red", "", "a"])
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask"}
    assert inputs["pixel_values"].shape == (3, 3, 30, 30) and inputs["pixel_values"].dtype == torch.float32
    start, end = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
    the, red, a = processor.tokenizer.convert_tokens_to_ids(["the</w>", "red</w>", "a</w>"])
    assert inputs["input_ids"].tolist() == [[start, the, red, end], [start, end, end, end], [start, a, end, end]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]


def test_a_single_image_and_text(processor, images):
    inputs = processor(images=images[0], text="the red")
    assert inputs["pixel_values"].shape == (1, 3, 30, 30) and inputs["input_ids"].shape == (1, 4)


def test_pixels_are_those_of_the_pil_backend(processor, images):
    expected = CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    assert type(processor.image_processor) is CLIPImageProcessorPil
    expected = np.stack(expected(images)["pixel_values"])
    torch.testing.assert_close(processor(images=images)["pixel_values"], torch.tensor(expected), atol=0, rtol=0)


def test_the_torchvision_backend_is_replaced(processor, images):
    torchvision = type("CLIPImageProcessor", (CLIPImageProcessorPil,), {})  # as transformers calls it
    config = processor.image_processor.to_dict()
    other = ContextCIRProcessor(torchvision.from_dict(config), processor.tokenizer)
    assert type(other.image_processor) is CLIPImageProcessorPil
    assert torch.equal(other(images=images)["pixel_values"], processor(images=images)["pixel_values"])


def test_noun_phrases(processor):
    texts = ["the red cat and the dog", "", "swap the hat"]
    spans = [[{"text": "the red cat", "start": 0, "end": 11}, (16, 23)], [], [(5, 12)]]
    inputs = processor(text=texts, noun_phrases=spans)
    assert set(inputs) == {"input_ids", "attention_mask"} | PHRASE_TENSORS | COUNTERS
    assert inputs["phrase_sample"].tolist() == [0, 0, 2]
    assert inputs["phrase_token_mask"].shape == (3, inputs["input_ids"].shape[1])
    assert inputs["phrase_token_mask"].dtype == torch.bool
    in_context, isolated = own_tokens(inputs)
    tokenizer = processor.tokenizer
    assert in_context == isolated == [tokenizer(p)["input_ids"][1:-1] for p in ("the red cat", "the dog", "the hat")]
    assert not inputs["num_dropped_phrases"] and not inputs["num_truncated_texts"]


def test_without_any_noun_phrase_the_tensors_are_there(processor):
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
    ("text", "span"),
    [
        ("the redhat", (4, 7)),  # "red" ends inside the word, but not inside a token: see below
        ("the cat", (3, 7)),  # begins with a blank
        ("the cat", (3, 4)),  # nothing but a blank
        ("the cat sat", (1, 7)),  # begins inside "the", one token
        ("a 🐕 b", (2, 3)),
    ],
)
def test_only_exact_spans_are_kept(processor, text, span):
    inputs = processor(text=[text], noun_phrases=[[span]])
    start, end = span
    exact = text[start:end].strip() == text[start:end] and start != 1
    assert len(inputs["phrase_sample"]) == exact and inputs["num_dropped_phrases"] == (not exact)


def test_long_texts_are_cut_and_counted(processor, caplog):
    words = "the red " * 50
    inputs = processor(text=[words, "a"], noun_phrases=[[(0, 7), (8 * 37, 8 * 37 + 7), (8 * 49, 8 * 49 + 7)], []])
    assert inputs["input_ids"].shape == (2, 77)
    assert inputs["input_ids"][0, -1] == processor.tokenizer.eos_token_id
    assert inputs["num_truncated_texts"] == 1 and inputs["num_dropped_phrases"] == 2
    fits = "the red " * 37 + "a"  # 75 tokens, begin and end
    assert processor(text=[fits], noun_phrases=[[]])["num_truncated_texts"] == 0
    assert processor(text=[fits + " a"], noun_phrases=[[]])["num_truncated_texts"] == 1


def test_tokenizer_without_a_limit_is_cut_at_77(processor, tokenizer):
    unlimited = build_clip_tokenizer([("r", "e"), ("re", "d</w>"), ("t", "h"), ("th", "e</w>")])
    unlimited.model_max_length = int(1e30)
    assert ContextCIRProcessor(processor.image_processor, unlimited)(text=["a " * 99])["input_ids"].shape == (1, 77)


@pytest.mark.parametrize("span", [(3, 99), (-1, 3), (5, 5), (6, 2)])
def test_spans_outside_the_text_are_refused(processor, span):
    with pytest.raises(ValueError, match=r"Row 1: noun phrase .* outside its text of 7 characters: 'the cat'"):
        processor(text=["a", "the cat"], noun_phrases=[[], [span]])


@pytest.mark.parametrize(
    "span",
    [
        0,
        None,
        "to",
        (0, 3, 5),
        (0.0, 3.0),
        {"text": "the cat"},
        {"start": 0, "end": None},
        {"text": "the", "start": 0.0, "end": 3.0},
    ],
    ids=str,
)
def test_spans_of_another_form_are_refused(processor, span):
    with pytest.raises(ValueError, match=r"Row 1: got the noun phrase .*, expected \{'text', 'start', 'end'\} or"):
        processor(text=["a", "the cat"], noun_phrases=[[], [span]])


@pytest.mark.parametrize("spans", [None, 3, {"text": "the cat", "start": 0, "end": 7}], ids=str)
def test_noun_phrases_that_are_no_lists_are_refused(processor, spans):
    with pytest.raises(ValueError, match="Row 0: got .*, expected the list of the noun phrases of one text"):
        processor(text="the cat", noun_phrases=[spans])


def test_spans_that_are_not_nested_are_refused(processor):
    with pytest.raises(ValueError, match="Row 0: got the noun phrase 0, .* in one list for each text"):
        processor(text="the cat", noun_phrases=[(0, 3)])


def test_span_that_is_not_its_text_is_refused(processor):
    with pytest.raises(ValueError, match=r"Row 0: .*'the cat'.* reads 'the red'"):
        processor(text=["the red cat"], noun_phrases=[[{"text": "the cat", "start": 0, "end": 7}]])


def test_other_wrong_calls(processor):
    with pytest.raises(ValueError, match="2 entries for 1 texts"):
        processor(text=["a"], noun_phrases=[[], []])
    with pytest.raises(ValueError, match="Give `images`, `text` or both"):
        processor()
    with pytest.raises(ValueError, match="`noun_phrases` are spans of `text`"):
        processor(noun_phrases=[[]])


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "F"])
def test_images_of_more_than_8_bits_are_refused(processor, images, mode):
    with pytest.raises(
        ValueError, match=f"Image 1 is a Pillow image of mode '{mode}', .*contextcir.data.images.load_image"
    ):
        processor(images=[images[0], Image.new(mode, (40, 30))])


def test_paths_are_refused(processor, images, tmp_path):
    path = tmp_path / "a.png"
    images[0].save(path)
    for given in (path, str(path), [images[0], str(path)]):
        with pytest.raises(
            ValueError, match="Image [01] is the path '.*a.png', expected .*contextcir.data.images.load_image"
        ):
            processor(images=given)


def test_a_tokenizer_without_its_vocabulary_is_refused(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").unlink()
    with pytest.raises(
        ValueError, match="tokenizer of '.*clip' has 2 entries, expected at least 258. Put tokenizer.json"
    ):
        ContextCIRProcessor.from_pretrained(tmp_path / "clip")


def test_save_load_save(processor, images, tmp_path):
    processor.save_pretrained(tmp_path / "one")
    again = AutoProcessor.from_pretrained(tmp_path / "one")
    assert type(again) is ContextCIRProcessor and type(again.image_processor) is CLIPImageProcessorPil
    again.save_pretrained(tmp_path / "two")
    AutoProcessor.from_pretrained(tmp_path / "two").save_pretrained(tmp_path / "three")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json", "processing_contextcir.py"} <= names
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name
    assert json.loads((tmp_path / "three" / "tokenizer_config.json").read_text())["backend"] == "tokenizers"
    inputs = {"images": images, "text": ["the red"] * 8, "noun_phrases": [[(0, 3)]] * 8}
    one, other = processor(**inputs), again(**inputs)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_saved_tokenizer_forgets_its_last_call(processor, tmp_path):
    processor(text=["the red"], padding="max_length", max_length=50)
    processor.save_pretrained(tmp_path)
    again = ContextCIRProcessor.from_pretrained(tmp_path)
    again.tokenizer.padding_side = "left"
    assert again(text=["the red", "a " * 60])["attention_mask"].sum(dim=1).tolist() == [4, 62]
    assert again(text=["the red", "a"])["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_clip_reads_the_same_folder(clip_folder, processor):
    """A CLIP folder serves both; texts get the same ids."""
    clip = CLIPProcessor.from_pretrained(clip_folder, backend="pil")
    assert clip(text=["the red cat"])["input_ids"][0] == processor(text=["the red cat"])["input_ids"][0].tolist()


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
    """Word-aligned spans of real CIRR captions are all found, and their tokens are those of the span by itself."""
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


def test_an_image_of_any_size(processor):
    assert processor(images=Image.new("RGB", (1, 1)))["pixel_values"].shape == (1, 3, 30, 30)
