"""Training examples are read from files and datasets, filtered and split."""

import json

import datasets
import pytest

from contextcir.captions.examples import Example, judge_examples, read_examples, split_examples
from contextcir.captions.recipes import load_prompts


def write_lines(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def row(a="a cat", b="a dog", text="make it a dog"):
    return {"caption_a": a, "caption_b": b, "modification_text": text}


def test_lines_and_datasets_give_the_same_examples(tmp_path):
    rows = [row(), row(text="  turn it\ninto a dog ")]
    expected = [Example("a cat", "a dog", "make it a dog"), Example("a cat", "a dog", "turn it into a dog")]
    assert read_examples(write_lines(tmp_path / "seed.jsonl", [rows[0], "", rows[1]])) == expected
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "data" / "dev-00000-of-00001.parquet")
    assert read_examples(str(tmp_path / "data"), "validation") == expected


def test_kept_captions_of_pairs_jsonl_are_read(tmp_path):
    kept, dropped = {"text": "make it a dog", "dropped": None}, {"text": "a dog in image B", "dropped": "names_images"}
    made = {"reference": "a cat", "target": "a dog", "captions": [dropped, kept], "reason": ""}
    failed = made | {"reason": "no_caption_left", "captions": [dropped]}
    assert read_examples(write_lines(tmp_path / "pairs.jsonl", [failed, made])) == [Example(**row())]
    of_objects = made | {"reference": [{"name": "cat", "descriptors": []}]}
    with pytest.raises(ValueError, match="row 1: caption_a is list.*instructcir"):
        read_examples(write_lines(tmp_path / "pairs.jsonl", [of_objects]))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "caption_a, caption_b, modification_text"),
        ([row(), {"caption_a": "a", "text": "b"}], "row 2: caption_b, modification_text.* caption_a, text"),
        ([row(), "{"], "row 2 .*line 1 column 2"),
        (["[1]"], "row 1: .*caption_a.* list"),
        ([row(b=None)], "row 1: caption_b is NoneType"),
    ],
)
def test_malformed_rows_are_named(tmp_path, rows, problem):
    with pytest.raises(ValueError, match=f"seed.jsonl.*{problem}"):
        read_examples(write_lines(tmp_path / "seed.jsonl", rows))


@pytest.mark.parametrize("name", ["seed.jsonl", "no_dataset"])
def test_a_missing_source_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=str(tmp_path / name)):
        read_examples(str(tmp_path / name))


def test_removed_examples_are_counted_by_reason():
    long, longest = " ".join("abcdefghijklm"), " ".join("abcdefghijkl")
    echo = "Speak of the things themselves, not of images, descriptions or captions."
    rows = [row(), row(), row(text=long), row(text="dog"), row(text=longest), row(a=" "), row(a="a dog")]
    rows.append(row(text=echo))
    examples = [Example(*(text.strip() for text in one.values())) for one in rows]
    kept, left_out = judge_examples(examples, [load_prompts("instructcir")["reformulation"]])
    assert [example.modification_text for example in kept] == ["make it a dog", longest]
    assert left_out.pop("length") == 2
    assert left_out == dict.fromkeys(("repeated", "empty_caption", "same_captions", "echoes_prompt"), 1)


def test_examples_of_the_same_captions_stay_together():
    pairs = [(str(number), str(number + 1)) for number in range(20)]
    examples = [Example(a, b, text) for a, b in pairs for text in ("make it so", "do it")]
    examples += [Example(b, a, "undo it") for a, b in pairs]
    learned, held_out = split_examples(examples, 0.2, seed=1)
    assert len(held_out) == 12 and sorted(map(str, learned + held_out)) == sorted(map(str, examples))
    sides = [{frozenset((one.caption_a, one.caption_b)) for one in side} for side in (learned, held_out)]
    assert not sides[0] & sides[1]
    assert split_examples(examples, 0.2, seed=1) == (learned, held_out) != split_examples(examples, 0.2, seed=2)
    assert [len(side) for side in split_examples(examples[:4], 0.001)] == [2, 2]
    with pytest.raises(ValueError, match="All 2 examples"):
        split_examples(examples[:2], 0.5)
