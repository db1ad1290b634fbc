"""The pictures show what they say: frames around the right images, maps that add up, every loss part its panel."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.retrieval.base import Gallery, Query, Ranking
from contextcir.training.losses import concept_divergences

pytest.importorskip("matplotlib")

from contextcir.visualization import (  # noqa: E402
    ConceptMaps,
    concept_attention_figure,
    concept_maps,
    heat_overlay,
    profile_figure,
    read_history,
    retrieval_grid,
    save_png,
    total_variation,
    training_curves,
)
from contextcir.visualization.page import REFERENCE, TARGET, TILE  # noqa: E402
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor  # noqa: E402


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color.removeprefix("#")))


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def boxes(page: np.ndarray, color) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom (exclusive) of the rectangles of one colour, from the left."""
    mask = (page == color).all(axis=2)
    found = []
    while mask.any():
        top, left = np.argwhere(mask)[0]
        right = left + int(np.argmin(np.append(mask[top, left:], False)))
        bottom = top + int(np.argmin(np.append(mask[top:, left], False)))
        assert mask[top:bottom, left:right].all()
        mask[top:bottom, left:right] = False
        found.append((int(left), int(top), right, bottom))
    return sorted(found)


def ring(page: np.ndarray, box) -> set[tuple[int, ...]]:
    """Colours found two pixels outside a box, in the middle of its sides."""
    left, top, right, bottom = box
    x, y = (left + right) // 2, (top + bottom) // 2
    return {tuple(page[row, column]) for row, column in ((y, left - 3), (y, right + 2), (top - 3, x), (bottom + 2, x))}


COLORS = [(40 + 15 * i, 30, 250 - 16 * i) for i in range(14)]  # of no frame and no text


def make_gallery(size=(20, 20)) -> Gallery:
    return Gallery([f"g{i}" for i in range(len(COLORS))], [Image.new("RGB", size, color) for color in COLORS])


def make_ranking(*ids: str, query_id="q", scores=True) -> Ranking:
    return Ranking([query_id], [list(ids)], [[0.9 - 0.01 * i for i in range(len(ids))]] if scores else None)


QUERY = Query("q", "make it $5 and x_1 cheaper", reference_id="g13")
SIX = [f"g{i}" for i in (4, 2, 7, 0, 9, 11)]


# Retrieval


def test_the_grid_frames_targets_and_the_reference_and_nothing_else():
    ids = ["g4", "g2", "g13", "g0", "g9", "g11"]
    page = pixels(retrieval_grid([QUERY], make_gallery(), make_ranking(*ids), {"q": {"g2", "g9"}}))
    lefts = []
    for id_ in ids[:2] + ids[3:]:
        (box,) = boxes(page, COLORS[int(id_[1:])])
        assert (box[2] - box[0], box[3] - box[1]) == (TILE, TILE)
        expected = {rgb(TARGET)} if id_ in ("g2", "g9") else {(255, 255, 255)}
        assert ring(page, box) == expected
        lefts.append(box[0])
    assert lefts == sorted(lefts)  # best first
    of_query, among_the_best = boxes(page, COLORS[13])
    assert of_query[0] < lefts[0] < lefts[1] < among_the_best[0] < lefts[2]
    assert ring(page, of_query) == ring(page, among_the_best) == {rgb(REFERENCE)}


def test_a_score_stands_below_the_middle_of_its_image():
    figure = retrieval_grid([QUERY], make_gallery(), make_ranking(*SIX), {"q": {"g2"}})
    page = pixels(figure)
    for place, id_ in enumerate(SIX):
        label = f"{0.9 - 0.01 * place:.3f}" + (" ✓" if id_ == "g2" else "")
        (text,) = [text for text in figure.axes[0].texts if text.get_text() == label]
        ((left, _, right, bottom),) = boxes(page, COLORS[int(id_[1:])])
        assert text.get_position()[0] == pytest.approx((left + right) / 2, abs=1)
        assert bottom < text.get_position()[1] < bottom + 12


