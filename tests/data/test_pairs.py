"""Reading pairs in every form, drawing them, and mining them by similarity."""

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
def test_all_files_say_the_same(tmp_path, name, content):
    first, second = read_pairs(write(tmp_path, name, content))
    assert first == Pair(str(tmp_path / "a.png"), str(tmp_path / "sub/b.png"), "a.png", "sub/b.png", None)
    assert second.original_caption == "greener, please"


def test_the_single_object_of_good4cir_is_a_list_of_one(tmp_path):
    (pair,) = read_pairs(write(tmp_path, "pairs.json", ROW))
    assert pair.reference_id == "a.png"


def test_ids_absolute_paths_and_utf8(tmp_path):
    row = {"reference_image": "/elsewhere/ä.png", "target_image": "b.png", "reference_id": "ä", "target_id": "b"}
    (pair,) = read_pairs(write(tmp_path, "pairs.json", [row]))
    assert (pair.reference_image, pair.reference_id, pair.target_id) == ("/elsewhere/ä.png", "ä", "b")


def test_the_id_of_a_pair_depends_on_both_ids_in_their_order_and_on_nothing_else():
    pair = Pair("x", "y", "a", "b")
    assert pair.id == Pair("other", "files", "a", "b", "a caption").id
    assert len({pair.id, Pair("x", "y", "b", "a").id, Pair("x", "y", "ab", "").id, Pair("x", "y", "a", "c").id}) == 4


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.json", "[]", "holds no pairs"),
        ("p.jsonl", "\n\n", "holds no pairs"),
        ("p.csv", "reference_image,target_image\n", "holds no pairs"),
        ("p.json", '[{"reference_image": "a.png",\n "target_image" "b.png"}]', "line 2: is not JSON"),
        ("p.jsonl", json.dumps(ROW) + "\n{", "line 2: is not JSON"),
        ("p.json", '"a.png"', "pair 1: got 'a.png', expected an object"),
        ("p.json", [ROW, ["a.png", "b.png"]], "pair 2: got"),
        ("p.json", [ROW, {"reference_image": "a.png"}], "pair 2: there is no target_image; there are reference_image"),
        ("p.json", [ROW | {"target": "b.png"}], "pair 1: there is no column 'target'. Columns are reference_image"),
        ("p.json", [ROW | {"target_image": ""}], "target_image is '', expected a text"),
        ("p.json", [ROW | {"target_image": None}], "target_image is None"),
        ("p.json", [ROW | {"reference_id": 7}], "reference_id is 7"),
        ("p.json", [ROW | {"reference_image": "https://example.org/a.png"}], "is a URL .*--allow_urls"),
        ("p.csv", "reference_image,target_image\na.png\n", "line 2: expected 2 fields"),
        ("p.csv", "reference_image,target_image\na.png,b.png,c.png\n", "line 2: expected 2 fields"),
        ("p.csv", 'reference_image,target_image\n"a.png,b.png\n', "is not CSV"),
        ("p.csv", "reference,target_image\na.png,b.png\n", "there is no reference_image; there are reference, target"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, name, content, problem):
    with pytest.raises(ValueError, match=f"{name}.*{problem}"):
        read_pairs(write(tmp_path, name, content))


def test_missing_files_and_other_encodings(tmp_path):
    with pytest.raises(ValueError, match="no.json is missing"):
        read_pairs(str(tmp_path / "no.json"))
    for name in ("latin.json", "latin.jsonl", "latin.csv"):
        (tmp_path / name).write_bytes('[{"reference_image": "ä.png"}]'.encode("latin-1"))
        with pytest.raises(ValueError, match=f"{name} is not text in UTF-8"):
            read_pairs(str(tmp_path / name))


def test_urls_where_they_are_allowed(tmp_path):
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
    assert pairs[0].reference_id == pairs[1].target_id != pairs[1].reference_id  # the same bytes, the same id


def test_ids_of_a_dataset_are_kept(tmp_path, images):
    path = dataset(tmp_path / "data", images, reference_id=["a", "b"], target_id=["c", "d"])
    assert [(pair.reference_id, pair.target_id) for pair in read_pairs(path)] == [("a", "c"), ("b", "d")]


def test_an_empty_cell_costs_no_other_pair(tmp_path, images):
    pairs = read_pairs(dataset(tmp_path / "data", [None, *images[:3]]))
    assert pairs[0].reference_image == {"bytes": None, "path": None}
    assert load_image(pairs[1].reference_image).size == images[0].size


def test_datasets_that_are_none(tmp_path, images):
    folder = tmp_path / "data"
    dataset(folder, images)
    with pytest.raises(ValueError, match="neither a .json, .jsonl or .csv file, nor a folder"):
        read_pairs(str(tmp_path / "nowhere"))
    datasets.Dataset.from_dict({"image": [1]}).to_parquet(folder / "train-00000.parquet")
    with pytest.raises(ValueError, match="no column reference_image; there are image"):
        read_pairs(str(folder))


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_all_pairs_within_groups_are_drawn_once():
    groups = ["a", "b", "a", "b", "a", "alone"]
    pairs = sample_pairs(groups, 8)
    assert len(set(pairs)) == 8  # 3 * 2 + 2 * 1, both directions
    assert all(one != other and groups[one] == groups[other] for one, other in pairs)


def test_pairs_over_a_whole_collection_are_uniform_and_seeded():
    drawn = Counter()
    for seed in range(3000):
        drawn.update(sample_pairs([""] * 4, 2, seed=seed))
    assert len(drawn) == 12 and all(400 < count < 600 for count in drawn.values())  # 500 each
    assert sample_pairs([""] * 100, 5, seed=1) == sample_pairs([""] * 100, 5, seed=1)
    assert sample_pairs([""] * 100, 5, seed=1) != sample_pairs([""] * 100, 5, seed=2)


@pytest.mark.parametrize(("groups", "count"), [(["a", "b"], 1), (["a", "a"], 3), (["a", "a"], 0), ([], 1)])
def test_more_pairs_than_there_are(groups, count):
    with pytest.raises(ValueError, match=rf"{len(groups)} images in .* got a count of {count}"):
        sample_pairs(groups, count)


# --- mining ----------------------------------------------------------------------------------------------------------


def circle(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1) * [[3.0]]


def test_images_within_the_bounds_are_paired_nearest_first():
    # cos: 0-10 0.985 (too near), 0-30 0.866, 10-30 0.940, 0-90 and 10-90 out of bounds, 30-90 0.5 out of bounds
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


def test_copies_are_no_pairs():
    assert mine_pairs(circle(0, 0, 0), low=0.5, high=0.99) == []


@pytest.mark.parametrize("bad", [np.zeros((3, 2)), np.ones(3), np.array([[1.0, np.nan]])])
def test_embeddings_without_a_direction(bad):
    with pytest.raises(ValueError, match="finite and none zero"):
        mine_pairs(bad)


@pytest.mark.parametrize("options", [{"low": 0.9, "high": 0.9}, {"high": 1.1}, {"pairs_per_image": 0}])
def test_bounds_that_make_no_sense(options):
    with pytest.raises(ValueError, match="low < high"):
        mine_pairs(circle(0, 1), **options)
