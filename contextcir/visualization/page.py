"""What all figures share: sizes, colours, a page measured in pixels, and how a figure becomes a file.

The only file that imports matplotlib, which is optional; the others take what they need of it from here.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

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

__all__ = [
    "Figure",
    "FigureCanvasAgg",
    "Line2D",
    "MaxNLocator",
    "Page",
    "colormaps",
    "rc_context",
    "save_png",
    "wrap",
]

DPI = 100  # lengths below are pixels at this resolution, font sizes are points
FONT = "DejaVu Sans"  # comes with matplotlib: the same on every machine
TEXT, SMALL = 10.5, 9
LINE, SMALL_LINE = 19, 16  # heights of a line of text
TILE, GAP, MARGIN, FRAME = 96, 14, 24, 4
INK, GREY, FAINT = "#222222", "#6f6f6f", "#e3e3e3"
TARGET, REFERENCE = "#1a9641", "#d7191c"
RUNS = ("#1f6fb4", "#e08214", "#6a51a3", "#4d9221", "#555555")

_RENDERER = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()  # measures text


class Page:
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


def wrap(text: str, width: float, size: float = TEXT, max_lines: int = 4, weight: str = "normal") -> list[str]:
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
