"""Flickr30k and COCO: queries from Karpathy's files, hand counts, the list of test images."""

import pytest

from contextcir.benchmarks import karpathy
from contextcir.benchmarks.karpathy import COCO, FLICKR30K
from contextcir.retrieval.base import Ranking
from tests.benchmarks.layouts import refuses, write
from tests.measured import measured
from tests.tiny_triplets import png


def entry(filename, sentids, split="test", **more):
    sentences = [{"sentid": id_, "raw": f"A dog of {id_} .\n", "tokens": ["a", "dog"], "imgid": 0} for id_ in sentids]
    return {"filename": filename, "split": split, "sentids": list(sentids), "imgid": 0, "sentences": sentences, **more}


@pytest.fixture(params=[FLICKR30K, COCO], ids=lambda benchmark: benchmark.name)
def mini(request, tmp_path, monkeypatch):
    """One of the two benchmarks and its folder: three test images with two or three captions, and other images."""
    benchmark, more = request.param, {}
    if benchmark is COCO:
        more = {"filepath": "val2014", "cocoid": 7}
    images = [
        entry("a.jpg", [0, 1], "train", **(more and {"filepath": "train2014"})),
        entry("b.jpg", [2, 3], **more),
        entry("c.jpg", [4, 5], "restval", **more),
        entry("d.jpg", [6, 7], **more),
        entry("e.jpg", [8, 9, 10], **more),
    ]
    write(tmp_path / f"dataset_{benchmark.name}.json", {"images": images, "dataset": benchmark.name})
    folder = tmp_path / ("val2014" if benchmark is COCO else "flickr30k-images")
    folder.mkdir()
    for number, name in enumerate("bde"):
        (folder / f"{name}.jpg").write_bytes(png(number))
    monkeypatch.setitem(karpathy.OFFICIAL, benchmark.name, {"queries": 7, "images": 3})
    return benchmark, tmp_path


def test_the_official_layout(mini):
    benchmark, root = mini
    (loaded,) = benchmark.load(str(root))
    assert loaded.protocol_id == f"{benchmark.name}/karpathy/test/every-caption"
    assert loaded.gallery.ids == ["b.jpg", "d.jpg", "e.jpg"]
    assert [query.id for query in loaded.queries] == ["2", "3", "6", "7", "8", "9", "10"]  # also the third one
    assert loaded.queries[2].modification_text == "A dog of 6 .\n"  # as it was typed
    assert not any(query.has_reference for query in loaded.queries)
    assert loaded.relevance["10"] == {"e.jpg"}
    assert loaded.gallery.image("e.jpg").size == (34, 30)


def test_every_caption_counts(mini):
    benchmark, root = mini
    (loaded,) = benchmark.load(str(root))
    ranking = Ranking([query.id for query in loaded.queries], [["e.jpg", "b.jpg", "d.jpg"]] * 7)
    assert loaded.evaluate(ranking) == pytest.approx({"recall@1": 100 * 3 / 7, "recall@5": 100, "recall@10": 100})
    assert loaded.chance()["recall@1"] == pytest.approx(100 / 3)


def test_missing_and_damaged_data_are_named(mini, monkeypatch):
    benchmark, root = mini
    file = root / f"dataset_{benchmark.name}.json"
    next(root.glob("*/d.jpg")).unlink()
    refuses(f"{benchmark.name} test: 1 of 3 .*d.jpg", benchmark.load, str(root))
    benchmark.load(str(root), check_images=False)
    monkeypatch.undo()
    refuses("7 queries and 3 images, .* [25,]+0[01]0 queries and [15],000 images", benchmark.load, str(root))
    for images in ([entry("b.jpg", [1]) | {"sentences": [{"sentid": 1}]}], [{"filename": "b.jpg"}]):
        write(file, {"images": images})
        refuses(f"{file.name}, images, row 0, key '(sentences.0.raw|split)'", benchmark.load, str(root))
    file.unlink()
    refuses(file.name, benchmark.load, str(root))


def test_from_the_command_line(mini, run):
    benchmark, root = mini
    record = measured(run, benchmark.name, root)
    assert [result["retriever"] for result in record["results"]] == [str(run), "CLIP, text only"]
    assert record["results"][0]["metrics"]["recall@5"] == 100  # of three images


def test_the_official_list_of_test_images(data_root, tmp_path):
    """Karpathy's file is not on this machine, the list of its test images is: 5,000 places in COCO's layout."""
    path = data_root / "coco_karpathy" / "karpathy_test_images.txt"
    listed = [line.split()[0] for line in path.read_text().splitlines()]
    images = [
        entry(place.split("/")[1], range(6 * row, 6 * row + 5 + (row < 10)), filepath=place.split("/")[0])
        for row, place in enumerate(listed)
    ]
    write(tmp_path / "dataset_coco.json", {"images": images})
    (loaded,) = COCO.load(str(tmp_path), check_images=False)
    assert (len(loaded.queries), len(loaded.gallery)) == (25_010, 5000)
    assert [image.relative_to(tmp_path).as_posix() for image in loaded.gallery.images] == listed
