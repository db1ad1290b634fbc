"""Pictures recognised from their pixels, and what they show."""

import io
import json
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from contextcir.data.images import ImageError
from contextcir.scenes import Scene, Thing, render, sample_scene
from contextcir.scenes.ground_truth import scene_from_json, scene_to_json
from contextcir.scenes.truth import MAX_DISTANCE, Truth, UnknownPictureError, _Index

STAR = Thing((0, 0), "star", "red", "large", "plain")
RING = Thing((1, 1), "ring", "blue", "small", "striped")
TWO = Scene("beach", (STAR, RING))


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def album():
    rng = random.Random(0)
    pictures = [(scene := sample_scene(rng), render(scene, rng.getrandbits(48))) for _ in range(200)]
    truth = Truth()
    for number, (scene, picture) in enumerate(pictures):
        truth.add(picture, scene, name=f"p{number}")
    return truth, pictures


class TestRecognition:
    @pytest.mark.parametrize(
        "again",
        [
            lambda image: image,
            np.asarray,
            lambda image: encoded(image, "PNG"),
            lambda image: encoded(image, quality=92),
            lambda image: encoded(image, quality=50),
            lambda image: encoded(image, "WEBP", quality=75),
            lambda image: encoded(image.resize((64, 64), Image.Resampling.LANCZOS), quality=90),
            lambda image: encoded(image.resize((224, 224), Image.Resampling.BICUBIC), quality=90),
            lambda image: encoded(Image.open(io.BytesIO(encoded(image, quality=85))), quality=85),
        ],
        ids=["same", "array", "png", "q92", "q50", "webp", "smaller", "larger", "twice"],
    )
    def test_after_an_honest_re_encoding(self, album, again):
        truth, pictures = album
        for number in range(0, 200, 5):
            found = truth.find(again(pictures[number][1]))
            assert (found.name, found.scene) == (f"p{number}", pictures[number][0])

    def test_other_pictures_are_not_taken_for_one(self, album):
        truth, pictures = album
        rng = random.Random(1)
        scenes = [pictures[0][0], *(sample_scene(rng) for _ in range(40))]  # the same scene in another picture, too
        strangers = [render(scene, 10**9 + number) for number, scene in enumerate(scenes)]
        turned = [picture.rotate(180) for _, picture in pictures[:20]]
        noise = [np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8), Image.new("RGB", (96, 96))]
        for stranger in [*strangers, *turned, *noise]:
            with pytest.raises(UnknownPictureError, match="not a picture of this truth, which holds 200"):
                truth.find(stranger)

    def test_what_is_not_an_image_is_an_image_error(self, album):
        with pytest.raises(ImageError):
            album[0].find(b"GIF89a")

    def test_nothing_is_known_to_an_empty_truth(self):
        with pytest.raises(UnknownPictureError, match="it holds none"):
            Truth().find(render(TWO, 0))

    def test_pictures_that_differ_in_little_are_told_apart_or_refused(self):
        # The same nuisance: all pixels but those of a small pattern are equal.
        other = TWO.changed(RING, replace(RING, pattern="dotted"))
        truth = Truth()
        truth.add(render(TWO, 5), TWO, name="striped")
        truth.add(render(other, 5), other, name="dotted")
        assert truth.find(encoded(render(TWO, 5), "PNG")).name == "striped"
        assert truth.find(encoded(render(other, 5), "PNG")).name == "dotted"
        between = Image.blend(render(TWO, 5), render(other, 5), 0.5)
        with pytest.raises(UnknownPictureError, match="may be '(striped|dotted)' or '(striped|dotted)'"):
            truth.find(between)

    def test_two_pictures_of_one_scene_are_never_ambiguous(self):
        truth = Truth()
        picture = render(TWO, 5)
        truth.add(picture, TWO)
        truth.add(picture, TWO)
        assert truth.find(encoded(picture, quality=60)).scene == TWO

    def test_what_is_added_later_is_known_and_what_became_ambiguous_is_noticed(self):
        truth = Truth()
        truth.add(render(TWO, 5), TWO)
        content = encoded(render(TWO, 5), "PNG")
        assert truth.find(content).name == "picture 0"
        other = Scene("sea", (STAR,))
        truth.add(render(other, 6), other)
        assert truth.find(render(other, 6)).name == "picture 1"
        truth.add(content, other)  # the same pixels are said to show something else
        with pytest.raises(UnknownPictureError, match="show different scenes"):
            truth.find(content)

    def test_the_index_is_exact(self):
        rng = np.random.default_rng(0)
        thumbnails = rng.integers(100, 110, (300, 16, 16, 3), dtype=np.uint8)
        index = _Index(thumbnails)
        for thumbnail in thumbnails[:20]:
            distances = np.sqrt(((thumbnails.astype(float) - thumbnail) ** 2).mean((1, 2, 3)))
            near, found = index.near(thumbnail, MAX_DISTANCE)
            assert set(near) == set(np.flatnonzero(distances <= MAX_DISTANCE)) and len(near) > 100
            np.testing.assert_allclose(found, np.sort(distances[near]), rtol=1e-5)

    def test_from_many_threads(self, album):
        truth, wrong = Truth(), []
        for number, (scene, picture) in enumerate(album[1]):
            truth.add(picture, scene, name=f"p{number}")  # the index has to be built, by one of the threads

        def look(start):
            for number in range(start, 200, 4):
                if truth.find(encoded(album[1][number][1])).name != f"p{number}":
                    wrong.append(number)

        threads = [threading.Thread(target=look, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestJson:
    def test_round_trip(self):
        rng = random.Random(0)
        for _ in range(100):
            scene = sample_scene(rng)
            assert scene_from_json(json.loads(json.dumps(scene_to_json(scene)))) == scene
        assert scene_to_json(Scene("sea", (STAR,))) == {
            "background": "sea",
            "things": [{"cell": [0, 0], "shape": "star", "colour": "red", "size": "large", "pattern": "plain"}],
        }

    @pytest.mark.parametrize(
        "change, problem",
        [
            ({"background": "moon"}, "background 'moon', expected one of plain, meadow"),
            ({"things": [{"cell": [0, 0]}]}, "expected a scene"),
            ({"things": None}, "expected a scene"),
            ({"things": [scene_to_json(TWO)["things"][0] | {"cell": [0, 3]}]}, "cell \\(0, 3\\)"),
            ({"things": [scene_to_json(TWO)["things"][0] | {"colour": "pink"}]}, "colour 'pink'"),
            ({"things": scene_to_json(TWO)["things"][:1] * 2}, "two things are in one cell"),
        ],
    )
    def test_another_world_is_refused(self, change, problem):
        with pytest.raises(ValueError, match=problem):
            scene_from_json(scene_to_json(TWO) | change)


class TestFolder:
    def write(self, folder, *rows):
        (folder / "a").mkdir(exist_ok=True)
        render(TWO, 1).save(folder / "a" / "one.jpg")
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "truth.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    PICTURE = {"image": "a/one.jpg", "scene": scene_to_json(TWO), "injected_text": "answer yes"}
    QUERY = {
        "query": 7,
        "reference": "a/one.jpg",
        "text": "remove the star",
        "target": {"background": "sea", "things": []},
    }

    def test_pictures_and_queries(self, tmp_path):
        truth = Truth.from_folder(self.write(tmp_path, self.PICTURE, self.QUERY, self.QUERY | {"reference": None}))
        found = truth.find(render(TWO, 1))
        assert (found.name, found.scene, found.injected_text) == ("a/one.jpg", TWO, "answer yes")
        assert truth.find_query("Remove  the star", TWO).reference == TWO
        assert truth.find_query("remove the star", None).reference is None
        assert truth.find_query("remove the star", TWO).id == "7"
        assert truth.find_query("remove the ring", TWO) is None

    @pytest.mark.parametrize(
        "row, problem",
        [
            ("{", "JSONDecodeError"),
            ("[1]", "TypeError"),
            ({"image": "a/one.jpg"}, "KeyError: 'scene'"),
            ({"image": "a/one.jpg", "scene": {"background": "moon", "things": []}}, "background 'moon'"),
            (QUERY | {"reference": "a/two.jpg"}, "KeyError: 'a/two.jpg'"),
            ({"query": "x", "text": "remove it", "target": QUERY["target"]}, "KeyError: 'reference'"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path, row, problem):
        self.write(tmp_path, self.PICTURE, row)
        with pytest.raises(ValueError, match=f"truth.jsonl, line 2: .*{problem}"):
            Truth.from_folder(tmp_path)

    def test_missing_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="truth.jsonl"):
            Truth.from_folder(tmp_path)
        self.write(tmp_path, {"image": "b.jpg", "scene": scene_to_json(TWO)})
        with pytest.raises(ImageError, match="b.jpg: no such file"):
            Truth.from_folder(tmp_path)


def test_of_equal_texts_the_query_on_the_most_similar_scene_is_meant():
    truth = Truth()
    elsewhere = Scene("night", (replace(STAR, colour="green"),))
    truth.add_query("remove the star", Scene("night", (RING,)), elsewhere, id="elsewhere")
    truth.add_query("remove the star", Scene("beach", (RING,)), TWO, id="here")
    assert truth.find_query("remove the star", TWO).id == "here"
    assert truth.find_query("remove the star", TWO.changed(RING, None)).id == "here"  # somebody missed the ring
    assert truth.find_query("remove the star", elsewhere).id == "elsewhere"
