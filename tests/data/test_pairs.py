"""Pairs are read from every kind of file, sampled at random, and mined by similarity."""

import json
from collections import Counter

import datasets
import numpy as np
import pytest

from contextcir.data.images import is_url, load_image
from contextcir.data.pairs import Pair, mine_pairs, read_pairs, sample_pairs

ROW = {"reference_image": "a.png", "target_image": "sub/b.png"}
TWO = [ROW, {"reference_image": "c.png", "target_image": "d.png", "original_caption": "greener, please"}]


def write(folder, name, content) -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


# --- files -----------------------------------------------------------------------------------------------------------


def as_csv(rows):
    lines = ["reference_image,target_image,original_caption"]
    lines += [f'{row["reference_image"]},{row["target_image"]},"{row.get("original_caption", "")}"' for row in rows]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.json", TWO),
        ("pairs.jsonl", "\n".join(map(json.dumps, TWO)) + "\n\n"),
        ("pairs.csv", as_csv(TWO)),
        ("PAIRS.CSV", "\ufeff" + as_csv(TWO)),
    ],
)
def test_all_kinds_of_files_give_the_same_pairs(tmp_path, name, content):
    first, second = read_pairs(write(tmp_path, name, content))
    assert first == Pair(str(tmp_path / "a.png"), str(tmp_path / "sub/b.png"), "a.png", "sub/b.png", None)
    assert second.original_caption == "greener, please"


def test_the_similarity_of_a_pair_is_read_from_every_kind_of_file(tmp_path, images):
    rows = [{**ROW, "similarity": 0.8125}, {**ROW, "similarity": None}]
    lines = ["reference_image,target_image,similarity", "a.png,b.png,0.8125", "a.png,b.png,"]
    for name, content in (("p.json", rows), ("p.csv", "\n".join(lines))):
        assert [pair.similarity for pair in read_pairs(write(tmp_path, name, content))] == [0.8125, None]
    dataset(tmp_path / "data", images, similarity=[0.8125, None])
    assert [pair.similarity for pair in read_pairs(str(tmp_path / "data"))] == [0.8125, None]
    for bad in ("high", 2, [0.5]):
        with pytest.raises(ValueError, match="pair 1: similarity"):
            read_pairs(write(tmp_path, "p.json", [{**ROW, "similarity": bad}]))


def test_the_single_object_of_good4cir_is_a_list_of_one(tmp_path):
    (pair,) = read_pairs(write(tmp_path, "pairs.json", ROW))
    assert pair.reference_id == "a.png"


def test_ids_absolute_paths_and_utf8(tmp_path):
    row = {"reference_image": "/elsewhere/ä.png", "target_image": "b.png", "reference_id": "ä", "target_id": "b"}
    (pair,) = read_pairs(write(tmp_path, "pairs.json", [row]))
    assert (pair.reference_image, pair.reference_id, pair.target_id) == ("/elsewhere/ä.png", "ä", "b")


