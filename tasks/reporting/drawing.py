"""From a matplotlib figure to inline SVG: themed by CSS variables, and the same bytes for the same numbers."""

import re
from collections.abc import Callable
from html import escape
from typing import Any

WIDTH = 720  # px; one SVG unit is one px, so that 13 is a font size to read
# Each colour doubles as the fallback of a CSS variable. Okabe & Ito 2008, "Color universal design": told apart by all.
COLOURS = {
    "ink": "#1b1f24",
    "soft": "#5b6470",
    "grid": "#d5dae1",
    "on": "#fefefe",
    "blue": "#0072b2",
    "sky": "#3f95cc",
    "orange": "#d55e00",
    "green": "#009e73",
    "yellow": "#b97f00",
    "purple": "#b0578a",
    "grey": "#7d8590",
}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tuneflow",
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a dollar in somebody's data is a dollar
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["soft"],
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.labelcolor": COLOURS["soft"],
    "grid.color": COLOURS["grid"],
    "hatch.linewidth": 1.4,
    "axes.formatter.useoffset": False,
}
_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}
Paint = Callable[[Any], None]


def draw(name: str, label: str, height: float, paint: Paint, *, width: float = WIDTH, standalone: bool = False) -> str:
    """The SVG that `paint` draws.

    Args:
        name: prefix of every id, unique in a page.
        label: the finding in words, for those who cannot see it.
        height: px.
        paint: draws on a matplotlib Figure of `width` x `height` px.
        width: px.
        standalone: True for an image file of its own, with a white ground; False for a part of a page.
    """
    import warnings
    from io import StringIO

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that matplotlib's font lacks is the browser's to find
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        figure.patch.set_alpha(1.0 if standalone else 0.0)
        paint(figure)
        buffer = StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata=_NOTHING)
    return _finish(buffer.getvalue(), name, label, (width, height), standalone)


def _finish(svg: str, name: str, label: str, size: tuple[float, float], standalone: bool) -> str:
    """Drop what belongs to a file, make ids unique, and let the page's theme decide colours and font."""
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    body = body[body.index(">") + 1 :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    body = body.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, sans-serif")
    for colour, value in COLOURS.items():
        body = body.replace(value, f"var(--fig-{colour}, {value})")
    body = re.sub(r"\s*\n\s*", "\n", body)
    width, height = size
    file = f' width="{width:g}" height="{height:g}" xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    links = ' xmlns:xlink="http://www.w3.org/1999/xlink"' if standalone else ""
    if not standalone:
        body = body.replace("xlink:href", "href")
    title = escape(label, quote=True)
    return f'<svg{file}{links} viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{title}">{body.strip()}'


def panel(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Axes at a place in px from the figure's upper left corner, with no frame but a faint lower line."""
    whole, total = figure.get_figwidth() * 72, figure.get_figheight() * 72
    axes = figure.add_axes((left / whole, 1 - (top + height) / total, width / whole, height / total))
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=12)
    return axes


def sheet(figure: Any) -> Any:
    """Axes over the whole figure whose coordinates are px from the upper left corner."""
    height = figure.get_figheight() * 72
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes


def box(axes: Any, left: float, top: float, width: float, height: float, colour: str) -> None:
    """A filled rectangle."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, top), width, height, facecolor=COLOURS[colour], linewidth=0))


def ribbon(axes: Any, start: tuple[float, float, float], end: tuple[float, float, float], colour: str) -> None:
    """A band that flows from one (x, top, height) to another."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (x0, top0, height0), (x1, top1, height1) = start, end
    middle = (x0 + x1) / 2
    points = [
        (x0, top0), (middle, top0), (middle, top1), (x1, top1),
        (x1, top1 + height1), (middle, top1 + height1), (middle, top0 + height0), (x0, top0 + height0), (x0, top0),
    ]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    axes.add_patch(PathPatch(Path(points, codes), facecolor=COLOURS[colour], alpha=0.28, linewidth=0))
