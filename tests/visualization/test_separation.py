"""Margins, ranks by the text alone, and the map of the embedding space: what is drawn, and where."""

import numpy as np
import pytest

from contextcir.visualization import embedding_map, margin_figure, rank_figure

MARGINS = {"any other image": np.array([-1.0, 1.0, 2.0, 3.0]), "partial_edit": np.array([-3.0, -2.0, 1.0])}


def test_a_row_for_each_kind_says_how_often_the_target_is_above():
    axes = margin_figure(MARGINS).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "any other image  (n = 4)",
        "partial edit  (n = 3)",
    ]
    (right,) = axes.child_axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["75 % above", "33 % above"]
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert bars == [tuple(np.percentile(values, (25, 75))) for values in MARGINS.values()]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()


def test_ranks_are_points_near_their_places():
    text, composed = np.array([1, 10, 40]), np.array([1, 2, 90])
    axes = rank_figure(text, composed, 100).axes[0]
    x, y = axes.collections[0].get_offsets().T
    np.testing.assert_allclose(x, text, rtol=0.07)
    np.testing.assert_allclose(y, composed, rtol=0.07)
    assert [note.get_text() for note in axes.texts] == ["better with the image: 33 %", "worse: 33 %"]


def test_arrows_lead_from_reference_to_query_in_the_plane_of_most_variance():
    draw = np.random.default_rng(0)
    gallery = np.zeros((50, 6))
    gallery[:, 2], gallery[:, 4] = draw.normal(0, 3, 50), draw.normal(0, 1, 50)
    gallery += draw.normal(0, 0.01, gallery.shape)
    references, queries, targets = gallery[:2], gallery[2:4], gallery[4:6]
    figure = embedding_map(gallery, references, queries, targets, ["make it red", "add a dog"])
    axes = figure.axes[0]
    assert "hold 100 % of its variance" in figure.get_suptitle()
    arrows = [(note.xyann, note.xy) for note in axes.texts]
    moved = np.array([np.subtract(end, start) for start, end in arrows])
    np.testing.assert_allclose(np.abs(moved[:, 0]), np.abs((queries - references)[:, 2]), atol=0.1)
    np.testing.assert_allclose(np.abs(moved[:, 1]), np.abs((queries - references)[:, 4]), atol=0.1)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["make it red", "add a dog", "reference image", "target", "from query to target"]


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: margin_figure({"a": np.array([])}), "got 0 margins"),
        (lambda: rank_figure(np.array([1]), np.array([1, 2]), 9), "Got 1 and 2 ranks"),
        (lambda: embedding_map(*np.zeros((4, 2, 3)), ["a", "b"]), "expected at least 3"),
    ],
)
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
