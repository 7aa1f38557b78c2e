"""The figures of a comparison, each made only where there is something to show.

A panel a task, a line a method: the same colour, marker and place in the legend in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ptuning.reports.outcomes import Comparison, Evaluation, ordered
from ptuning.reports.style import LINES, MUTED, ONE_COLUMN, TWO_COLUMNS, new_figure, series_style
from ptuning.reports.summaries import (
    Summary,
    average,
    curve_caption,
    figure_caption,
    measure,
    rows_of_curves,
    summaries,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_HEIGHT = 1.75  # inches
_MOST_COLUMNS = 3
_BESIDE_PANEL = 0.45  # inches of labels and gaps
_LETTER = 4.0  # points: the width of a digit in the names of ticks
_BARS: dict[str, Any] = {"capsize": 1.8, "elinewidth": 0.7, "capthick": 0.7}
AVERAGE = "average over tasks"
MAJORITY = "the most frequent answer"


def figures(comparison: Comparison) -> dict[str, Figure]:
    """All figures that the cells allow, by the name of their file without suffix.

    Must be called inside `house_style`.
    """
    found: dict[str, Figure | None] = {"backbone_size": size_figure(comparison)}
    main = [one for one in summaries(comparison.part("main")) if one.results]
    backbones = ordered([one.backbone for one in main])
    for backbone in backbones:
        suffix = f"_{_file_name(backbone)}" if len(backbones) > 1 else ""
        found[f"trained_parameters{suffix}"] = parameters_figure(comparison, backbone)
        found[f"learning_curves{suffix}"] = curves_figure(comparison, backbone)
    for part, draw in (("depth", depth_figure), ("length", length_figure)):
        swept = [one for one in summaries(comparison.outcomes) if one.part == part and one.results]
        groups = list(dict.fromkeys((one.method, one.backbone) for one in swept))
        for method, backbone in groups:
            suffix = f"_{_file_name(method)}_{_file_name(backbone)}" if len(groups) > 1 else ""
            found[f"{part}{suffix}"] = draw(comparison, method, backbone)
    return {name: figure for name, figure in found.items() if figure is not None}


def size_figure(comparison: Comparison) -> Figure | None:
    """The paper's Figure 1: score against the size of the backbone; None where there is one backbone."""
    found = [one for one in summaries(comparison.part("main")) if one.results]
    if len({one.size for one in found}) < 2:
        return None
    tasks, styles = ordered([one.task for one in found]), _styles(comparison)
    figure, axes = _panels(_titles(tasks), comparison, figure_caption(comparison, found))
    for panel, title in zip(axes, _titles(tasks), strict=False):
        for method, style in styles.items():
            points = _points_by_backbone(found, method, title, tasks)
            if points:
                x, y, errors = zip(*sorted(points, key=lambda point: point[0]), strict=True)
                _line(panel, x, y, errors, method, style)
        panel.set_xscale("log")
        panel.margins(x=0.1)
        _mark_majority(panel, [one for one in found if one.task == title])
        _plain_ticks(panel, sorted({one.size for one in found}), _parameters, _columns(axes))
    _finish(figure, axes, "parameters of the backbone", "score (%)", order=[*styles, MAJORITY])
    return figure


def parameters_figure(comparison: Comparison, backbone: str) -> Figure | None:
    """Score against the number of trained parameters; None where there are fewer than two methods."""
    found = [one for one in summaries(comparison.part("main")) if one.results and one.backbone == backbone]
    if len({one.method for one in found}) < 2:
        return None
    tasks, styles = ordered([one.task for one in found]), _styles(comparison)
    titles = _titles(tasks)
    exponents = [math.log10(one.trained) for one in found if one.trained]
    figure, axes = _panels(titles, comparison, figure_caption(comparison, found))
    for panel, title in zip(axes, titles, strict=False):
        for method, style in styles.items():
            own = [one for one in found if one.method == method and title in (one.task, AVERAGE)]
            if not own or (title == AVERAGE and len(own) < len(tasks)):
                continue
            mean, deviation = average(own)
            trained = fmean(one.trained for one in own)
            if trained:
                _line(panel, [trained], [mean], [deviation], method, {**style, "linestyle": "none"})
            else:  # nothing is trained, which a log scale has no place for
                panel.axhline(100 * mean, color=style["color"], linestyle=":", linewidth=1.0, label=method)
        panel.set_xscale("log")
        _mark_majority(panel, [one for one in found if one.task == title])
        if exponents:  # whole decades, which have labels, and the same in all panels
            panel.set_xlim(10.0 ** math.floor(min(exponents) - 0.1), 10.0 ** math.ceil(max(exponents) + 0.1))
    _finish(figure, axes, "trained parameters", "score (%)", order=[*styles, MAJORITY])
    return figure