def test_the_id_of_a_pair_depends_only_on_the_ids_of_its_images():
    pair = Pair("x", "y", "a", "b")
    assert pair.id == Pair("other", "files", "a", "b", "a caption").id
    assert len({pair.id, Pair("x", "y", "b", "a").id, Pair("x", "y", "ab", "").id, Pair("x", "y", "a", "c").id}) == 4


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("p.json", "[]", "reference_image .*target_image"),
        ("p.jsonl", "\n\n", "reference_image .*target_image"),
        ("p.csv", "reference_image,target_image\n", "reference_image .*target_image"),
        ("p.json", '[{"reference_image": "a.png",\n "target_image" "b.png"}]', "line 2: .*JSON"),
        ("p.jsonl", json.dumps(ROW) + "\n{", "line 2: .*JSON"),
        ("p.jsonl", "{\n" + json.dumps(ROW), "line 1: .*JSON"),
        ("p.json", '"a.png"', "pair 1: .*'a.png'.*reference_image"),
        ("p.json", [ROW, ["a.png", "b.png"]], r"pair 2: .*\['a.png', 'b.png'\]"),
        ("p.json", [ROW, {"reference_image": "a.png"}], "pair 2: .*target_image; .*reference_image"),
        ("p.json", [ROW | {"target": "b.png"}], "pair 1: .*'target'.*reference_image"),
        ("p.json", [ROW | {"target_image": ""}], "pair 1: target_image .*''"),
        ("p.json", [ROW | {"target_image": None}], "pair 1: target_image .*None"),
        ("p.json", [ROW | {"reference_id": 7}], "pair 1: reference_id .*7"),
        (
            "p.json",
            [ROW | {"reference_image": "https://example.org/a.png"}],
            "pair 1: reference_image .*https://example.org/a.png.*--allow_urls",
        ),
        ("p.csv", "reference_image,target_image\na.png\n", "line 2: .*2 "),
        ("p.csv", "reference_image,target_image\na.png,b.png,c.png\n", "line 2: .*2 "),
        ("p.csv", 'reference_image,target_image\n"a.png,b.png\n', "line 1: .*CSV"),
        ("p.csv", "reference,target_image\na.png,b.png\n", "line 2: .*reference_image; .*reference, target_image"),
    ],
)
def test_invalid_files_are_named_with_the_line_or_pair(tmp_path, name, content, named):
    with pytest.raises(ValueError, match=f"{name}.*{named}"):
        read_pairs(write(tmp_path, name, content))


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_missing_files_and_other_encodings(tmp_path, kind):
    with pytest.raises(ValueError, match=f"none.{kind} "):
        read_pairs(str(tmp_path / f"none.{kind}"))
    (tmp_path / f"latin.{kind}").write_bytes('[{"reference_image": "ä.png"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=f"latin.{kind} .*UTF-8"):
        read_pairs(str(tmp_path / f"latin.{kind}"))


def test_urls_if_they_are_allowed(tmp_path):
    row = ROW | {"reference_image": "HTTPS://example.org/a.png"}
    (pair,) = read_pairs(write(tmp_path, "pairs.json", [row]), allow_urls=True)
    assert pair.reference_image == pair.reference_id == "HTTPS://example.org/a.png"
    assert is_url(pair.reference_image) and not is_url(pair.target_image) and not is_url(b"http://")


# --- data sets -------------------------------------------------------------------------------------------------------


def dataset(folder, images, **columns):
    data = datasets.Dataset.from_dict({"reference_image": images[:2], "target_image": images[2:4], **columns})
    for name in ("reference_image", "target_image"):
        data = data.cast_column(name, datasets.Image())
    folder.mkdir()
    data.to_parquet(folder / "train-00000.parquet")
    return str(folder)


def test_a_dataset_with_image_columns(tmp_path, images):
    files = []
    for number, image in enumerate((images[0], images[1], images[2], images[0])):
        image.save(tmp_path / f"{number}.png")
        files.append({"bytes": (tmp_path / f"{number}.png").read_bytes(), "path": None})
    pairs = read_pairs(dataset(tmp_path / "data", files, modification_text=["one", "two"], other=[1, 2]))
    assert len(pairs) == 2 and [pair.original_caption for pair in pairs] == ["one", "two"]
    assert load_image(pairs[1].reference_image).tobytes() == images[1].tobytes()
    assert pairs[0].reference_id == pairs[1].target_id != pairs[1].reference_id  # equal bytes have equal ids
    assert pairs[1:] == [pairs[1]] == [pairs[-1]]


def test_ids_of_a_dataset_are_kept(tmp_path, images):
    path = dataset(tmp_path / "data", images, reference_id=["a", "b"], target_id=["c", "d"])
    assert [(pair.reference_id, pair.target_id) for pair in read_pairs(path)] == [("a", "c"), ("b", "d")]


def test_an_empty_cell_leaves_other_pairs_usable(tmp_path, images):
    pairs = read_pairs(dataset(tmp_path / "data", [None, *images[:3]]))
    assert pairs[0].reference_image == {"bytes": None, "path": None}
    assert load_image(pairs[1].reference_image).size == images[0].size


def test_invalid_datasets(tmp_path, images):
    folder = tmp_path / "data"
    dataset(folder, images)
    with pytest.raises(ValueError, match="/nowhere'"):
        read_pairs(str(tmp_path / "nowhere"))
    datasets.Dataset.from_dict({"image": [1]}).to_parquet(folder / "train-00000.parquet")
    with pytest.raises(ValueError, match=f"{folder}: .*reference_image; .* image"):
        read_pairs(str(folder))
    dataset(tmp_path / "numbers", images, original_caption=[1, 2])
    with pytest.raises(ValueError, match="numbers: original_caption .*int64"):
        read_pairs(str(tmp_path / "numbers"))


# --- sampling --------------------------------------------------------------------------------------------------------


def test_all_pairs_within_groups_are_sampled_once():
    groups = ["a", "b", "a", "b", "a", "alone"]
    pairs = sample_pairs(groups, 8)
    assert len(set(pairs)) == 8  # 3 * 2 + 2 * 1, both directions
    assert all(one != other and groups[one] == groups[other] for one, other in pairs)


def test_pairs_over_a_whole_collection_are_uniform_and_seeded():
    counts = Counter()
    for seed in range(3000):
        counts.update(sample_pairs([""] * 4, 2, seed=seed))
    assert len(counts) == 12 and all(400 < count < 600 for count in counts.values())  # 500 each
    assert sample_pairs([""] * 100, 5, seed=1) == sample_pairs([""] * 100, 5, seed=1)
    assert sample_pairs([""] * 100, 5, seed=1) != sample_pairs([""] * 100, 5, seed=2)


@pytest.mark.parametrize(("groups", "count"), [(["a", "b"], 1), (["a", "a"], 3), (["a", "a"], 0), ([], 1)])
def test_counts_of_pairs_out_of_range(groups, count):
    with pytest.raises(ValueError, match=rf"^{len(groups)} images.* {count}\."):
        sample_pairs(groups, count)


# --- mining ----------------------------------------------------------------------------------------------------------


def circle(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1) * [[3.0]]


def test_images_within_the_bounds_are_paired_with_the_most_similar():
    # cos: 0-10 0.985 (too similar), 0-30 0.866, 10-30 0.940, 0-90 and 10-90 out of bounds, 30-90 0.5 out of bounds
    pairs = mine_pairs(circle(0, 10, 30, 90), low=0.8, high=0.95)
    assert {frozenset(pair[:2]) for pair in pairs} == {frozenset({0, 2}), frozenset({1, 2})}
    assert all(abs(similarity - {0: 0.866, 1: 0.940}[min(one, other)]) < 1e-3 for one, other, similarity in pairs)


@pytest.mark.parametrize("pairs_per_image", [1, 3])
def test_no_two_images_are_paired_twice(pairs_per_image):
    embeds = np.random.default_rng(0).normal(size=(60, 8))
    pairs = mine_pairs(embeds, low=0.2, high=0.9, pairs_per_image=pairs_per_image)
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs) > 40 * pairs_per_image
    assert max(Counter(pair[0] for pair in pairs).values()) == pairs_per_image
    normal = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    for one, other, similarity in pairs:
        assert one != other and 0.2 <= similarity <= 0.9
        assert similarity == pytest.approx(normal[one] @ normal[other], abs=1e-5)
    assert pairs == sorted(pairs)


