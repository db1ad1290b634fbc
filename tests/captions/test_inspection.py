"""Images are read and downloaded once, and their problems are those of the pair."""

from dataclasses import replace
from pathlib import Path

import pytest

from contextcir.captions import inspection
from contextcir.data.images import ImageError, load_image
from contextcir.data.pairs import Pair
from tests.captions.conftest import Model, run


@pytest.fixture
def reads(monkeypatch):
    """Names of the images that were read."""
    names = []

    def load(source, **options):
        names.append(Path(source).name)
        return load_image(source, **options)

    monkeypatch.setattr(inspection, "load_image", load)
    return names


def test_an_image_of_two_pairs_is_read_once(pair, tmp_path, reads):
    run([pair, Pair(pair.target_image, str(tmp_path / "2.png"), "1.png", "2.png")], Model(), tmp_path, in_flight=1)
    assert reads == ["0.png", "1.png", "2.png"]


def test_an_image_of_concurrent_pairs_is_read_once(pair, tmp_path, reads):
    target = str(tmp_path / "2.png")
    run([pair, *(Pair(pair.reference_image, target, "0.png", f"{n}.png") for n in range(8))], Model(), tmp_path)
    assert reads.count("0.png") == 1


def test_a_url_is_downloaded_once_and_its_error_is_the_pairs(pair, tmp_path):
    fetched = []

    def fetch(url):
        fetched.append(url)
        if "bad" in url:
            raise ImageError(f"{url}: is private")
        return (tmp_path / "1.png").read_bytes()

    good, bad = "https://example.org/good.png", "https://example.org/bad.png"
    pairs = [Pair(pair.reference_image, url, "0.png", url) for url in (good, bad)]
    for _ in range(2):
        model = Model()
        results, captioner, _ = run(pairs, model, tmp_path, in_flight=1, fetch=fetch, folder=tmp_path / "cache")
        assert [result.reason for result in results] == ["", "unreadable_image"]
        assert "is private" in results[1].detail
        assert model.requests[1].images[0].read_bytes() == (tmp_path / "1.png").read_bytes()
    assert fetched == [good, bad, bad]  # the second run has the file
    assert captioner.inspector.local(pairs[0]).target_image == model.requests[1].images[0]


def test_a_url_is_an_error_if_downloads_are_not_allowed(pair, tmp_path):
    (result,), _, _ = run([replace(pair, target_image="http://x/1.png")], Model(), tmp_path, folder=tmp_path)
    assert result.reason == "unreadable_image" and "http://x/1.png" in result.detail
