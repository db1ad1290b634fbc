"""The retrieval grid: frames around the right images, labels, ranks, and room for texts."""

from typing import NamedTuple

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.visualization import retrieval_grid, save_png
from contextcir.visualization.page import REFERENCE, TARGET, TILE
from tests.visualization.layout import LONG_TEXTS, check_layout, pixels, texts

COLORS = [(40 + 15 * i, 30, 250 - 16 * i) for i in range(14)]  # of gallery images; no frame and no text has them
QUERY = Query("q", "make it $5 and x_1 cheaper", reference_id="g13")
SIX = [f"g{i}" for i in (4, 2, 7, 0, 9, 11)]
TWELVE = [f"g{i}" for i in range(12)]


def gallery(size=(20, 20)) -> Gallery:
    return Gallery([f"g{i}" for i in range(len(COLORS))], [Image.new("RGB", size, color) for color in COLORS])


def grid(ids=SIX, targets=("g2",), size=(20, 20), scores=True, **options):
    """The grid of one query."""
    ranking = Ranking(["q"], [list(ids)], [[0.9 - 0.01 * i for i in range(len(ids))]] if scores else None)
    return retrieval_grid([QUERY], gallery(size), ranking, {"q": set(targets)}, **options)


class Tile(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float
    frame: str


def tiles(figure, id_: str) -> list[Tile]:
    """The drawn copies of a gallery image, from the left."""
    found = []
    for image, patch in zip(figure.axes[0].images, figure.axes[0].patches, strict=True):
        if tuple(image.get_array()[0, 0]) == COLORS[int(id_[1:])]:
            left, right, bottom, top = image.get_extent()
            found.append(Tile(left, top, right, bottom, to_hex(patch.get_facecolor())))
    return sorted(found)


def tile(figure, id_: str) -> Tile:
    (found,) = tiles(figure, id_)
    return found


def test_frames_of_targets_and_of_the_reference():
    ids = ["g4", "g2", "g13", "g0", "g9", "g11"]
    figure = grid(ids, ["g2", "g9"])
    page, others = pixels(figure), [tile(figure, id_) for id_ in ids if id_ != "g13"]
    assert [one.frame == TARGET for one in others] == [False, True, False, True, False]
    assert others == sorted(others)  # best first
    of_query, among_the_best = tiles(figure, "g13")
    assert of_query.left < others[0].left < others[1].left < among_the_best.left < others[2].left
    assert of_query.frame == among_the_best.frame == REFERENCE
    for left, top, right, bottom, frame in (*others, of_query):
        assert right - left == bottom - top == TILE
        sides = page[top + 50, [left - 3, right + 2]].tolist() + page[[top - 3, bottom + 2], left + 50].tolist()
        visible = frame if frame in (TARGET, REFERENCE) else "#ffffff"
        assert {"#" + bytes(color).hex() for color in sides} == {visible}


def test_scores_are_below_their_images():
    figure = grid()
    for place, id_ in enumerate(SIX):
        label = f"{0.9 - 0.01 * place:.3f}" + (" ✓" if id_ == "g2" else "")
        (text,) = [text for text in figure.axes[0].texts if text.get_text() == label]
        left, _, right, bottom, _ = tile(figure, id_)
        assert text.get_position()[0] == pytest.approx((left + right) / 2, abs=1)
        assert bottom < text.get_position()[1] < bottom + 12
    assert {"1", "2 ✓", "3", "6"} <= set(texts(grid(scores=False)))  # ranks, if there are no scores


def test_a_missed_target_is_at_the_end_with_its_rank():
    figure, hit = grid(TWELVE, ["g11", "g12"], k=10), grid(TWELVE, ["g2"], k=10)
    assert "rank 12" in texts(figure) and "rank > 6" in texts(grid(SIX, ["g12"]))
    assert [len(tiles(figure, id_)) for id_ in TWELVE] == [1] * 10 + [0, 1]
    assert tile(figure, "g11").left > tile(figure, "g9").right and tile(figure, "g11").frame == TARGET
    assert hit.get_figwidth() < figure.get_figwidth()  # no column for missed targets
    assert not any("rank" in text for text in texts(hit))


def test_rows_are_in_the_order_of_the_queries():
    queries = [Query("a", "first", reference_id="g12"), Query("b", "second", reference_id="g13")]
    ranking = Ranking(["b", "z", "a"], [["g1", "g2"], ["g3", "g4"], ["g5", "g6"]])
    figure = retrieval_grid(queries, gallery(), ranking, {"a": {"g5"}, "b": {"g2"}})
    tops = [tile(figure, f"g{place}").top for place in (12, 5, 6, 13, 1, 2)]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4] == tops[5]
    assert not tiles(figure, "g3")


