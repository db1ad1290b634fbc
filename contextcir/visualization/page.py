"""Pages measured in pixels, charts in one style, and PNG files, for all figures.

This is the only file that imports matplotlib, which is optional. The others import its names from here.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contextcir.retrieval.base import Gallery, Query

try:
    from matplotlib import colormaps, rc_context
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError(f"Figures need matplotlib ({error}): pip install contextcir[demo]") from error

__all__ = ["Axes", "Figure", "Line2D", "MaxNLocator"]

DPI = 100  # lengths below are pixels at this resolution, font sizes are points
FONT = "DejaVu Sans"  # shipped with matplotlib, so it is the same on every machine
TEXT, SMALL = 10.5, 9
LINE, SMALL_LINE = 19, 16  # heights of a line of text
TILE, GAP, MARGIN, FRAME = 96, 14, 24, 4
INK, GREY, FAINT = "#222222", "#6f6f6f", "#e3e3e3"
TARGET, REFERENCE = "#1a9641", "#d7191c"
RUNS = ("#1f6fb4", "#e08214", "#6a51a3", "#4d9221", "#555555")
HEAT = colormaps["YlOrRd"]
STYLE: dict[str, Any] = {"font.family": FONT, "font.size": SMALL, "text.parse_math": False}  # prices are no formulas
STYLE |= {"figure.dpi": DPI, "figure.facecolor": "white", "figure.constrained_layout.use": True}
STYLE |= {f"figure.constrained_layout.{side}_pad": 0.1 for side in "hw"}  # inches: on a dark page letters keep clear
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.axisbelow": True}
STYLE |= {"axes.titlelocation": "left", "axes.titlesize": TEXT, "axes.titlecolor": INK, "legend.frameon": False}
STYLE |= {"xtick.color": GREY, "ytick.color": GREY, "xtick.labelsize": 8, "ytick.labelsize": 8}
STYLE |= {"grid.color": FAINT, "grid.linewidth": 0.6}

_RENDERER = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()  # measures text


class Page:
    """A white page, measured in pixels from its top left corner."""

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axes.set_axis_off()

    def text(self, x: float, y: float, text: str | list[str], **style: Any) -> None:
        """Write a text or lines of it, from the top by default. `style` is as for matplotlib's `Axes.text`."""
        text = text if isinstance(text, str) else "\n".join(text)
        defaults: dict[str, Any] = {"family": FONT, "size": TEXT, "color": INK, "va": "top"}
        self.axes.text(x, y, text, parse_math=False, **defaults | style)  # with parse_math, "$" begins a formula

    def note(self, x: float, y: float, text: str | list[str], **style: Any) -> None:
        """Write a small grey text. Arguments as for [`text`]."""
        self.text(x, y, text, **{"size": SMALL, "color": GREY} | style)

    def tile(self, left: float, top: float, image: Image.Image, label: str = "", frame: str | None = None) -> None:
        """Draw an image of any shape in the middle of a square, and a label below it."""
        scale = TILE / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        x, y = left + (TILE - width) // 2, top + (TILE - height) // 2
        if scale < 0.5:
            image = image.resize((2 * width, 2 * height), Image.Resampling.BOX)  # for smaller files
        self.framed(x, y, (width, height), image, frame)
        style = {"color": frame, "weight": "bold"} if frame else {}
        self.note(left + TILE / 2, top + TILE + 7, label, ha="center", **style)

    def candidate(
        self, left: float, top: float, query: Query, gallery: Gallery, id_: str, label: str, targets: Collection[str]
    ) -> None:
        """Draw a gallery image for a query. Targets have a green frame, the reference a red one."""
        frame = TARGET if id_ in targets else REFERENCE if id_ == query.reference_id else None
        self.tile(left, top, gallery.image(id_), label, frame)

    def framed(self, left: float, top: float, size: tuple[int, int], image: Image.Image, color: str | None) -> None:
        """Draw an image with a frame of a colour, or with a faint edge, which makes white images visible."""
        (width, height), edge = size, FRAME if color else 1
        area = (left - edge, top - edge), width + 2 * edge, height + 2 * edge
        self.axes.add_patch(Rectangle(*area, facecolor=color or FAINT, linewidth=0, zorder=-1))
        self.axes.imshow(image, extent=(left, left + width, top + height, top), aspect="auto")


def wrap(text: str, width: float, size: float = TEXT, max_lines: int = 4, weight: str = "normal") -> list[str]:
    """Break a text into lines of at most `width` pixels. Long words are broken, after a hyphen or the like where
    they have one, and surplus lines become "…"."""
    font = FontProperties(family=FONT, size=size, weight=weight)

    def fits(line: str) -> bool:
        return _RENDERER.get_text_width_height_descent(line, font, False)[0] <= width

    lines = [""]
    for word in text.split():
        if fits(f"{lines[-1]} {word}".strip()):
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        lines.append("")
        for part in re.findall(r"[^-_/.]*(?:[-_/.]+|$)", word):  # names of runs break where they have a sign
            if not fits(lines[-1] + part):
                lines.append("")
            for character in part:
                if not fits(lines[-1] + character):
                    lines.append("")
                lines[-1] += character
        if len(lines) > max_lines + 1:
            break  # the rest is cut off
    lines = [line for line in lines if line]
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        while lines[-1] and not fits(lines[-1] + "…"):
            lines[-1] = lines[-1][:-1]
        lines[-1] = lines[-1].rstrip() + "…"
    return lines


@contextmanager
def chart(width: float, height: float, title: str = "") -> Iterator[Figure]:
    """Open an empty figure with sizes in inches, and apply the style of charts while the block draws."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=TEXT, color=INK)  # above the labels of all axes
        yield figure


def bars(
    title: str, values: Mapping[str, float], label: Callable[[float], str], *, width: float = 5.2, least: float = 0.0
) -> Figure:
    """Draw horizontal bars from top to bottom, with their values as `label` writes them.

    `width` is in inches; the height follows the number of bars. The scale reaches at least to `least`.
    """
    with chart(width, 0.8 + 0.3 * len(values), title) as figure:
        axes = figure.add_subplot()
        drawn = axes.barh(range(len(values)), list(values.values()), color=RUNS[0], height=0.62)
        axes.bar_label(drawn, [label(value) for value in values.values()], padding=3, fontsize=8, color=INK)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.set_xlim(0, max(least, *values.values()) * 1.2 or 1)
    return figure


def interval_errors(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the distances from values to the ends of their intervals, as `errorbar` expects them: `(2, n)`."""
    pairs = list(zip(values, intervals, strict=True))
    return [[max(0, value - low) for value, (low, _) in pairs], [max(0, high - value) for value, (_, high) in pairs]]


def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG with 256 colours, a third of the size of full colour. Folders are created."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with_few_colours(image).save(path, "PNG", optimize=True)


def with_few_colours(image: Image.Image) -> Image.Image:
    """Reduce an RGB image to 256 colours. If its top left corner is white, it is a page, and stays white."""
    # An octree keeps the hues of small objects; a median cut spends the colours on large areas.
    colours = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    palette, background = colours.getpalette() or [], int(np.asarray(colours)[0, 0])
    if image.getpixel((0, 0)) == (255, 255, 255):
        palette[3 * background : 3 * background + 3] = 255, 255, 255  # the octree mixes white with nearly white
    colours.putpalette(palette)
    # Without dithering, photographs turn into flat areas.
    return image.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