def test_only_the_best_k_are_drawn_and_a_missed_target_ends_the_row_with_its_rank():
    ids = [f"g{i}" for i in range(12)]
    figure = retrieval_grid([QUERY], make_gallery(), make_ranking(*ids), {"q": {"g11", "g12"}}, k=10)
    page = pixels(figure)
    assert "rank 12" in texts(figure)
    assert all(len(boxes(page, color)) == 1 for color in COLORS[:10])
    assert not boxes(page, COLORS[10])
    (missed,) = boxes(page, COLORS[11])
    assert missed[0] > boxes(page, COLORS[9])[0][2]
    assert ring(page, missed) == {rgb(TARGET)}


def test_a_target_that_the_ranking_does_not_hold():
    figure = retrieval_grid([QUERY], make_gallery(), make_ranking(*SIX), {"q": {"g12"}})
    assert "rank > 6" in texts(figure)


def test_no_column_for_missed_targets_where_none_is_missed():
    ranking = make_ranking(*[f"g{i}" for i in range(12)])
    hit, miss = (retrieval_grid([QUERY], make_gallery(), ranking, {"q": {target}}) for target in ("g2", "g11"))
    assert hit.get_figwidth() < miss.get_figwidth()
    assert not any("rank" in text for text in texts(hit))


def test_queries_are_rows_whatever_their_place_in_the_ranking():
    queries = [Query("a", "first", reference_id="g12"), Query("b", "second", reference_id="g13")]
    ranking = Ranking(["b", "z", "a"], [["g1", "g2"], ["g3", "g4"], ["g5", "g6"]])
    page = pixels(retrieval_grid(queries, make_gallery(), ranking, {"a": {"g5"}, "b": {"g2"}}))
    tops = {place: boxes(page, COLORS[place])[0][1] for place in (12, 5, 6, 13, 1, 2)}
    assert tops[12] == tops[5] == tops[6] < tops[13] == tops[1] == tops[2]
    assert not boxes(page, COLORS[3])


def test_targets_that_are_not_public_and_queries_without_a_reference():
    queries = [QUERY, Query("t", "a text that says all")]
    ranking = Ranking(["q", "t"], [SIX, SIX])
    page = pixels(retrieval_grid(queries, make_gallery(), ranking, {}))
    (_, top, *_), (_, below, *_) = boxes(page, COLORS[int(SIX[0][1:])])
    reference = COLORS[int(QUERY.reference_id[1:])]
    assert top < below and not [box for box in boxes(page, reference) if box[1] >= below]


def test_without_scores_ranks_stand_below():
    figure = retrieval_grid([QUERY], make_gallery(), make_ranking(*SIX, scores=False), {"q": {"g2"}})
    assert {"1", "2 ✓", "3", "6"} <= set(texts(figure))


@pytest.mark.parametrize("size", [(200, 50), (50, 200), (2000, 1000)])
def test_images_keep_their_shape(size):
    page = pixels(retrieval_grid([QUERY], make_gallery(size), make_ranking(*SIX), {"q": {"g2"}}))
    for id_ in SIX:
        ((left, top, right, bottom),) = boxes(page, COLORS[int(id_[1:])])
        assert max(right - left, bottom - top) == TILE
        assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.1)


def test_a_thin_image_is_still_seen():
    page = pixels(retrieval_grid([QUERY], make_gallery((1, 100)), make_ranking(*SIX), {"q": {"g2"}}))
    assert all(boxes(page, COLORS[int(id_[1:])]) for id_ in SIX)


LONG = ["word " * 300, "x" * 700, "short", "costs $5, or $6 ^2_3 \\frac{1}{2}", "two\nlines\tand  spaces"]


