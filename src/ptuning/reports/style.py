"""One look for all figures: sizes that fit a page, colours that colour-blind readers tell apart, files that are equal
for equal numbers.

    with house_style():
        figure, (axes,) = new_figure(width=ONE_COLUMN, height=2.2)
        axes.plot(steps, scores, label="p-tuning-v2", **series_style(0))
        paths = save_figure(figure, "reports/scores")

Figures are made without pyplot, so that what a user has open there stays as it is; settings of matplotlib are changed
inside `house_style` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptuning.errors import MissingDependencyError
from ptuning.storage import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_COLUMN = 3.03
"""Inches: a column of the ACL's two-column pages (7.7 cm), so that font sizes are those of print."""
TWO_COLUMNS = 6.30
"""Inches: both columns and the gap between them (16 cm)."""
DOTS_PER_INCH = 200

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, "Color Universal Design", 2008, without its yellow, which is hard to see on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINES = ("-", "--", ":", "-.")
SEQUENTIAL = "Blues"
"""Colour map of heat maps: white at nothing, and darker with more, in print without colour too."""
MUTED = "#595959"
"""Of notes and reference lines."""

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so letters are as wide on every machine
    "font.size": 7.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited
    "svg.hashsalt": "ptuning",  # ids that are the same in every run
}


def require_matplotlib() -> None:
    """Makes sure that figures can be drawn, before anything long is computed for them.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'figures are drawn by matplotlib, which is not installed. Run: pip install "ptuning[reports]"'
        ) from error


@contextmanager
def house_style() -> Iterator[None]:
    """Draws what is inside in the look of this project; matplotlib's settings are as they were afterwards.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import style

    with style.context(["default", _SETTINGS]):
        yield


def new_figure(
    *, width: float = ONE_COLUMN, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, tuple[Axes, ...]]:
    """Makes a figure that pyplot does not know.

    Args:
        width: inches; `ONE_COLUMN` or `TWO_COLUMNS`.
        height: inches.
        rows: of axes.
        columns: of axes.
        options: of `Figure.subplots`, such as `sharey`.

    Returns:
        The figure, and its axes, one row after the other.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, tuple(grid.flatten())


def series_style(index: int, *, markers: bool = True) -> dict[str, Any]:
    """Colour, marker and line of one series among several, for `Axes.plot`.

    Colours come again after seven, with another marker and another line; no two of the first 28 are the same.

    Args:
        index: of the series, from 0.
        markers: whether points are marked; not for lines of very many points.
    """
    style: dict[str, Any] = {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": LINES[index // len(PALETTE) % len(LINES)],
    }
    return {**style, "marker": MARKERS[index % len(MARKERS)]} if markers else style


def shades(count: int) -> Sequence[tuple[float, float, float]]:
    """Colours in an order, light to dark, for series that have one, such as layers.

    Args:
        count: of series.

    Returns:
        Red, green and blue, each in [0, 1]; the lightest is still seen on white, and neighbours are told apart in
        print without colour as long as there are few.
    """
    require_matplotlib()
    from matplotlib import colormaps

    colours = colormaps["viridis"].reversed()
    places = [0.12 + 0.88 * (index / (count - 1) if count > 1 else 1.0) for index in range(count)]
    return [(red, green, blue) for red, green, blue, _ in map(colours, places)]


def save_figure(figure: Figure, path_without_suffix: str | Path) -> tuple[Path, Path]:
    """Writes a figure as SVG and PNG, equal bytes for equal figures under one version of matplotlib.

    Args:
        figure: made by `new_figure`.
        path_without_suffix: where; `.svg` and `.png` are added. Directories are made.

    Returns:
        The paths of the SVG and of the PNG.

    Raises:
        OSError: they cannot be written.
    """
    base = Path(path_without_suffix)
    vector, bitmap = (base.with_name(f"{base.name}.{suffix}") for suffix in ("svg", "png"))
    with house_style():
        replace_file(vector, lambda path: figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}))
        replace_file(
            bitmap, lambda path: figure.savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        )
    return vector, bitmap
