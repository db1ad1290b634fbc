"""The corpora of BASIC on scenes hold words of the world and images of the training split."""

from pathlib import Path

from PIL import Image

from research import scenes_words
from tests.tiny_scenes import build


def test_words_and_images(tmp_path):
    build(tmp_path / "scenes")
    scenes_words.main(["--data", str(tmp_path / "scenes"), "--output", str(tmp_path / "words")])
    objects = Path(tmp_path, "words", "objects.txt").read_text().splitlines()
    assert len(set(objects)) == 128 and "small red circle" in objects
    assert "beach background" in Path(tmp_path, "words", "backgrounds.txt").read_text().splitlines()
    images = sorted(Path(tmp_path, "words", "train_images").iterdir())
    assert len(images) == 8 and Image.open(images[0]).size == (48, 48)