@pytest.mark.parametrize("k", [1, 3, 10])
def test_no_text_is_clipped_and_none_overlaps_another(k):
    queries = [Query(f"q{i}", text, reference_id="g13") for i, text in enumerate(LONG)]
    ranking = Ranking([q.id for q in queries], [SIX] * len(queries), [[0.5] * 6] * len(queries))
    figure = retrieval_grid(queries, make_gallery(), ranking, {query.id: {"g12"} for query in queries}, k=k)
    check_layout(figure)
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)  # prices are no formulas
    assert "two lines and spaces" in texts(figure)
    assert sum(text.endswith("…") and len(text) > 100 for text in texts(figure)) == 2


def check_layout(figure):
    renderer = figure.canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    images = [image.get_window_extent(renderer) for image in figure.axes[0].images]
    for place, extent in enumerate(extents):
        assert extent.x0 >= 0 and extent.y0 >= 0
        assert extent.x1 <= figure.bbox.width and extent.y1 <= figure.bbox.height
        for other in extents[:place] + images:
            assert not extent.overlaps(other), (figure.axes[0].texts[place].get_text(), other)


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="no queries"):
        retrieval_grid([], make_gallery(), make_ranking(*SIX), {})
    with pytest.raises(ValueError, match="'q'"):
        retrieval_grid([QUERY], make_gallery(), make_ranking(*SIX, query_id="other"), {"q": {"g2"}})


def test_the_png_is_white_small_and_keeps_its_colours(tmp_path):
    gallery = make_gallery((96, 96))
    gallery.images[0] = Image.fromarray(np.random.default_rng(0).integers(230, 256, (96, 96, 3), dtype=np.uint8))
    figure = retrieval_grid([QUERY], gallery, make_ranking(*SIX), {"q": {"g2"}})
    page = pixels(figure)
    save_png(figure, tmp_path / "new" / "grid.png")
    with Image.open(tmp_path / "new" / "grid.png") as written:
        colors = np.asarray(written.convert("RGB")).astype(int)
    assert colors.shape == page.shape
    assert (colors[(page == 255).all(axis=2)] == 255).all()
    assert np.abs(colors - page).max() < 40
    assert (tmp_path / "new" / "grid.png").stat().st_size < 100_000


# Attention of noun phrases


@pytest.fixture(scope="module")
def model(clip_folder) -> ContextCIRModel:
    torch.manual_seed(0)
    return ContextCIRModel.from_clip_pretrained(clip_folder)


@pytest.fixture(scope="module")
def processor(clip_folder) -> ContextCIRProcessor:
    return ContextCIRProcessor.from_pretrained(clip_folder)


def span(text: str, phrase: str) -> dict:
    start = text.index(phrase)
    return {"text": phrase, "start": start, "end": start + len(phrase)}


TEXT = "make the red square blue and remove the star"


def test_maps_are_distributions_over_patches_and_those_of_the_model(model, processor, images):
    phrases = [span(TEXT, "the red square"), span(TEXT, "the star")]
    maps = concept_maps(model, processor, images[0], TEXT, phrases)
    inputs = processor(images=[images[0]], text=[TEXT], noun_phrases=[phrases])
    del inputs["num_truncated_texts"], inputs["num_dropped_phrases"]
    with torch.no_grad():
        expected = model.get_concept_attentions(**inputs)
    for grids, attentions in zip((maps.context, maps.isolated), expected, strict=True):
        for grid, attention in zip(grids, attentions, strict=True):
            assert grid.shape == (5, 5)
            assert grid.sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(grid.ravel(), attention.numpy(), atol=1e-6)  # row by row
    assert maps.phrases == ["the red square", "the star"]


def test_a_phrase_without_tokens_has_no_maps_and_the_others_keep_theirs(model, processor, images):
    phrases = [span(TEXT, "red square"), {"text": "e re", "start": 7, "end": 11}, span(TEXT, "the star")]
    maps = concept_maps(model, processor, images[0], TEXT, phrases)
    whole = concept_maps(model, processor, images[0], TEXT, [phrases[0], phrases[2]])
    assert maps.context[1] is None and maps.isolated[1] is None
    for place, other in ((0, 0), (2, 1)):
        np.testing.assert_allclose(maps.context[place], whole.context[other], atol=1e-6)
        np.testing.assert_allclose(maps.isolated[place], whole.isolated[other], atol=1e-6)


