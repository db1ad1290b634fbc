"""ImageNet-R domain conversion: labels to targets, queries without targets, both metrics, the official lists."""

import re
from collections import Counter
from pathlib import Path

import pytest

from contextcir.benchmarks import imagenet_r
from contextcir.retrieval.base import Ranking
from tests.benchmarks.layouts import refuses
from tests.measured import measured
from tests.tiny_triplets import png

QUERIES = ["imgnet/real/n01/a.JPEG", "imgnet/real/n01/b.JPEG", "imgnet/real/n09/c.JPEG", "imgnet/real/n09/d.JPEG"]
CARTOONS = [f"imgnet/imagenet-r/n01/cartoon_{number}.jpg" for number in range(2)]
TOYS = [f"imgnet/imagenet-r/n09/toy_{number}.jpg" for number in range(3)]
SCULPTURES = [f"imgnet/imagenet-r/n09/sculpture_{number}.jpg" for number in range(4)]
ORIGAMI = "imgnet/imagenet-r/n01/origami_0.jpg"
LABELS = {  # of class 2, n01, and class 994, n09
    **dict(zip(QUERIES, (6002, 6002, 6994, 6994), strict=True)),
    **dict.fromkeys(CARTOONS, 2),
    ORIGAMI: 1002,
    **dict.fromkeys(TOYS, 2994),
    **dict.fromkeys(SCULPTURES, 3994),
}


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """Four photographs of two classes, in the official layout. No domain has both classes."""
    lists = {"real_query": {id_: LABELS[id_] - 6000 for id_ in QUERIES}, "targets": LABELS}
    for name, labels in lists.items():
        path = tmp_path / "imgnet" / f"imgnet_{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(f"{id_} {label} \n" for id_, label in labels.items())
        )  # with a blank, like the official lists
    for number, id_ in enumerate(LABELS):
        (tmp_path / id_).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / id_).write_bytes(png(number))
    counts = {"queries": 4, "real": 4, "cartoon": 2, "origami": 1, "toy": 3, "sculpture": 4}
    monkeypatch.setattr(imagenet_r, "OFFICIAL", counts)
    return tmp_path


def ranked(ids) -> Ranking:
    """The same ranking for every query."""
    return Ranking(QUERIES, [list(ids)] * 4)


def test_the_official_layout(mini):
    parts = imagenet_r.load(str(mini))
    assert [part.part for part in parts] == ["cartoon", "origami", "toy", "sculpture"]
    assert {part.protocol_id for part in parts} == {"imagenet_r/test/domain-of/pic2word"}
    assert len({id(part.gallery) for part in parts}) == 1
    assert parts[0].gallery.ids == list(LABELS)  # all domains and the photographs
    assert [query.modification_text for query in parts[1].queries] == ["a origami of"] * 4
    assert parts[0].gallery.reference_image(parts[0].queries[2]).size == (34, 30)
    (sculpture,) = imagenet_r.load(str(mini), text="find-in-domain", protocol="any-hit")[3:]
    assert sculpture.queries[0].modification_text == "find this object in sculpture"
    assert sculpture.protocol_id == "imagenet_r/test/find-in-domain/any-hit"


def test_targets_are_of_the_same_class_in_the_domain(mini):
    cartoon, origami, toy, sculpture = (part.relevance for part in imagenet_r.load(str(mini)))
    assert cartoon == {QUERIES[0]: set(CARTOONS), QUERIES[1]: set(CARTOONS), QUERIES[2]: set(), QUERIES[3]: set()}
    assert origami[QUERIES[1]] == {ORIGAMI} and not origami[QUERIES[2]]
    assert toy[QUERIES[3]] == set(TOYS) and not toy[QUERIES[0]]
    assert sculpture[QUERIES[3]] == set(SCULPTURES)


def test_both_metrics(mini):
    """One of two cartoons is at place 1, the other at 12. The two queries of the other class have no target: 0."""
    ids = [CARTOONS[0], *(id_ for id_ in LABELS if id_ not in CARTOONS)]
    ids.insert(11, CARTOONS[1])
    expected = {
        "pic2word": {"recall_share@10": 25, "recall_share@50": 50},
        "any-hit": {"recall@10": 50, "recall@50": 50},
    }
    for protocol, numbers in expected.items():
        cartoon = imagenet_r.load(str(mini), protocol=protocol)[0]
        assert cartoon.evaluate(ranked(ids)) == numbers
        scores = cartoon.scores(ranked(ids))
        assert [values.shape for values in scores.values()] == [(4,)] * 2
        assert scores[f"{imagenet_r.METRICS[protocol]}@50"].tolist() == [100, 100, 0, 0]