def test_rows_of_several_models_stand_below_each_other():
    queries = [Query("a", "first", reference_id="g12"), Query("b", "second", reference_id="g13")]
    good = Ranking(["a", "b"], [["g5", "g6"], ["g1", "g2"]], [[0.9, 0.8], [0.7, 0.6]])
    bad = Ranking(["b", "a"], [["g3", "g4"], ["g7", "g8"]])
    figure = retrieval_grid(queries, gallery(), {"good": good, "a worse one": bad}, {"a": {"g5"}, "b": {"g2"}})
    tops = [tile(figure, f"g{place}").top for place in (12, 6, 7, 13, 1, 3)]
    assert tops[0] == tops[1] < tops[2] < tops[3] == tops[4] < tops[5]
    assert tile(figure, "g6").left == tile(figure, "g8").left  # ranks in columns
    assert texts(figure).count("good") == texts(figure).count("a worse one") == 2
    missed = [one for one in tiles(figure, "g5") if one.left > tile(figure, "g8").left]
    assert [one.top for one in missed] == [tops[2]] and "rank > 2" in texts(figure)
    check_layout(figure)
    with pytest.raises(ValueError, match="bad.*'b'"):
        retrieval_grid(queries, gallery(), {"good": good, "bad": Ranking(["a"], [["g1"]])}, {})


def test_unknown_targets_and_queries_without_a_reference():
    queries = [QUERY, Query("t", "a text that says all")]
    figure = retrieval_grid(queries, gallery(), Ranking(["q", "t"], [SIX, SIX]), {})
    first, second = tiles(figure, SIX[0])
    assert first.top < second.top and tile(figure, "g13").top < second.top


@pytest.mark.parametrize("size", [(200, 50), (50, 200), (500, 250), (1, 100)])
def test_images_keep_their_shape(size):
    figure = grid(size=size)
    for left, top, right, bottom, _ in (tile(figure, id_) for id_ in SIX):
        assert [right - left, bottom - top] == [round(TILE * length / max(size)) for length in size]


@pytest.mark.parametrize("k", [1, 10])
def test_no_text_is_clipped_or_overlaps(k):
    queries = [Query(f"q{i}", text, reference_id="g13") for i, text in enumerate(LONG_TEXTS)]
    ranking = Ranking([q.id for q in queries], [SIX] * len(queries), [[0.5] * 6] * len(queries))
    figure = retrieval_grid(queries, gallery(), ranking, {query.id: {"g12"} for query in queries}, k=k)
    check_layout(figure)
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)  # prices are no formulas
    assert "two lines and spaces" in texts(figure)
    assert sum(text.endswith("…") and len(text) > 100 for text in texts(figure)) == 2


def test_errors():
    with pytest.raises(ValueError, match="0 queries"):
        retrieval_grid([], gallery(), Ranking(["q"], [SIX]), {})
    with pytest.raises(ValueError, match="0 rankings"):
        retrieval_grid([QUERY], gallery(), {}, {})
    with pytest.raises(ValueError, match="'q'"):
        retrieval_grid([QUERY], gallery(), Ranking(["other"], [SIX]), {"q": {"g2"}})


def test_the_png_is_white_small_and_keeps_its_colours(tmp_path):
    images = gallery((96, 96))
    images.images[0] = Image.fromarray(np.random.default_rng(0).integers(230, 256, (96, 96, 3), dtype=np.uint8))
    figure = retrieval_grid([QUERY], images, Ranking(["q"], [SIX]), {"q": {"g2"}})
    page, path = pixels(figure), tmp_path / "new" / "grid.png"
    save_png(figure, path)
    with Image.open(path) as written:
        colors = np.asarray(written.convert("RGB")).astype(int)
    assert colors.shape == page.shape
    assert (colors[(page == 255).all(axis=2)] == 255).all()
    assert np.abs(colors - page).max() < 40
    assert path.stat().st_size < 100_000
