"""Recall by error rate: a panel for each role, a curve for each stage, with the numbers that were given."""

import pytest

pytest.importorskip("matplotlib")

from contextcir.visualization import save_png, stages_figure  # noqa: E402

ROLES = {
    "reasoner": {
        0.4: {"retrieved": (20.0, 10.0, 30.0), "evaluated": (60.0, 50.0, 70.0)},
        0.0: {"retrieved": (40.0, 30.0, 50.0), "evaluated": (90.0, 80.0, 95.0)},
    },
    "evaluator": {0.0: {"retrieved": (40.0, 30.0, 50.0), "evaluated": (90.0, 80.0, 95.0)}},
}


def test_a_panel_for_each_role_and_a_curve_for_each_stage(tmp_path):
    figure = stages_figure(ROLES, "recall@1")
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["reasoner", "evaluator"]
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert curves == {"retrieved": [[0, 40], [40, 20]], "evaluated": [[0, 90], [40, 60]]}  # rates in their order
    assert [line.get_xydata().tolist() for line in right.lines] == [[[0, 40]], [[0, 90]]]
    assert left.get_xticks().tolist() == [0, 40] and left.get_ylim() == right.get_ylim() == (0, 100)
    bands = [band.get_paths()[0].vertices for band in left.collections]
    assert [(band[:, 1].min(), band[:, 1].max()) for band in bands] == [(10, 50), (50, 95)]
    assert left.get_ylabel() == "recall@1, %"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["retrieved", "evaluated"]
    save_png(figure, tmp_path / "stages.png")
    assert (tmp_path / "stages.png").stat().st_size > 1000