def depth_figure(comparison: Comparison, method: str, backbone: str) -> Figure | None:
    """The paper's Figure 3: prompts at the k top layers, and at the k bottom ones; both end where all have some."""
    names = {"last": "top layers (last:k)", "first": "bottom layers (first:k)"}
    found = [str(one.place["layers"]).partition(":")[2] for one in comparison.part("depth")]
    end = 1.0 + max((int(count) for count in found if count), default=0)  # where `all` is drawn

    def points(one: Summary) -> list[tuple[str, float]]:
        side, _, count = str(dict(one.place)["layers"]).partition(":")
        return [(names[side], float(count))] if count else [(name, end) for name in names.values()]

    def label(k: float) -> str:
        return "all" if k == end else f"{k:g}"

    return _sweep_figure(comparison, "depth", method, backbone, points, "number of prompted layers k", label=label)


def length_figure(comparison: Comparison, method: str, backbone: str) -> Figure | None:
    """Score against prompt length, with prompts trained as they are and produced by an MLP."""

    def points(one: Summary) -> list[tuple[str, float]]:
        place = dict(one.place)
        how = place["reparameterization"]
        name = "embeddings (none)" if how == "none" else f"reparameterized ({how})"
        return [(name, float(str(place["prompt_length"])))]

    return _sweep_figure(comparison, "length", method, backbone, points, "prompt length", base=2)


def curves_figure(comparison: Comparison, backbone: str) -> Figure | None:
    """Learning curves on the rows to choose by: mean over seeds, and the range between them."""
    found = [one for one in summaries(comparison.part("main")) if one.backbone == backbone]
    drawn = [one for one in found if any(len(result.curve) > 1 for result in one.results)]
    if not drawn:
        return None
    tasks, styles = ordered([one.task for one in drawn]), _styles(comparison)
    figure, axes = _panels(tasks, comparison, curve_caption(comparison, drawn))
    for panel, task in zip(axes, tasks, strict=False):
        for one in drawn:
            if one.task == task:
                _curve(panel, [result.curve for result in one.results if result.curve], one.method, styles[one.method])
    _finish(figure, axes, "epoch", f"{rows_of_curves(comparison)} (%)", order=list(styles))
    return figure


def _sweep_figure(
    comparison: Comparison,
    part: str,
    method: str,
    backbone: str,
    points_of: Callable[[Summary], list[tuple[str, float]]],
    x_label: str,
    *,
    base: int | None = None,
    label: Callable[[float], str] = "{:g}".format,
) -> Figure | None:
    """A sweep's lines; `points_of` gives the lines that a place is on, and where along them."""
    found = [
        one
        for one in summaries(comparison.outcomes)
        if one.part == part and one.results and (one.method, one.backbone) == (method, backbone)
    ]
    placed = [(one, name, x) for one in found for name, x in points_of(one)]
    if len({x for _, _, x in placed}) < 2:
        return None
    tasks = ordered([one.task for one in found])
    figure, axes = _panels(tasks, comparison, figure_caption(comparison, found))
    names = ordered([name for _, name, _ in placed])
    for panel, task in zip(axes, tasks, strict=False):
        for index, name in enumerate(names):
            own = [(x, one) for one, line, x in placed if (one.task, line) == (task, name)]
            points = [(x, one.mean, one.deviation) for x, one in sorted(own, key=lambda point: point[0])]
            if points:
                x, y, errors = zip(*points, strict=True)
                _line(panel, x, y, errors, name, series_style(index))
        ticks = sorted({x for one, _, x in placed if one.task == task})
        if base is not None:
            panel.set_xscale("log", base=base)
        _mark_majority(panel, [one for one in found if one.task == task])
        _plain_ticks(panel, ticks, label, _columns(axes))
    _finish(figure, axes, x_label, "score (%)", order=[*names, MAJORITY])
    return figure


