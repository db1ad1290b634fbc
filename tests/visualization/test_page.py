"""Lines of text on a page."""

from contextcir.visualization.page import SMALL, wrap


def test_names_break_where_they_have_a_sign():
    assert wrap("scenes-contextcir-tiny (with CC loss)", 136, SMALL) == ["scenes-contextcir-", "tiny (with CC loss)"]
    assert wrap("runs/scenes_ablation/default-0", 120, SMALL) == ["runs/scenes_", "ablation/default-0"]
    assert "".join(wrap("x" * 60 + "-" + "y" * 60, 120, SMALL, 40)) == "x" * 60 + "-" + "y" * 60
    assert wrap("a well-known name", 400) == ["a well-known name"]