def test_phrases_cut_off_with_their_text(model, processor, images):
    text = "a " * 100 + "red square"
    maps = concept_maps(model, processor, images[0], text, [span(text, "red square")])
    assert maps.context == [None]


def test_a_query_without_phrases_needs_no_model(processor, images):
    maps = concept_maps(None, processor, images[0], TEXT, [])
    assert (maps.phrases, maps.context, maps.isolated) == ([], [], [])


def test_the_image_is_what_the_model_sees(model, processor):
    wide = np.zeros((30, 90, 3), np.uint8)
    wide[:, 30:60] = np.random.default_rng(0).integers(0, 256, (30, 30, 3))
    seen = concept_maps(model, processor, Image.fromarray(wide), TEXT, [span(TEXT, "the star")]).image
    assert seen.size == (30, 30)
    assert np.abs(np.asarray(seen).astype(int) - wide[:, 30:60]).max() <= 1  # its middle


def test_drawing_leaves_the_training_mode_alone(model, processor, images):
    model.train()
    concept_maps(model, processor, images[0], TEXT, [span(TEXT, "the star")])
    assert model.training
    model.eval()


def test_total_variation():
    uniform, corner, other = np.full((2, 3), 1 / 6), np.zeros((2, 3)), np.zeros((2, 3))
    corner[0, 0] = other[1, 2] = 1
    assert total_variation(uniform, uniform) == 0
    assert total_variation(corner, other) == 1
    assert total_variation(corner, uniform) == pytest.approx(5 / 6)
    maps = torch.rand(2, 1, 6, generator=torch.manual_seed(0))
    maps /= maps.sum(dim=-1, keepdim=True)
    assert total_variation(*maps.numpy()) == pytest.approx(concept_divergences(*maps).item())


def redness(image: Image.Image) -> np.ndarray:
    array = np.asarray(image).astype(int)
    return array[..., 0] - array[..., 2]


