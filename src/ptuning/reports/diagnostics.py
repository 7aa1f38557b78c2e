"""Figures of what prompts do: attention on virtual tokens, norms over training, similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptuning.reports.style import (
    MUTED,
    ONE_COLUMN,
    SEQUENTIAL,
    TWO_COLUMNS,
    house_style,
    new_figure,
    shades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NUMBERS = 150  # cells that still have room for a number
_MOST_NAMED = 8  # series that still have a line in the legend
_LONGEST_NAME = 20


def draw_attention(attention: Sequence[Sequence[float]], *, title: str) -> Figure:
    """Draws how much attention falls on virtual tokens, layers x heads, the lowest layer at the bottom.

    Args:
        attention: for each layer and head a share of 1.
        title: of the figure.
    """
    num_layers, num_heads = len(attention), len(attention[0])
    is_wide = num_heads > 16
    highest = max(max(heads) for heads in attention)
    with house_style():
        figure, (axes,) = new_figure(
            width=TWO_COLUMNS if is_wide else ONE_COLUMN, height=0.85 + 0.19 * max(num_layers, 4)
        )
        image = _heat_map(axes, attention, highest=max(math.ceil(highest * 10 - 1e-9) / 10, 0.1))
        axes.invert_yaxis()
        axes.set_xlabel("head")
        axes.set_ylabel("layer")
        axes.set_xticks(_ticks(num_heads))
        axes.set_yticks(_ticks(num_layers))
        axes.set_title(title)
        bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=max(14.0, 1.8 * num_layers))
        bar.outline.set_visible(False)
        bar.set_label("attention on virtual tokens")
    return figure


def draw_norms(
    *,
    title: str,
    layers: Sequence[int],
    steps: Sequence[int],
    keys: Sequence[Sequence[float]],
    values: Sequence[Sequence[float]],
    real_keys: Sequence[float],
    real_values: Sequence[float],
    saved_at: int | None,
) -> Figure:
    """Draws the norms of virtual tokens over training, with those of real tokens as dashed lines.

    Args:
        title: of the figure.
        layers: with prompts.
        steps: optimizer steps at each evaluation.
        keys: at each evaluation the mean norm at each of `layers`.
        values: as `keys`.
        real_keys: that of real tokens at each of `layers`.
        real_values: as `real_keys`.
        saved_at: step at which the prompt was saved, or None where that is not known.
    """
    with house_style():
        from matplotlib.ticker import MaxNLocator

        figure, panels = new_figure(width=TWO_COLUMNS, height=2.3, columns=2)
        colours = shades(len(layers))
        are_many = len(layers) > _MOST_NAMED
        marker = None if len(steps) > 1 and (are_many or len(steps) > 40) else "o"
        for axes, name, norms, real in zip(
            panels, ("keys", "values"), (keys, values), (real_keys, real_values), strict=True
        ):
            for place, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
                at_layer = [one[place] for one in norms]
                axes.axhline(real[place], color=colour, linestyle="--", linewidth=0.7, alpha=0.45 if are_many else 1.0)
                axes.plot(steps, at_layer, color=colour, marker=marker, markersize=2.2, label=f"layer {layer}")
            if saved_at is not None:
                axes.axvline(saved_at, color=MUTED, linestyle=":", linewidth=0.8)
            axes.margins(y=0.08)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axes.set_xlabel("optimizer steps")
            axes.set_title(name)
            axes.grid(axis="y")
        panels[0].set_ylabel("mean norm")
        figure.suptitle(title, fontsize=8.0)
        _norms_legend(figure, panels, layers, colours, has_saved=saved_at is not None)
    return figure


def draw_similarity(
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
    keys: Sequence[Sequence[float]],
    values: Sequence[Sequence[float]],
    *,
    between: str,
    chance: float,
) -> Figure:
    """Draws how alike prompts are: pairs of tasks x layers, or the layers of one task against each other.

    Args:
        pairs: of tasks, or of layers.
        layers: that are compared.
        keys: between `tasks`, for each pair a value at each of `layers`; between `layers`, one for each pair.
        values: as `keys`.
        between: `tasks` or `layers`.
        chance: the value of prompts drawn at random, marked on the colour bar.
    """
    is_square = between == "layers"
    with house_style():
        height = 3.2 if is_square else min(0.9 + 0.22 * max(len(pairs), 3), 8.5)
        figure, panels = new_figure(width=TWO_COLUMNS, height=height, columns=2, sharey=True)
        for axes, name, found in zip(panels, ("keys", "values"), (keys, values), strict=True):
            image = _heat_map(axes, _square(pairs, layers, found) if is_square else found, highest=1.0)
            axes.set_xlabel("layer")
            axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
            axes.set_title(name)
        if is_square:
            panels[0].set_yticks(range(len(layers)), [str(layer) for layer in layers])
            panels[0].set_ylabel("layer")
            panels[0].invert_yaxis()
        else:
            panels[0].set_yticks(range(len(pairs)), [" – ".join(map(_short, pair)) for pair in pairs])
        bar = figure.colorbar(image, ax=list(panels), pad=0.02, aspect=14)
        bar.outline.set_visible(False)
        bar.set_label(f"best-match cosine\n(line: chance, {chance:.2f})")
        bar.ax.axhline(chance, color="black", linewidth=0.8)
    return figure


def _heat_map(axes: Axes, rows: Sequence[Sequence[float]], *, highest: float) -> Any:
    """Draws cells from white at 0 to dark at `highest`, with numbers in them where there is room."""
    image = axes.imshow(rows, cmap=SEQUENTIAL, vmin=0.0, vmax=highest, aspect="auto")
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    if len(rows) * len(rows[0]) <= _MOST_NUMBERS:
        for at, row in enumerate(rows):
            for place, number in enumerate(row):
                colour = "white" if number > 0.6 * highest else "black"
                shown = f"{number:.2f}".removeprefix("0")
                axes.text(place, at, shown, ha="center", va="center", fontsize=5.0, color=colour)
    return image


def _square(
    pairs: Sequence[tuple[str, str]], layers: Sequence[int], found: Sequence[Sequence[float]]
) -> list[list[float]]:
    """One value for each pair of layers -> a symmetric matrix with ones on its diagonal."""
    places = {str(layer): place for place, layer in enumerate(layers)}
    matrix = [[1.0] * len(layers) for _ in layers]
    for (one, other), (value,) in zip(pairs, found, strict=True):
        matrix[places[one]][places[other]] = matrix[places[other]][places[one]] = value
    return matrix


def _norms_legend(
    figure: Figure,
    panels: Sequence[Axes],
    layers: Sequence[int],
    colours: Sequence[tuple[float, float, float]],
    *,
    has_saved: bool,
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.lines import Line2D

    kinds = [
        Line2D([], [], color=MUTED, label="virtual tokens"),
        Line2D([], [], color=MUTED, linestyle="--", linewidth=0.7, label="real tokens"),
    ]
    if has_saved:
        kinds.append(Line2D([], [], color=MUTED, linestyle=":", linewidth=0.8, label="saved"))
    if len(layers) <= _MOST_NAMED:
        named, _ = panels[0].get_legend_handles_labels()
        figure.legend(handles=[*reversed(named), *kinds], loc="outside right center")
        return
    figure.legend(handles=kinds, loc="outside lower center", ncols=len(kinds))
    edges = BoundaryNorm([place - 0.5 for place in range(len(layers) + 1)], len(layers))
    bar = figure.colorbar(ScalarMappable(norm=edges, cmap=ListedColormap(list(colours))), ax=list(panels), pad=0.02)
    bar.set_ticks(list(_ticks(len(layers))), labels=[str(layers[place]) for place in _ticks(len(layers))])
    bar.set_label("layer")


def _ticks(count: int) -> range:
    """Places to write numbers at: all, or every few where they are many."""
    return range(0, count, 1 if count <= 16 else 2 if count <= 32 else 4)


def _short(name: str) -> str:
    """A name that fits beside a figure; of a path its end says most."""
    return name if len(name) <= _LONGEST_NAME else "…" + name[-_LONGEST_NAME + 1 :]
