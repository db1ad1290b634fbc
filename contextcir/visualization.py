"""Pictures of what a model retrieves, where its noun phrases look, and how its training went.

Three figures: the best gallery images for some queries; the attention maps of noun phrases in context and isolated, as
in figure 5 of ConText-CIR (CVPR 2025); and the curves of training logs. Each is a `matplotlib.figure.Figure` that
belongs to no window and no global state: its `savefig` makes a PDF for a paper, [`save_png`] a small picture. Models
arrive as arguments, and which queries are drawn is the caller's choice.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from contextcir.retrieval.base import Gallery, Query, Ranking

try:
    from matplotlib import colormaps, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError(f"Figures need matplotlib ({error}): pip install contextcir[demo]") from error

DPI = 100  # lengths below are pixels at this resolution, font sizes are points
FONT = "DejaVu Sans"  # comes with matplotlib: the same on every machine
TEXT, SMALL = 10.5, 9
LINE, SMALL_LINE = 19, 16  # heights of a line of text
TILE, GAP, MARGIN, FRAME = 96, 14, 24, 4
INK, GREY, FAINT = "#222222", "#6f6f6f", "#e3e3e3"
TARGET, REFERENCE = "#1a9641", "#d7191c"
RUNS = ("#1f6fb4", "#e08214", "#6a51a3", "#4d9221", "#555555")

_RENDERER = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()  # measures text


class _Page:
    """A white page, measured in pixels from its top left corner."""

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axes.set_axis_off()

    def text(self, x, y, text: str | list[str], *, size=TEXT, color=INK, weight="normal", align="left", valign="top"):
        """Text as it is, or lines of it."""
        font = FontProperties(family=FONT, size=size, weight=weight)
        text = text if isinstance(text, str) else "\n".join(text)
        # Without parse_math, "$" would begin a formula.
        self.axes.text(x, y, text, fontproperties=font, color=color, ha=align, va=valign, parse_math=False)

    def tile(self, left, top, image: Image.Image, label: str = "", frame: str | None = None) -> None:
        """An image of any shape in the middle of a square, and below it a label."""
        scale = TILE / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        x, y = left + (TILE - width) // 2, top + (TILE - height) // 2
        if scale < 0.5:
            image = image.resize((2 * width, 2 * height), Image.Resampling.BOX)  # small files
        self.framed(x, y, width, height, image, frame)
        style = {"color": frame, "weight": "bold"} if frame else {"color": GREY}
        self.text(left + TILE / 2, top + TILE + 7, label, size=SMALL, align="center", **style)

    def framed(self, left, top, width, height, image: Image.Image, color: str | None = None) -> None:
        """An image on a slightly larger area; white images need an edge, too."""
        edge = FRAME if color else 1
        corner, size = (left - edge, top - edge), (width + 2 * edge, height + 2 * edge)
        self.axes.add_patch(Rectangle(corner, *size, facecolor=color or FAINT, linewidth=0, zorder=-1))
        self.axes.imshow(image, extent=(left, left + width, top + height, top), aspect="auto")


def _wrap(text: str, width: float, size: float = TEXT, max_lines: int = 4, weight: str = "normal") -> list[str]:
    """Lines of at most `width` pixels; longer words are broken, and what does not fit in all lines becomes "…"."""
    font = FontProperties(family=FONT, size=size, weight=weight)

    def fits(line):
        return _RENDERER.get_text_width_height_descent(line, font, False)[0] <= width

    lines = [""]
    for word in text.split():
        if fits(f"{lines[-1]} {word}".strip()):
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        lines.append("")
        for character in word:
            if not fits(lines[-1] + character):
                lines.append("")
            lines[-1] += character
    lines = [line for line in lines if line]
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        while lines[-1] and not fits(lines[-1] + "…"):
            lines[-1] = lines[-1][:-1]
        lines[-1] = lines[-1].rstrip() + "…"
    return lines


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """
    Write a figure as a picture of 256 colours, a third as large as with all of them.

    Args:
        figure (`matplotlib.figure.Figure`): From a function of this file.
        path (`str` or `os.PathLike`): The file. Its folder is made if need be.
    """
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # An octree keeps the hues of small things, where a median cut spends the colours on large areas.
    colours = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    palette, background = colours.getpalette(), colours.getpixel((0, 0))
    palette[3 * background : 3 * background + 3] = 255, 255, 255  # which the octree mixes with what is nearly white
    colours.putpalette(palette)
    # Dithered, or photographs fall into flat patches.
    image.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG).save(path, "PNG", optimize=True)


# Retrieval


def retrieval_grid(
    queries: Sequence[Query],
    gallery: Gallery,
    ranking: Ranking,
    relevance: Mapping[str, set[str]],
    *,
    k: int = 10,
) -> Figure:
    """
    Draw a row for each query: its text, its reference image and the `k` best images of the gallery.

    Targets have a green frame and a tick; the reference has a red frame, also where it is among the best. A query
    without a target among the `k` best has its best-ranked target at the end of its row, with its rank.

    Args:
        queries (`Sequence[Query]`): The rows, from the top.
        gallery (`Gallery`): Where images come from.
        ranking (`Ranking`): Holds these queries. Longer lists tell the rank of targets that are missed.
        relevance (`Mapping[str, set[str]]`): Ids of each query's targets, by query id.
        k (`int`, *optional*, defaults to 10): How many images to show; fewer where the ranking holds fewer.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        `ImageError`: An image cannot be read.
        `ValueError`: There is no query, or one that is not in the ranking.
    """
    if not queries:
        raise ValueError("There are no queries to draw.")
    places = {id_: place for place, id_ in enumerate(ranking.query_ids)}
    if absent := [query.id for query in queries if query.id not in places]:
        raise ValueError(f"The ranking does not hold the query {absent[0]!r}.")
    ranked = {query.id: ranking.gallery_ids[places[query.id]] for query in queries}
    missed = {query.id for query in queries if relevance[query.id].isdisjoint(ranked[query.id][:k])}

    best_left = MARGIN + TILE + 3 * GAP
    missed_left = best_left + max(len(ids[:k]) for ids in ranked.values()) * (TILE + GAP) + 2 * GAP
    width = max(missed_left + (TILE if missed else -3 * GAP) + MARGIN, 880)
    texts = [_wrap(query.modification_text, width - 2 * MARGIN) for query in queries]
    row_height = 10 + TILE + 50  # below its text
    page = _Page(width, MARGIN + 2 * LINE + sum(len(lines) * LINE + row_height for lines in texts))

    top = MARGIN
    scores = "" if ranking.scores is None else " and their scores"
    page.text(
        best_left, top, f"best of {len(gallery):,} gallery images, from the left,{scores}".rstrip(","), color=GREY
    )
    for left, color, name in ((width - MARGIN - 170, REFERENCE, "reference"), (width - MARGIN - 52, TARGET, "target")):
        page.framed(left - 22, top + 3, 8, 8, Image.new("RGB", (1, 1), "white"), color)
        page.text(left, top, name, color=GREY)
    top += 2 * LINE
    for query, lines in zip(queries, texts, strict=True):
        page.text(MARGIN, top, lines)
        top += len(lines) * LINE + 10
        page.tile(MARGIN, top, gallery.reference_image(query), "reference", REFERENCE)
        ids, targets = ranked[query.id], relevance[query.id]
        for rank, id_ in enumerate(ids[:k]):
            label = f"{rank + 1}" if ranking.scores is None else f"{ranking.scores[places[query.id]][rank]:.3f}"
            kind = TARGET if id_ in targets else REFERENCE if id_ == query.reference_id else None
            label += " ✓" if kind == TARGET else ""
            page.tile(best_left + rank * (TILE + GAP), top, gallery.image(id_), label, kind)
        if query.id in missed:
            rank, id_ = min(((ids.index(id_), id_) for id_ in targets & set(ids)), default=(None, min(targets)))
            label = f"rank > {len(ids):,}" if rank is None else f"rank {rank + 1:,}"
            page.text(missed_left - 1.5 * GAP, top + TILE / 2, "…", color=GREY, align="center", valign="center")
            page.tile(missed_left, top, gallery.image(id_), label, TARGET)
        top += row_height - 10
    return page.figure


# Attention of noun phrases


@dataclass(frozen=True)
class ConceptMaps:
    """
    Where the noun phrases of one query look in its reference image.

    Args:
        image (`Image.Image`): What the model sees of the reference image: resized and cropped by its processor.
        text (`str`): The modification text.
        phrases (`list[str]`): Its noun phrases.
        context (`list[np.ndarray | None]`): For each phrase a distribution over patches `(rows, columns)`, encoded
            inside the text; `None` where it has no tokens of its own there (cut off with the text, for example).
        isolated (`list[np.ndarray | None]`): The same for each phrase encoded by itself.
    """

    image: Image.Image
    text: str
    phrases: list[str]
    context: list[np.ndarray | None]
    isolated: list[np.ndarray | None]


def concept_maps(model, processor, image: Image.Image, text: str, noun_phrases: Sequence[Mapping]) -> ConceptMaps:
    """
    Ask a model where the noun phrases of a query look.

    Args:
        model (`torch.nn.Module`): With `get_concept_attentions`.
        processor: Its processor.
        image (`Image.Image`): The reference image, RGB.
        text (`str`): The modification text.
        noun_phrases (`Sequence[Mapping]`): `{"text", "start", "end"}`, characters of the text. There may be none.

    Returns:
        [`ConceptMaps`]

    Raises:
        `ValueError`: A span lies outside the text.
    """
    pixel_values = processor(images=[image], return_tensors="pt")["pixel_values"]  # (1, 3, height, width)
    maps = [[None] * len(noun_phrases), [None] * len(noun_phrases)]  # in context, isolated
    if noun_phrases:
        # One phrase a row: `phrase_sample` then names those that the processor kept.
        rows = {"text": [text] * len(noun_phrases), "noun_phrases": [[phrase] for phrase in noun_phrases]}
        inputs = processor(**rows, return_tensors="pt")
        for counter in ("num_truncated_texts", "num_dropped_phrases"):
            del inputs[counter]
        kept = inputs["phrase_sample"].tolist()
        device, training = next(model.parameters()).device, model.training
        model.eval()
        with torch.inference_mode():
            pixels = pixel_values.expand(len(noun_phrases), -1, -1, -1)
            both = model.get_concept_attentions(pixels.to(device), **inputs.to(device))  # 2 x (num_kept, num_patches)
        model.train(training)
        height, width = pixel_values.shape[2:]
        for kind, attentions in enumerate(both):
            grid_height = round((attentions.shape[1] * height / width) ** 0.5)  # patches are square
            for row, grid in zip(kept, attentions.float().cpu().unflatten(1, (grid_height, -1)).numpy(), strict=True):
                maps[kind][row] = grid
    return ConceptMaps(
        _seen(pixel_values[0], processor), text, [phrase["text"] for phrase in noun_phrases], maps[0], maps[1]
    )


def _seen(pixel_values: torch.Tensor, processor) -> Image.Image:
    """Undo the normalisation: `(3, height, width)` -> RGB."""
    normalisation = processor.image_processor
    pixels = pixel_values.permute(1, 2, 0).numpy() * np.array(normalisation.image_std) + normalisation.image_mean
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def total_variation(context: np.ndarray, isolated: np.ndarray) -> float:
    """Half the absolute difference of two distributions, in [0, 1]: the concept consistency loss of one phrase."""
    return float(np.abs(context - isolated).sum() / 2)


def heat_overlay(image: Image.Image, attention: np.ndarray, maximum: float) -> Image.Image:
    """
    Lay an attention map, from yellow to red, over a pale copy of an image.

    Args:
        image (`Image.Image`): RGB.
        attention (`np.ndarray` of shape `(rows, columns)`): Not negative; patches from the top left.
        maximum (`float`): The attention with the full colour: the same for maps that are to be compared.

    Returns:
        `Image.Image`: RGB, of the image's size.
    """
    level = Image.fromarray((attention / maximum).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    level = np.asarray(level).clip(0, 1)[..., None]  # (height, width, 1)
    heat = colormaps["YlOrRd"](0.85 * level[..., 0])[..., :3]  # without its brown end
    pixels = np.asarray(image, dtype=np.float32) / 255
    pale = 0.45 + 0.33 * pixels.mean(axis=2, keepdims=True) + 0.22 * pixels
    opacity = 0.75 * np.minimum(1, 2 * level)  # the yellow of little attention must be seen on a light image
    return Image.fromarray((255 * ((1 - opacity) * pale + opacity * heat)).round().astype(np.uint8))


def concept_attention_figure(runs: Mapping[str, Sequence[ConceptMaps]], *, max_phrases: int = 4) -> Figure:
    """
    Draw where the noun phrases of queries look: in context and isolated side by side, a row for each model.

    The maps of a pair share a colour scale, from 0 to the larger of their maxima. Below a pair stands its total
    variation distance.

    Args:
        runs (`Mapping[str, Sequence[ConceptMaps]]`):
            For each model, by its name in the figure, the maps of the same queries with the same phrases.
        max_phrases (`int`, *optional*, defaults to 4): How many phrases of a query to show: the first ones.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        `ValueError`: There is nothing to draw, or the models were asked different things.
    """
    asked = [[(maps.text, maps.phrases) for maps in queries] for queries in runs.values()]
    if not asked or not asked[0]:
        raise ValueError("There are no attention maps to draw.")
    if any(other != asked[0] for other in asked):
        raise ValueError(f"The attention maps of {' and '.join(runs)} are of different queries or noun phrases.")

    pair_width = 2 * TILE + 4
    names_width = 150 if len(runs) > 1 else 0
    pairs_left = MARGIN + TILE + names_width + 2 * GAP
    width = pairs_left + max_phrases * (pair_width + 2 * GAP) - 2 * GAP + MARGIN
    blocks = []
    for maps in zip(*runs.values(), strict=True):  # the models' maps of one query
        text = _wrap(maps[0].text, width - 2 * MARGIN)
        titles = [_wrap(phrase, pair_width, SMALL, 2, "bold") for phrase in maps[0].phrases[:max_phrases]]
        head = len(text) * LINE + 10 + ((max(map(len, titles)) + 1) * SMALL_LINE + 4 if titles else 0)
        blocks.append((maps, text, titles, head))
    row_height = TILE + 34
    heights = [head + (len(runs) if titles else 1) * row_height + 14 for *_, titles, head in blocks]
    page = _Page(width, MARGIN + 2 * LINE + sum(heights))

    top = MARGIN
    _attention_key(page, top)
    top += 2 * LINE
    for (maps, text, titles, head), height in zip(blocks, heights, strict=True):
        page.text(MARGIN, top, text)
        top, bottom = top + head, top + height
        for place, title in enumerate(titles):
            left = pairs_left + place * (pair_width + 2 * GAP)
            page.text(left, top - SMALL_LINE - 8, title, size=SMALL, weight="bold", valign="bottom")
            for x, kind in ((left, "in context"), (left + TILE + 4, "isolated")):
                page.text(x, top - 5, kind, size=SMALL, color=GREY, valign="bottom")
        page.tile(MARGIN, top, maps[0].image, "reference")
        if not titles:
            page.text(pairs_left, top + TILE / 2, "no noun phrase", color=GREY, valign="center")
        for name, own in zip(runs, maps, strict=True) if titles else ():
            if names_width:
                lines = _wrap(name, names_width - GAP, SMALL, 5)
                page.text(pairs_left - GAP, top + TILE / 2, lines, size=SMALL, align="right", valign="center")
            for place in range(len(titles)):
                _draw_pair(page, pairs_left + place * (pair_width + 2 * GAP), top, own, place)
            top += row_height
        top = bottom
    return page.figure


def _draw_pair(page: _Page, left: float, top: float, maps: ConceptMaps, place: int) -> None:
    context, isolated = maps.context[place], maps.isolated[place]
    if context is None or isolated is None:
        middle = {"align": "center", "valign": "center"}
        page.text(left + TILE, top + TILE / 2, "no tokens of its own", size=SMALL, color=GREY, **middle)
        return
    maximum = max(context.max(), isolated.max())
    for x, attention in ((left, context), (left + TILE + 4, isolated)):
        page.tile(x, top, heat_overlay(maps.image, attention, maximum))
    label = f"TV {total_variation(context, isolated):.2f}"
    page.text(left + TILE + 2, top + TILE + 7, label, size=SMALL, align="center")


def _attention_key(page: _Page, top: float) -> None:
    page.text(MARGIN, top, "Attention", color=GREY)
    scale = heat_overlay(Image.new("RGB", (120, 10), "white"), np.linspace(0, 1, 120)[None], 1)
    page.framed(MARGIN + 84, top + 3, *scale.size, scale)
    text = "0 to the larger maximum of a pair.     TV: total variation distance of a pair, from 0 (same) to 1 (apart)."
    page.text(MARGIN + 216, top, text, color=GREY)


# Training


def read_history(run: str | os.PathLike) -> list[dict]:
    """
    Read the log of a training run.

    Args:
        run (`str` or `os.PathLike`): Output folder of a run, with `trainer_state.json`.

    Returns:
        `list[dict]`: What was logged, with the `step` of each entry.

    Raises:
        `ValueError`: The file is missing or damaged.
    """
    path = Path(run, "trainer_state.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))["log_history"]
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}. Give the output folder of a finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the state of a trainer ({type(error).__name__}: {error}).") from error


# Of the log, neither a loss nor a metric.
_BOOKKEEPING = re.compile(r"train_.*|total_flos|epoch|step|(.*_)?(runtime|per_second|texts|phrases|tokens_seen)")


def training_curves(histories: Mapping[str, Sequence[Mapping]], *, columns: int = 5) -> Figure:
    """
    Draw a panel for each loss part and each metric, with the curves of all runs.

    What evaluation measured (`eval_loss`) shares the panel of what training logged (`loss`).

    Args:
        histories (`Mapping[str, Sequence[Mapping]]`): The log of each run, by its name in the legend.
        columns (`int`, *optional*, defaults to 5): Panels side by side.

    Returns:
        `matplotlib.figure.Figure`: One axes for each panel, titled with the name that was logged.

    Raises:
        `ValueError`: There is nothing to draw.
    """
    panels: dict[str, dict[tuple[str, bool], list]] = {}  # name -> (run, of evaluation?) -> (step, value) pairs
    for run, history in histories.items():
        for entry in history:
            for key, value in entry.items():
                if isinstance(value, int | float) and not _BOOKKEEPING.fullmatch(key.removeprefix("eval_")):
                    curves = panels.setdefault(key.removeprefix("eval_"), {})
                    curves.setdefault((run, key.startswith("eval_")), []).append((entry["step"], value))
    if not panels:
        raise ValueError(f"Nothing to draw: no loss and no metric in the log of {', '.join(histories) or 'no run'}.")

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    colors = {run: RUNS[place % len(RUNS)] for place, run in enumerate(histories)}
    labels = {run: "\n".join(_wrap(run, 250)) for run in histories}
    handles = [Line2D([], [], color=color, label=labels[run]) for run, color in colors.items()]
    if len({evaluated for curves in panels.values() for _, evaluated in curves}) == 2:
        handles.append(Line2D([], [], color=GREY, label="training"))
        handles.append(Line2D([], [], color=GREY, label="evaluation", linestyle="--", marker="o", markersize=3))
    legend_lines = -(-len(handles) // max(1, columns - 1)) * max(label.count("\n") + 1 for label in labels.values())
    height = 1.9 * rows + 0.25 + 0.22 * legend_lines
    with rc_context({"font.family": FONT, "font.size": SMALL, "text.parse_math": False}):
        figure = Figure(figsize=(2.6 * columns, height), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        for place, name in enumerate(sorted(panels, key=_panel_order)):
            axes = figure.add_subplot(rows, columns, place + 1, sharex=figure.axes[0] if figure.axes else None)
            for (run, evaluated), points in panels[name].items():
                style = {"linestyle": "--"} if evaluated else {}
                style |= {"marker": "o", "markersize": 3} if evaluated or len(points) == 1 else {}
                axes.plot(*zip(*points, strict=True), color=colors[run], linewidth=1.3, **style)
            axes.set_title(name, fontsize=TEXT, color=INK, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(GREY)
            axes.grid(color=FAINT, linewidth=0.6)
            axes.tick_params(colors=GREY, labelsize=8, labelfontfamily=FONT)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter("{x:g}")
        legend = {"ncols": max(1, columns - 1), "frameon": False, "fontsize": TEXT}
        figure.legend(handles=handles, loc="outside upper left", **legend)
        figure.supxlabel("step", fontsize=SMALL, color=GREY)
    return figure


def _panel_order(name: str) -> tuple:
    """Losses, metrics, the rest; recall@5 before recall@10."""
    group = 0 if name.startswith("loss") else 1 if "@" in name else 2
    return group, [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
