"""What charts share: a style, axes with a title, and bars.

Styles of matplotlib are taken when something is drawn, so that whoever draws does it inside of [`chart_style`].
"""

from collections.abc import Callable, Mapping

from contextcir.visualization.page import (
    DPI,
    FAINT,
    FONT,
    GREY,
    INK,
    RUNS,
    SMALL,
    TEXT,
    Figure,
    FigureCanvasAgg,
    rc_context,
)

STYLE = {
    "font.family": FONT,
    "font.size": SMALL,
    "text.parse_math": False,  # prices are no formulas
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def chart_style():
    """A context manager in which all that is drawn has the style of charts."""
    return rc_context(STYLE)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, which can be drawn without a display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def titled_axes(title: str, width: float, height: float):
    """A figure of one chart, so many inches wide and high, and its axes."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.01, ha="left", fontsize=TEXT, color=INK)  # over the labels of the axes, too
    return figure, axes


def bars(
    title: str, values: Mapping[str, float], label: Callable[[float], str], *, width: float = 5.2, least: float = 0.0
) -> Figure:
    """
    A horizontal bar for each value, the first on top, with its number beside it.

    Args:
        title (`str`): Above the chart.
        values (`Mapping[str, float]`): Name -> value, not negative; there is one at least.
        label (`Callable[[float], str]`): How a number is written.
        width (`float`, defaults to 5.2): Of the figure, in inches; it is as high as the bars need.
        least (`float`, defaults to 0): Where all values are smaller, the scale reaches to this one.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, axes = titled_axes(title, width, 0.8 + 0.3 * len(values))
    drawn = axes.barh(range(len(values)), values.values(), color=RUNS[0], height=0.62)
    axes.bar_label(drawn, [label(value) for value in values.values()], padding=3, fontsize=8, color=INK)
    axes.set_yticks(range(len(values)), values.keys())
    axes.invert_yaxis()
    axes.set_xlim(0, max(least, *values.values()) * 1.2 or 1)
    return figure