def test_the_reference_stays_in_the_ranking(mini):
    cartoon = imagenet_r.load(str(mini))[0]
    assert not cartoon.exclude_reference
    assert cartoon.evaluate(ranked(LABELS))["recall_share@10"] == 50  # behind four photographs


def test_chance(mini):
    """Half of the queries have targets: 10 of 14 places, and all but both cartoons outside the first ten."""
    assert imagenet_r.load(str(mini))[0].chance() == pytest.approx(
        {"recall_share@10": 100 * 10 / 14 / 2, "recall_share@50": 50}
    )
    assert imagenet_r.load(str(mini), protocol="any-hit")[0].chance() == pytest.approx(
        {"recall@10": 100 * (1 - 4 * 3 / (14 * 13)) / 2, "recall@50": 50}
    )


def test_missing_and_damaged_data_are_named(mini):
    (mini / TOYS[1]).unlink()
    refuses("1 of 14 .*toy_1.jpg", imagenet_r.load, str(mini))
    path = mini / "imgnet" / "imgnet_targets.txt"
    lines = path.read_text().splitlines()
    for line in (CARTOONS[0], f"{CARTOONS[0]} two", lines[0]):  # without a label, with a wrong one, a second time
        path.write_text("\n".join([*lines[:4], line, *lines[5:]]))
        refuses(f"imgnet_targets.txt, line 5: .*'{line}'", imagenet_r.load, str(mini), check_images=False)
    path.write_text("\n".join([*lines[:-1], f"{SCULPTURES[3]} 4994"]))
    with pytest.raises(ValueError, match="3 sculpture and 1 others, .* 4 queries and 4 real .* 4 sculpture"):
        imagenet_r.load(str(mini), check_images=False)
    path.unlink()
    refuses("imgnet_targets.txt", imagenet_r.load, str(mini))


def test_from_the_command_line(mini, run):
    record = measured(run, "imagenet_r", mini, "--protocol", "any-hit")
    assert list(record["results"][0]["parts"]) == list(imagenet_r.PARTS)
    assert set(record["results"][0]["metrics"]) == {"recall@10", "recall@50"}


# --- real annotations ------------------------------------------------------------------------------------------------


def test_the_official_lists(data_root):
    parts = imagenet_r.load(str(data_root / "pic2word_imgnet" / "data"), check_images=False)
    assert all(len(part.queries) == 10_000 and len(part.gallery) == 16_983 for part in parts)
    unanswered = {part.part: sum(not targets for targets in part.relevance.values()) for part in parts}
    assert unanswered == {"cartoon": 2350, "origami": 4700, "toy": 2800, "sculpture": 2900}
    for part in parts:
        # The names of the images agree with the labels.
        assert all(f"/{part.part}_" in id_ for targets in part.relevance.values() for id_ in targets)
        folder = {id_: id_.split("/")[2] for id_ in part.gallery.ids}
        assert all(folder[id_] == folder[query] for query, targets in part.relevance.items() for id_ in targets)
        expected = sum(f"/{part.part}_" in id_ for id_ in part.gallery.ids)
        assert len(frozenset().union(*part.relevance.values())) == expected
    references = [query.reference_id for query in parts[0].queries]
    assert set(references) <= parts[0].gallery.positions.keys()
    assert set(Counter(reference.split("/")[2] for reference in references).values()) == {50}


def test_the_label_arithmetic(data_root):
    root = data_root / "pic2word_imgnet" / "data" / "imgnet"
    labels = imagenet_r._read_list(root / "imgnet_targets.txt")
    queries = imagenet_r._read_list(root / "imgnet_real_query.txt")
    names = {image: re.match(r"(?:([a-z]+)_|ILSVRC)", Path(image).name).group(1) or "real" for image in labels}
    assert all(imagenet_r.DOMAINS[label // 1000] == names[image] for image, label in labels.items())
    assert all(labels[image] == 6000 + class_ for image, class_ in queries.items())
    classes = {(image.split("/")[2], label % 1000) for image, label in labels.items()}
    assert len(classes) == len({folder for folder, _ in classes}) == len({class_ for _, class_ in classes}) == 200
