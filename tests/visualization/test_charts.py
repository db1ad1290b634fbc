"""Training curves, error profiles, and panels of experiments."""

import json
import math
from itertools import combinations

import pytest

from contextcir.visualization import (
    profile_figure,
    read_history,
    save_png,
    training_curves,
)
from research.panels import recall_by_latency, seed_dots, stages_figure  # noqa: E402


def panels(figure) -> dict:
    """Title -> axes."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def points(axes) -> list:
    return [line.get_xydata().tolist() for line in axes.lines]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def history(with_cc=True) -> list[dict]:
    entries = []
    for step in (10, 20, 30):
        entry = {"epoch": step / 10, "step": step, "loss": 3 - step / 20, "loss_contrastive": 2 - step / 20}
        entry |= {"learning_rate": 1e-5, "truncated_texts": 1, "grad_norm": math.nan}
        entries.append(entry | ({"loss_concept_consistency": 1 / step} if with_cc else {}))
    last = {"epoch": 3.0, "step": 30}
    metrics = {"hit@1": 40.0, "recall@10": 60.0, "recall@5": 50.0, "recall_subset@1": 70.0, "loss": 1.25}
    metrics |= {"runtime": 1.0, "samples_per_second": 2.0}
    entries.append(last | {f"eval_{name}": value for name, value in metrics.items()})
    entries.append(last | {"train_runtime": 9.0, "train_loss": 2.0, "total_flos": 0.0})
    return entries


def test_each_loss_and_metric_has_a_panel():
    assert list(panels(training_curves({"a": history()}))) == [
        *("loss", "loss_concept_consistency", "loss_contrastive"),
        *("hit@1", "recall@5", "recall@10", "recall_subset@1"),
        *("grad_norm", "learning_rate"),
    ]


def test_curves_show_the_logged_values():
    figure = training_curves({"a": history(), "b": history(with_cc=False)})
    curves = panels(figure)
    assert points(curves["loss"])[:2] == [[[10, 2.5], [20, 2.0], [30, 1.5]], [[30, 1.25]]]  # training, evaluation
    assert len(curves["loss"].lines) == 4
    assert len(curves["loss_concept_consistency"].lines) == 1  # of the run that has it
    assert legend(figure) == ["a", "b", "training", "evaluation"]
    colors = [line.get_color() for line in figure.legends[0].get_lines()]
    assert curves["loss"].lines[0].get_color() == colors[0] != colors[1] == curves["loss"].lines[2].get_color()
    assert legend(training_curves({"a": history()[:3]})) == ["a"]  # without evaluation


def test_panels_and_legend_do_not_overlap():
    figure = training_curves({"a run with a long name " * 3: history(), "b" * 60: history()}, columns=3)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    extents = [axes.get_tightbbox(renderer) for axes in figure.axes]
    extents.append(figure.legends[0].get_window_extent(renderer))
    for extent in extents:
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width and extent.y1 <= figure.bbox.height
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))


@pytest.mark.parametrize(
    "histories, message",
    [({}, "no run"), ({"a": []}, "a,"), ({"b": [{"step": 1, "epoch": 0.1, "train_runtime": 3.0}]}, "b,")],
)
def test_logs_without_losses_and_metrics(histories, message):
    with pytest.raises(ValueError, match=message):
        training_curves(histories)


@pytest.mark.parametrize("content", [None, '{"log_history": [', "[]", "{}"])
def test_a_missing_or_damaged_history(content, tmp_path):
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history()[:1], "global_step": 10}))
    assert read_history(tmp_path)[0]["step"] == 10
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=r"trainer_state\.json" + (".*Error" if content else "")):
        read_history(tmp_path)


def profile(found: float) -> dict:
    kinds = {
        "target": {"rank1": found, "rank1_chance": 0.1, "above": 0.0, "above_chance": 0.0},
        "wrong_thing": {"rank1": 20.0, "rank1_chance": 30.0, "above": 1.25, "above_chance": 2.5},
        "unrelated": {"rank1": 80.0 - found, "rank1_chance": 69.9, "above": 20.0, "above_chance": 40.0},
    }
    group = {"num_queries": 40, "recall@1": found, "interval": [found - 5, found + 5], "kinds": kinds}
    return dict.fromkeys(("all", "split:iid", "edits:1", "edits:2"), group)


def test_an_error_profile_shows_its_numbers():
    figure = profile_figure({"mine": profile(40), "CLIP": profile(10)})
    figure.canvas.draw()
    first, above, recall = figure.axes
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert labels[:2] == [["target", "wrong thing", "unrelated"], ["wrong thing"]]
    assert labels[2] == ["iid  (n = 40)", "1 edit  (n = 40)", "2 edits  (n = 40)"]
    assert [round(bar.get_width(), 2) for bar in first.patches] == [40, 20, 40, 10, 20, 70]
    assert [bar.get_width() for bar in above.patches] == [1.25, 1.25]
    (ticks,) = first.collections
    assert [segment[0][0] for segment in ticks.get_segments()] == [0.1, 30, 69.9]
    bars = [container.lines[2][0].get_segments()[0] for container in recall.containers]
    assert [bar[:, 0].tolist() for bar in bars] == [[35, 45], [5, 15]]
    assert legend(figure) == ["mine", "CLIP", "random ranking"]


@pytest.mark.parametrize("count", [0, 6])
def test_number_of_profiles(count):
    with pytest.raises(ValueError, match=f"{count} .*1 .*5"):
        profile_figure({str(number): profile(40) for number in range(count)})


def test_stages_by_role_and_error_rate(tmp_path):
    stages = {"retrieved": (40.0, 30.0, 50.0), "evaluated": (90.0, 80.0, 95.0)}
    worse = {"retrieved": (20.0, 10.0, 30.0), "evaluated": (60.0, 50.0, 70.0)}
    figure = stages_figure({"reasoner": {0.4: worse, 0.0: stages}, "evaluator": {0.0: stages}}, "recall@1")
    assert list(panels(figure)) == ["reasoner", "evaluator"]
    left, right = figure.axes
    assert points(left) == [[[0, 40], [40, 20]], [[0, 90], [40, 60]]]  # rates in increasing order
    assert points(right) == [[[0, 40]], [[0, 90]]]
    assert left.get_xticks().tolist() == [0, 40] and left.get_ylim() == right.get_ylim() == (0, 100)
    bands = [band.get_paths()[0].vertices for band in left.collections]
    assert [(band[:, 1].min(), band[:, 1].max()) for band in bands] == [(10, 50), (50, 95)]
    assert left.get_ylabel() == "recall@1, %" and legend(figure) == list(stages)
    save_png(figure, tmp_path / "stages.png")
    assert (tmp_path / "stages.png").stat().st_size > 1000


def test_seeds_of_variants():
    runs = {"base": [(1.0, 2.0), (3.0, 4.0)], "other": [(5.0, 6.0)], "not run yet": []}
    results = {name: [{"loss": loss, "recall": recall} for loss, recall in rows] for name, rows in runs.items()}
    figure = seed_dots(results, ["recall", "loss"])
    assert list(panels(figure)) == ["recall", "loss"]
    dots, mean, dotted, *other = points(figure.axes[1])
    assert (dots, mean) == ([[1, 0], [3, 0]], [[2, -0.3], [2, 0.3]])  # value and row
    assert [x for x, _ in dotted] == [2, 2] and other[0] == [[5, 1]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(runs)


def test_each_index_has_a_curve_from_fast_to_exact():
    found = [("exact", {}, 1.0, 20.0)]
    lance = {"bits": 4}
    found += [("lancedb", lance | {"nprobes": 64}, 0.9, 8.0), ("lancedb", lance | {"nprobes": 20}, 0.8, 4.0)]
    names = ("engine", "settings", "recall@10", "ms_per_query")
    rows = [dict(zip(names, one, strict=True)) | {"rows": 1000} for one in found]
    figure = recall_by_latency(rows)
    assert points(figure.axes[0]) == [[[20.0, 1.0]], [[4.0, 0.8], [8.0, 0.9]]]
    assert legend(figure) == ["exact, 1,000 vectors", "lancedb (4 bits), 1,000 vectors"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "5", "10", "20"]