def test_heat_is_where_the_attention_is():
    attention = np.full((3, 6), 0.01)
    attention[2, 1] = 0.5
    heat = redness(heat_overlay(Image.new("RGB", (60, 30), "white"), attention, attention.max()))
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert (y // 10, x // 10) == (2, 1)
    assert heat[25, 15] > 3 * heat[5, 45]


def test_colours_compare_only_on_one_scale():
    image, weak, strong = Image.new("RGB", (20, 20), "grey"), np.full((2, 2), 0.1), np.full((2, 2), 0.4)
    assert redness(heat_overlay(image, weak, 0.4)).max() < redness(heat_overlay(image, strong, 0.4)).min()
    assert np.array_equal(heat_overlay(image, weak, 0.1), heat_overlay(image, strong, 0.4))
    assert not redness(heat_overlay(image, 0 * weak, 0.4)).any()


def make_maps(text="make it", phrases=("the star", "a ring"), context=None, isolated=None) -> ConceptMaps:
    uniform = np.full((2, 2), 0.25)
    image = Image.new("RGB", (30, 30), (10, 200, 30))
    given = [context or [uniform] * len(phrases), isolated or [uniform] * len(phrases)]
    return ConceptMaps(image, text, list(phrases), *given)


def test_every_phrase_has_a_pair_of_maps_for_each_model():
    queries = [make_maps(), make_maps(phrases=("one", "two", "three", "four", "five", "six"))]
    for runs in ({"a": queries}, {"a": queries, "b": queries}):
        figure = concept_attention_figure(runs, max_phrases=4)
        pairs = (2 + 4) * len(runs)
        assert len(figure.axes[0].images) == 1 + len(queries) + 2 * pairs  # the key, references, maps
        assert texts(figure).count("TV 0.00") == pairs
        assert texts(figure).count("in context") == texts(figure).count("isolated") == 2 + 4
        assert [text for text in ("one", "four", "five") if text in texts(figure)] == ["one", "four"]
        assert [name for name in "ab" if name in texts(figure)] == (["a", "b"] if len(runs) == 2 else [])
        check_layout(figure)


def test_a_pair_shares_its_scale_and_tells_its_distance():
    corner, uniform = np.array([[1.0, 0], [0, 0]]), np.full((2, 2), 0.25)
    maps = make_maps(phrases=("the star",), context=[corner], isolated=[uniform])
    figure = concept_attention_figure({"a": [maps]})
    assert "TV 0.75" in texts(figure)
    context, isolated = figure.axes[0].images[-2:]
    assert np.array_equal(context.get_array(), heat_overlay(maps.image, corner, 1))
    assert np.array_equal(isolated.get_array(), heat_overlay(maps.image, uniform, 1))
    assert context.get_window_extent().x1 < isolated.get_window_extent().x0


def test_phrases_without_tokens_and_queries_without_phrases():
    uniform = np.full((2, 2), 0.25)
    partly = make_maps(context=[None, uniform], isolated=[None, uniform])
    figure = concept_attention_figure({"a": [partly, make_maps(phrases=())], "b": [partly, make_maps(phrases=())]})
    assert texts(figure).count("no tokens of its own") == 2
    assert texts(figure).count("no noun phrase") == 1
    assert len(figure.axes[0].images) == 1 + 2 + 2 * 2
    check_layout(figure)


def test_long_texts_phrases_and_names_have_room():
    maps = [make_maps(text, phrases=("a very long noun phrase " * 9, "y" * 300, "the $5 star")) for text in LONG]
    check_layout(concept_attention_figure({"a run whose name is long": maps, "z" * 90: maps}))


def test_models_must_have_been_asked_the_same():
    with pytest.raises(ValueError, match="a and b"):
        concept_attention_figure({"a": [make_maps()], "b": [make_maps(phrases=("the star",))]})
    with pytest.raises(ValueError, match="a and b"):
        concept_attention_figure({"a": [make_maps()], "b": [make_maps()] * 2})
    for nothing in ({}, {"a": []}):
        with pytest.raises(ValueError, match="no attention maps"):
            concept_attention_figure(nothing)


# Training


def make_history(with_cc=True) -> list[dict]:
    history = []
    for step in (10, 20, 30):
        entry = {"epoch": step / 10, "step": step, "loss": 3 - step / 20, "loss_contrastive": 2 - step / 20}
        entry |= {"learning_rate": 1e-5, "truncated_texts": 1, "grad_norm": math.nan}
        history.append(entry | ({"loss_concept_consistency": 1 / step} if with_cc else {}))
    metrics = {
        "eval_hit@1": 40.0,
        "eval_recall@10": 60.0,
        "eval_recall@5": 50.0,
        "eval_recall_subset@1": 70.0,
        "eval_loss": 1.25,
    }
    history.append({"epoch": 3.0, "step": 30, "eval_runtime": 1.0, "eval_samples_per_second": 2.0} | metrics)
    history.append({"epoch": 3.0, "step": 30, "train_runtime": 9.0, "train_loss": 2.0, "total_flos": 0.0})
    return history


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_every_loss_part_and_metric_has_a_panel_and_nothing_else():
    assert list(panels(training_curves({"a": make_history()}))) == [
        *("loss", "loss_concept_consistency", "loss_contrastive"),
        *("hit@1", "recall@5", "recall@10", "recall_subset@1"),
        *("grad_norm", "learning_rate"),
    ]


def test_curves_hold_what_was_logged():
    figure = training_curves({"a": make_history(), "b": make_history(with_cc=False)})
    curves = panels(figure)
    training, evaluation = curves["loss"].lines[:2]
    assert training.get_xydata().tolist() == [[10, 2.5], [20, 2.0], [30, 1.5]]
    assert evaluation.get_xydata().tolist() == [[30, 1.25]]
    assert len(curves["loss"].lines) == 4
    assert len(curves["loss_concept_consistency"].lines) == 1  # of the run that has it
    colors = {line.get_label(): line.get_color() for line in figure.legends[0].get_lines()}
    assert list(colors) == ["a", "b", "training", "evaluation"]
    assert training.get_color() == colors["a"] != colors["b"] == curves["loss"].lines[2].get_color()


def test_a_log_of_training_alone_needs_no_key_for_evaluation():
    figure = training_curves({"a": make_history()[:3]})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a"]


def test_panels_and_legend_have_room():
    figure = training_curves({"a run with a long name " * 3: make_history(), "b" * 60: make_history()}, columns=3)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    extents = [axes.get_tightbbox(renderer) for axes in figure.axes]
    extents.append(figure.legends[0].get_window_extent(renderer))
    for place, extent in enumerate(extents):
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width and extent.y1 <= figure.bbox.height
        assert not any(extent.overlaps(other) for other in extents[:place])


def test_an_empty_log_is_refused():
    for histories in ({}, {"a": []}, {"a": [{"step": 1, "epoch": 0.1, "train_runtime": 3.0}]}):
        with pytest.raises(ValueError, match="Nothing to draw"):
            training_curves(histories)


def test_the_history_of_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"trainer_state\.json"):
        read_history(tmp_path)
    path = tmp_path / "trainer_state.json"
    for damaged in ('{"log_history": [', "[]", "{}"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"trainer_state\.json is not the state"):
            read_history(tmp_path)
    path.write_text(json.dumps({"log_history": make_history()[:1], "global_step": 10}))
    assert read_history(tmp_path)[0]["step"] == 10


