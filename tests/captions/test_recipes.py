"""The prompts of a recipe are files, which the user may replace."""

import pytest

from contextcir.captions.recipes import FOLDER, load_prompts
from contextcir.chat.prompts import prompts_hash


def test_own_prompts_replace_the_default_and_change_the_hash(tmp_path):
    default = load_prompts("good4cir")
    (tmp_path / "differences.txt").write_text("version: mine-2\n\n{reference_objects} to {target_objects}\n")
    own = load_prompts("good4cir", tmp_path)
    assert own["differences"].version == "mine-2"
    assert own["differences"].text == "{reference_objects} to {target_objects}"
    assert own["reference_objects"] == default["reference_objects"]
    assert prompts_hash(own) != prompts_hash(default) == prompts_hash(load_prompts("good4cir"))
    assert "version" not in default["differences"].render(reference_objects=[], target_objects=[])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version: 1\n{reference_objects}", r"\['reference_objects'\].*{reference_objects}, {target_objects}"),
        ("version: 1\n{reference_objects} {target_objects} {image}", r"\['image', 'reference_objects', "),
    ],
)
def test_prompts_with_other_placeholders_are_refused(tmp_path, content, message):
    (tmp_path / "differences.txt").write_text(content)
    with pytest.raises(ValueError, match=f"differences.txt .*{message}"):
        load_prompts("good4cir", tmp_path)


def test_a_folder_without_prompts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} .*instructcir.*image_caption.txt, reformulation.txt"):
        load_prompts("instructcir", tmp_path)


def test_every_prompt_file_is_a_stage():
    stages = [path.stem for path in (*FOLDER.glob("good4cir/*"), *FOLDER.glob("instructcir/*"))]
    assert sorted(stages) == sorted([*load_prompts("good4cir"), *load_prompts("instructcir")])