def test_mining_is_seeded_and_does_not_depend_on_the_size_of_blocks(monkeypatch):
    embeds = np.random.default_rng(0).normal(size=(50, 6))
    whole = mine_pairs(embeds, low=0.1, high=0.9, pairs_per_image=2, seed=3)
    monkeypatch.setattr("contextcir.data.pairs.MAX_SIMILARITIES", 150)
    parts = mine_pairs(embeds, low=0.1, high=0.9, pairs_per_image=2, seed=3)
    assert [pair[:2] for pair in parts] == [pair[:2] for pair in whole]
    assert [pair[:2] for pair in mine_pairs(embeds, low=0.1, high=0.9, seed=4)] != [
        pair[:2] for pair in mine_pairs(embeds, low=0.1, high=0.9, seed=5)
    ]


def test_copies_are_not_paired():
    assert mine_pairs(circle(0, 0, 0), low=0.5, high=0.99) == []


@pytest.mark.parametrize(
    "embeds, shape",
    [(np.zeros((3, 2)), r"\(3, 2\)"), (np.ones(3), r"\(3,\)"), (np.array([[1.0, np.nan]]), r"\(1, 2\)")],
)
def test_embeddings_without_a_direction(embeds, shape):
    with pytest.raises(ValueError, match=shape):
        mine_pairs(embeds)


@pytest.mark.parametrize("options", [{"low": 0.9, "high": 0.9}, {"high": 1.1}, {"pairs_per_image": 0}])
def test_bounds_out_of_range(options):
    with pytest.raises(ValueError, match=".*".join(f"{name}={value}" for name, value in options.items())):
        mine_pairs(circle(0, 1), **options)