def _panels(titles: Sequence[str], comparison: Comparison, about: str) -> tuple[Figure, tuple[Axes, ...]]:
    columns = min(len(titles), _MOST_COLUMNS)
    rows = math.ceil(len(titles) / columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    figure, axes = new_figure(width=width, height=_PANEL_HEIGHT * rows + 0.75, rows=rows, columns=columns)
    for panel, title in zip(axes, titles, strict=False):
        panel.set_title(_title_of(comparison, title))
        panel.grid(True)
    for panel in axes[len(titles) :]:
        panel.set_visible(False)
    _caption(figure, about, width)
    return figure, axes


def _caption(figure: Figure, about: str, width: float) -> None:
    """What the scores are on, in small print over the panels, in lines that fit."""
    import textwrap

    text = "\n".join(textwrap.wrap(about, round(width * 21)))
    figure.suptitle(text, fontsize=6.0, color=MUTED)


def _columns(axes: Sequence[Axes]) -> int:
    """How many panels stand beside each other."""
    return min(sum(panel.get_visible() for panel in axes), _MOST_COLUMNS)


def _finish(figure: Figure, axes: Sequence[Axes], x_label: str, y_label: str, *, order: Sequence[str]) -> None:
    visible = [panel for panel in axes if panel.get_visible()]
    columns = _columns(axes)
    for index, panel in enumerate(visible):
        if index % columns == 0:
            panel.set_ylabel(y_label)
        if index + columns >= len(visible):
            panel.set_xlabel(x_label)
    handles: dict[str, Any] = {}
    for panel in visible:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(visible) == 1 and len(handles) == 1:
        return
    labels = [label for label in order if label in handles]
    wide = 2 if columns == 1 else 4
    figure.legend(
        [handles[label] for label in labels], labels, loc="outside lower center", ncols=min(wide, len(labels))
    )


def _line(
    panel: Axes,
    x: Sequence[float],
    y: Sequence[float],
    errors: Sequence[float | None],
    label: str,
    style: dict[str, Any],
) -> None:
    """A line of scores in percent, with standard deviations where there are any."""
    heights = [100 * value for value in y]
    if all(error is None for error in errors):
        panel.plot(x, heights, label=label, **style)
        return
    bars = [100 * (error or 0.0) for error in errors]
    panel.errorbar(x, heights, yerr=bars, label=label, **style, **_BARS)


def _mark_majority(panel: Axes, own: Sequence[Summary]) -> None:
    """Marks where always giving the most frequent answer is, among the scores of a panel, drawn before, or above them.

    It is a line, or two with a band between where methods have other seeds and so other rows to report on. Where it is
    below all scores it says little, and would leave them no room.
    """
    known = [round(100 * one.majority, 6) for one in own if one.majority is not None]  # or equal means differ by a bit
    bottom, top = panel.get_ylim()
    if not known or fmean(known) <= bottom:
        return
    low, high = min(known), max(known)
    for height in dict.fromkeys((low, high)):
        panel.axhline(height, color=MUTED, linestyle="--", linewidth=0.8, zorder=1, label=MAJORITY)
    if low < high:
        panel.axhspan(low, high, color=MUTED, alpha=0.15, linewidth=0, zorder=1)
    panel.set_ylim(bottom, max(top, high + 0.05 * (high - bottom)))


def _curve(panel: Axes, curves: Sequence[Sequence[Evaluation]], label: str, style: dict[str, Any]) -> None:
    scores: dict[int, list[float]] = {}
    for curve in curves:
        for point in curve:
            if point.score is not None:
                scores.setdefault(point.epoch, []).append(100 * point.score)
    epochs = sorted(scores)
    every = max(1, len(epochs) // 8)
    panel.plot(epochs, [fmean(scores[epoch]) for epoch in epochs], label=label, markevery=every, **style)
    if any(len(own) > 1 for own in scores.values()):
        low, high = [min(scores[epoch]) for epoch in epochs], [max(scores[epoch]) for epoch in epochs]
        panel.fill_between(epochs, low, high, color=style["color"], alpha=0.12, linewidth=0)
    panel.locator_params(axis="x", integer=True)


def _points_by_backbone(
    found: Sequence[Summary], method: str, title: str, tasks: Sequence[str]
) -> list[tuple[float, float, float | None]]:
    """(size, mean, deviation) of each backbone; of the average where all tasks are there."""
    points: list[tuple[float, float, float | None]] = []
    for backbone in ordered([one.backbone for one in found]):
        own = [one for one in found if (one.method, one.backbone) == (method, backbone)]
        own = own if title == AVERAGE else [one for one in own if one.task == title]
        if own and (title != AVERAGE or len(own) == len(tasks)):
            mean, deviation = average(own)
            points.append((float(own[0].size), mean, deviation))
    return points


def _styles(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Method -> how it is drawn, the same in all figures; neighbours differ in their lines too."""
    methods = ordered([one.method for one in comparison.part("main")])
    lines = {method: LINES[index % len(LINES)] for index, method in enumerate(methods)}
    return {method: {**series_style(index), "linestyle": lines[method]} for index, method in enumerate(methods)}


def _titles(tasks: Sequence[str]) -> list[str]:
    return [*tasks, AVERAGE] if len(tasks) > 1 else list(tasks)


def _title_of(comparison: Comparison, title: str) -> str:
    shown = next((measure(one.result) for one in comparison.outcomes if one.task == title and one.result), None)
    return title if shown is None else f"{title} ({shown})"


def _plain_ticks(panel: Axes, values: Sequence[float], text: Callable[[float], str], columns: int) -> None:
    """Ticks at the values themselves, named from the largest down as far as their names do not meet.

    Args:
        panel: with its scale and all its lines.
        values: rising.
        text: name of a value.
        columns: of panels, which share the width of the figure.
    """
    panel.get_xlim()  # brings the limits up to date, margins and all
    figure: Any = panel.figure
    width = 72 * (figure.get_figwidth() / columns - _BESIDE_PANEL)  # points
    places = panel.transLimits.transform(panel.transScale.transform([(value, 1.0) for value in values]))
    named: list[int] = []
    for index in reversed(range(len(values))):
        room = 0.0 if not named else width * float(abs(places[named[-1]][0] - places[index][0]))
        letters = 0.0 if not named else (len(text(values[index])) + len(text(values[named[-1]]))) / 2
        if not named or room >= (letters + 1) * _LETTER:
            named.append(index)
    shown = [values[index] for index in sorted(named)]
    panel.set_xticks(shown, [text(value) for value in shown])
    panel.set_xticks([value for value in values if value not in shown], minor=True)
    panel.tick_params(axis="x", which="minor", labelbottom=False)


def _parameters(count: float) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name).strip("-.")
