"""Curves as inline SVG by matplotlib, in the page's own colours; without matplotlib the page shows tables alone.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import StringIO
from typing import Any

from pytest_genmodel.reports.text import printable

INK, GRID, FIRST, SECOND = "#010203", "#020304", "#030405", "#040506"
"""Colours that stand for the page's own until the SVG is written: dark and light are the page's to choose."""
COLOURS = {INK: "var(--ink)", GRID: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)"}
WIDTH, HEIGHT = 4.7, 2.5
"""Inches; a phone shows it at two thirds."""
EQUAL = 100.0
"""dB at which frames that are equal are drawn."""


def available() -> bool:
    """Whether plots can be drawn."""
    return find_spec("matplotlib") is not None


def lines(
    name: str, x: Sequence[float], y: Sequence[float], x_label: str, y_label: str, *, log: bool = False
) -> str | None:
    """A curve over whole numbers, as an `<svg>`; None where there is nothing that can be drawn."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b) and (b > 0 or not log)]
    if not points:
        return None

    def draw(axes: Any) -> None:
        axes.plot(*zip(*points, strict=True), color=FIRST, marker="o", markersize=4, linewidth=1.5)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            _logarithmic(axes, "y")
        elif max(b for _, b in points) - min(b for _, b in points) < 1e-9:
            axes.set_ylim(points[0][1] - 1, points[0][1] + 1)

    return _svg(name, draw)


def ladder(
    name: str, rates: Sequence[float], weights: Sequence[float], sample: Sequence[float]
) -> str | None:
    """Drift over the learning rate, both logarithmic: in proportion is a straight line."""
    curves = [
        (
            label,
            colour,
            marker,
            [(x, y) for x, y in zip(rates, ys, strict=True) if x > 0 and 0 < y < math.inf],
        )
        for label, colour, marker, ys in (
            ("weights", FIRST, "o", weights),
            ("sample (latents)", SECOND, "s", sample),
        )
    ]
    if not any(points for *_, points in curves):
        return None

    def draw(axes: Any) -> None:
        for label, colour, marker, points in curves:
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=label)
        _logarithmic(axes, "x")
        _logarithmic(axes, "y")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("relative drift")
        axes.legend(frameon=False, labelcolor=INK)

    return _svg(name, draw)


def bars(name: str, labels: Sequence[str], values: Sequence[float], x_label: str) -> str | None:
    """A bar for each layer, the first on top, on a logarithmic scale."""
    shown = [
        (printable(label), value) for label, value in zip(labels, values, strict=True) if 0 < value < math.inf
    ]
    if not shown:
        return None

    def draw(axes: Any) -> None:
        least = min(value for _, value in shown) / 3
        axes.barh(
            range(len(shown)), [value - least for _, value in shown], left=least, color=FIRST, height=0.7
        )
        _logarithmic(axes, "x")
        axes.set_yticks(
            range(len(shown)), [label if len(label) <= 34 else f"..{label[-32:]}" for label, _ in shown]
        )
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel(x_label)

    return _svg(name, draw, 0.8 + 0.2 * len(shown))


def _logarithmic(axes: Any, which: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _svg(name: str, draw: Callable[[Any], None], height: float = HEIGHT) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",  # text stays text: it can be read out, searched and coloured
        "svg.hashsalt": name,  # ids of two plots on a page must differ, and be the same in each run
        "text.parse_math": False,  # names come from files that anyone may have written
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": INK,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": GRID,
        "axes.grid": True,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers of any size are drawn as well as can be
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        draw(axes)
        stream = StringIO()
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _inline(stream.getvalue())


def _inline(text: str) -> str:
    """The element alone, hidden from readers that cannot see it: a table beside it says the same."""
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(
        r"<g id=\"[^\"]*\"", "<g", text
    )  # nothing refers to groups, and two plots would share their ids
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()
