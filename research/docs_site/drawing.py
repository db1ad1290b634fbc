"""A pencil for the site's drawings: boxes, arrows, grids and words as SVG, in colours that follow light and dark.

A drawing is an image where the repository is shown, with the colours that the reader's system asks for. On the site it
is part of the page, with those of the scheme that is chosen there. Words between dollar signs are symbols: italic, `_`
and `^` for the next letter or for what is in braces.
"""

import re
from collections.abc import Sequence
from html import escape

COLOURS = {  # name -> light, dark
    "ink": ("#1f2328", "#e6e8ee"),
    "faint": ("#6b7280", "#9aa3b2"),
    "paper": ("#ffffff", "#232733"),
    "given": ("#eef1f5", "#2c3242"),
    "image": ("#dbeafe", "#1e3a5f"),
    "text": ("#fde9c8", "#5a4320"),
    "new": ("#dcf3e1", "#1f4a30"),
    "strong": ("#c2410c", "#fb923c"),
    "red": ("#dc2626", "#ef4444"),
    "blue": ("#2563eb", "#60a5fa"),
}


class Drawing:
    """
    One drawing.

    Args:
        width, height (`int`): Of the canvas.
        title (`str`): What the drawing shows, for those who do not see it.
    """

    def __init__(self, width: int, height: int, title: str):
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, words: str, kind: str = "paper") -> None:
        """A box with words in its middle, a line each."""
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" class="{kind} line"/>')
        self.words(x + width / 2, y + height / 2, words)

    def words(self, x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> None:
        """Lines of words around a point."""
        lines = words.split("\n")
        for number, line in enumerate(lines):
            down = y + 5 + 18 * (number - (len(lines) - 1) / 2)
            self.parts.append(
                f'<text x="{x}" y="{down:g}" text-anchor="{anchor}" class="{kind}">{marked(line)}</text>'
            )

    def arrow(self, *points: tuple[float, float], label: str = "", dashed: bool = False) -> None:
        """A line through points with a head at the last one, and words beside its middle."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        kind = "arrow dashed" if dashed else "arrow"
        self.parts.append(f'<path d="{path}" class="{kind}" marker-end="url(#head)"/>')
        if label:
            (x0, y0), (x1, y1) = points[-2:]
            side = y0 == y1
            x, y = (x0 + x1) / 2 + (0 if side else 8), (y0 + y1) / 2 - (11 if side else 0)
            self.words(x, y, label, "middle" if side else "start", "faint")

    def line(self, *points: tuple[float, float]) -> None:
        """A line without a head."""
        self.parts.append(f'<path d="M{" L".join(f"{x:g} {y:g}" for x, y in points)}" class="arrow"/>')

    def tokens(self, x: float, y: float, count: int, kind: str, size: float = 16) -> None:
        """A row of tokens."""
        for number in range(count):
            place = f'x="{x + number * (size + 3):g}" y="{y}" width="{size}" height="{size}"'
            self.parts.append(f'<rect {place} rx="3" class="{kind} line"/>')

    def map(
        self, x: float, y: float, values: Sequence[Sequence[float]], kind: str = "strong", size: float = 20
    ) -> None:
        """A map over image patches: the higher the value, the stronger the colour."""
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                place = f'x="{x + column * size:g}" y="{y + row * size:g}" width="{size}" height="{size}"'
                self.parts.append(f'<rect {place} class="paper line"/>')
                if value:
                    self.parts.append(f'<rect {place} class="{kind}" opacity="{value:g}"/>')

    def scene(self, x: float, y: float, size: float, circle: str, square: str) -> None:
        """A small picture: a circle and a square on a ground."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{size}" height="{size}" rx="4" class="given line"/>'
            f'<circle cx="{x + 0.32 * size:g}" cy="{y + 0.36 * size:g}" r="{0.17 * size:g}" class="{circle}"/>'
            f'<rect x="{x + 0.52 * size:g}" y="{y + 0.52 * size:g}" width="{0.32 * size:g}" height="{0.32 * size:g}"'
            f' class="{square}"/>'
        )

    def svg(self) -> str:
        """The drawing as a file."""
        names = {
            scheme: "".join(f"--{name}:{pair[place]};" for name, pair in COLOURS.items())
            for place, scheme in enumerate(("light", "dark"))
        }
        fills = "".join(f".drawing .{name}{{fill:var(--{name})}}" for name in COLOURS)
        style = (
            f".drawing{{{names['light']}font:13px system-ui,sans-serif}}"
            f"@media (prefers-color-scheme:dark){{.drawing{{{names['dark']}}}}}"
            f"[data-md-color-scheme=default] .drawing{{{names['light']}}}"
            f"[data-md-color-scheme=slate] .drawing{{{names['dark']}}}"
            f"{fills}.drawing text{{fill:var(--ink)}}.drawing text.faint{{fill:var(--faint);font-size:12px}}"
            ".drawing .m{font-family:'STIX Two Text','Cambria',Georgia,serif;font-style:italic;font-size:1.08em}"
            ".drawing .line{stroke:var(--ink);stroke-opacity:.45}"
            ".drawing .arrow{fill:none;stroke:var(--ink);stroke-width:1.4}.drawing .dashed{stroke-dasharray:5 4}"
            ".drawing .title{font-weight:600}"
        )
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {self.width} {self.height}"'
            f' role="img" aria-label="{escape(self.title)}">\n<style>{style}</style>\n'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path d="M0 0L8 4L0 8z" class="ink"/></marker></defs>\n'
            f"{body}\n</svg>\n"
        )


def marked(words: str) -> str:
    """Words as SVG, with symbols between dollar signs."""
    parts = []
    for number, part in enumerate(escape(words, quote=False).split("$")):
        if number % 2:
            part = re.sub(r"([_^])(?:\{([^}]*)\}|(.))", _shifted, part)
            part = f'<tspan class="m">{part}</tspan>'
        parts.append(part)
    return "".join(parts)


def _shifted(match: re.Match[str]) -> str:
    down = 4 if match[1] == "_" else -6
    # A space without width takes back the shift, which would else hold for the rest of the line.
    return f'<tspan dy="{down}" font-size="10">{match[2] or match[3]}</tspan><tspan dy="{-down}">&#8203;</tspan>'