def profile(found: float) -> dict:
    def group(kinds):
        return {"num_queries": 40, "recall@1": found, "interval": [found - 5, found + 5], "kinds": kinds}

    kinds = {
        "target": {"rank1": found, "rank1_chance": 0.1, "above": 0.0, "above_chance": 0.0},
        "wrong_thing": {"rank1": 20.0, "rank1_chance": 30.0, "above": 1.25, "above_chance": 2.5},
        "unrelated": {"rank1": 80.0 - found, "rank1_chance": 69.9, "above": 20.0, "above_chance": 40.0},
    }
    return {"all": group(kinds), "split:iid": group(kinds), "edits:1": group(kinds), "edits:2": group(kinds)}


def test_an_error_profile_shows_its_numbers():
    figure = profile_figure({"mine": profile(40), "CLIP": profile(10)})
    figure.canvas.draw()
    first, above, recall = figure.axes
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert labels == [["target", "wrong thing", "unrelated"], ["wrong thing"],
                      ["iid  (n = 40)", "1 edit  (n = 40)", "2 edits  (n = 40)"]]  # fmt: skip
    assert [round(bar.get_width(), 2) for bar in first.patches] == [40, 20, 40, 10, 20, 70]
    assert [bar.get_width() for bar in above.patches] == [1.25, 1.25]
    (ticks,) = first.collections
    assert [segment[0][0] for segment in ticks.get_segments()] == [0.1, 30, 69.9]
    bars = [container.lines[2][0].get_segments()[0] for container in recall.containers]
    assert [bar[:, 0].tolist() for bar in bars] == [[35, 45], [5, 15]]
    assert {text.get_text() for text in figure.legends[0].texts} == {"mine", "CLIP", "random ranking"}


@pytest.mark.parametrize("count", [0, 6])
def test_as_many_profiles_as_there_are_colours(count):
    with pytest.raises(ValueError, match=f"Got {count} profiles to draw, expected 1 to 5"):
        profile_figure({str(number): profile(40) for number in range(count)})
