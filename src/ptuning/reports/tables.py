"""The tables of a comparison, as text cells; and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ptuning.reports.outcomes import Comparison, Outcome, Result, ordered
from ptuning.reports.summaries import Summary, average, caption, summaries

NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        title: what it shows.
        caption: how to read it.
        columns: their names.
        rows: a text for each column; the best ones stand in `**`.
    """

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """As a section of a page."""
        lines = [f"## {self.title}", "", self.caption, ""]
        lines += [_row(self.columns), _row(["---"] * len(self.columns)), *map(_row, self.rows)]
        return "\n".join(lines) + "\n"


def score_tables(comparison: Comparison) -> list[Table]:
    """Methods x tasks, a table a backbone: mean and spread over seeds in percent, the best frozen methods bold.

    A task has no best where none is above always giving the most frequent answer. Where methods have different seeds,
    which draw different rows, nothing is bold, and a second table has the seeds that all of them have.
    """
    outcomes = comparison.part("main")
    tables = []
    for backbone in ordered([one.backbone for one in (*outcomes, *comparison.part("try"))]):
        shared = _shared_seeds([one for one in outcomes if one.backbone == backbone])
        tables.append(_score_table(comparison, backbone, outcomes, has_best=shared is None))
        if shared:
            own = [one for one in outcomes if one.seed in shared]
            tables.append(_score_table(comparison, backbone, own, seeds=shared))
    return tables


def _shared_seeds(outcomes: Sequence[Outcome]) -> list[int] | None:
    """The seeds that all methods have, maybe none; None where there are no others."""
    by_method: dict[str, set[int]] = {}
    for one in outcomes:
        by_method.setdefault(one.method, set()).add(one.seed)
    seeds = list(by_method.values())
    shared = set.intersection(*seeds) if seeds else set()
    return sorted(shared) if any(own != shared for own in seeds) else None


def _score_table(
    comparison: Comparison,
    backbone: str,
    outcomes: Sequence[Outcome],
    *,
    has_best: bool = True,
    seeds: Sequence[int] | None = None,
) -> Table:
    """The scores of one backbone.

    Args:
        comparison: that they are of.
        backbone: its name.
        outcomes: of all backbones, those that count.
        has_best: whether the best frozen methods are bold.
        seeds: that the outcomes were picked by; None where all count.
    """
    found = summaries(outcomes)
    searched = {(one.method, one.task, one.backbone): one for one in summaries(_without_place(comparison.part("try")))}
    known = [*found, *searched.values()]
    methods = ordered([one.method for one in known if one.backbone == backbone])
    tasks = ordered([one.task for one in known if one.backbone == backbone])
    at = {(one.method, one.task): one for one in found if one.backbone == backbone}
    by_task = {task: [at[m, task] for m in methods if (m, task) in at] for task in tasks} if has_best else {}
    best = [one for own in by_task.values() for one in _best(own)]
    is_any_no_better = any(_top(own) and not _best(own) for own in by_task.values())
    complete = {m: [at[m, t] for t in tasks] for m in methods if all((m, t) in at and at[m, t].results for t in tasks)}
    averages = {method: average(own) for method, own in complete.items()} if len(tasks) > 1 else {}
    best_average = max(
        (shown(mean) for method, (mean, _) in averages.items() if has_best and complete[method][0].is_frozen),
        key=float,
        default=None,
    )
    rows = []
    is_searched = any(one.num_tries > 1 for one in known)
    for method in methods:
        own = [one for one in known if (one.backbone, one.method) == (backbone, method)]
        cells = [method, _seeds([at[method, task] for task in tasks if (method, task) in at])]
        cells += [_range([one.num_tries for one in own], "{:.0f}".format)] if is_searched else []
        for task in tasks:
            one = at.get((method, task))
            if one is None:
                cells.append("failed" if (method, task, backbone) in searched and not comparison.missing else NONE)
            else:
                cells.append(_score(one, is_best=one in best))
        if len(tasks) > 1:
            cells.append(NONE if method not in averages else _with_spread(*averages[method]))
            is_best = method in averages and shown(averages[method][0]) == best_average
            if is_best and complete[method][0].is_frozen:
                cells[-1] = f"**{cells[-1]}**"
        rows.append(tuple(cells))
    measures = _measures(at.values())
    columns = [
        "method",
        "seeds",
        *(["tried"] if is_searched else []),
        *(f"{task} ({measures[task]})" if task in measures else task for task in tasks),
        *(["average"] if len(tasks) > 1 else []),
    ]
    title = f"Scores on {backbone}{_size(at.values())}"
    notes = ["Bold: the best of the methods that leave the backbone frozen."] if has_best else []
    if is_any_no_better:
        notes.append("A task has no best where none is above always giving the most frequent answer.")
    notes += ["Tried: settings of which the best was taken, by the rows to choose by."] if is_searched else []
    if seeds is not None:
        title = f"Scores on {backbone} with the {_named(seeds)} that all methods have"
    elif not has_best:
        notes.append("Methods have different seeds, which may draw other rows: compare them on those that all have.")
    return Table(title, _score_caption(comparison, found, *notes), tuple(columns), tuple(rows))


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def cost_tables(comparison: Comparison) -> list[Table]:
    """What each method costs, a table a backbone: parameters, time, memory and size on disk."""
    found = [one for one in summaries(comparison.part("main")) if one.results]
    tables = []
    for backbone in ordered([one.backbone for one in found]):
        rows = []
        for method in ordered([one.method for one in found if one.backbone == backbone]):
            own = [one for one in found if (one.backbone, one.method) == (backbone, method)]
            results = [result for one in own for result in one.results]
            rows.append(
                (
                    method,
                    _range([result.counts["trained"] - result.counts["head"] for result in results], "{:,}".format),
                    _range([result.counts["head"] for result in results], "{:,}".format),
                    _range([result.trained_share for result in results], "{:.2%}".format),
                    f"{fmean(result.seconds for result in results):.0f}",
                    _megabytes([_peak(result) for result in results], 0),
                    _megabytes([result.file_bytes for result in results], 2),
                    _range([one.num_tries for one in own], "{:.0f}".format),
                )
            )
        columns = ("method", "trained", "of the head", "share", "seconds", "peak MB", "file MB", "settings tried")
        caption = (
            "Trained parameters without those of the head, and their share of the backbone's; seconds of a run with "
            "its evaluations, and the most memory its process held (on a GPU: there), as means over tasks and seeds; "
            f"the size of what is saved for a task. {_machines(comparison.part('main'))}"
        )
        tables.append(Table(f"Costs on {backbone}", caption, columns, tuple(rows)))
    return tables


def sweep_tables(comparison: Comparison) -> list[Table]:
    """The depth and the length study, a table for each method and backbone."""
    tables = []
    for part, title in (("depth", "Prompted layers"), ("length", "Prompt length")):
        found = summaries([one for one in comparison.outcomes if one.part == part])
        for method, backbone in dict.fromkeys((one.method, one.backbone) for one in found):
            own = [one for one in found if (one.method, one.backbone) == (method, backbone)]
            tasks = ordered([one.task for one in own])
            at = {(one.place, one.task): one for one in own}
            rows = []
            for place in dict.fromkeys(one.place for one in own):
                scores = [_score(at[place, task]) if (place, task) in at else NONE for task in tasks]
                rows.append((*(str(value) for _, value in place), *scores))
            names = [key for key, _ in own[0].place]
            measures = _measures(own)
            columns = (*names, *(f"{task} ({measures[task]})" if task in measures else task for task in tasks))
            about = f"{title}: {method} on {backbone}"
            tables.append(Table(about, _score_caption(comparison, own), columns, tuple(rows)))
    return tables


def search_table(comparison: Comparison) -> Table | None:
    """What was tried before settings were fixed, with what each try reached on the rows to choose by."""
    tried = comparison.part("try")
    if not tried:
        return None
    rows = []
    for group in dict.fromkeys((one.method, one.task, one.backbone) for one in tried):
        own = [one for one in tried if (one.method, one.task, one.backbone) == group]
        scores = [one.result.development_score for one in own if one.result is not None]
        best = scores.index(max(scores)) if scores else None
        turn = 0
        for one in own:
            settings = ", ".join(f"{key} {value}" for key, value in one.place.items())
            cells: tuple[str, ...] = (
                *group,
                settings,
                "failed" if one.result is None else shown(one.result.development_score),
            )
            if one.result is not None:
                cells = tuple(f"**{cell}**" for cell in cells) if turn == best else cells
                turn += 1
            rows.append(cells)
    caption = (
        "Scores in percent on rows to choose by, first seed; the best settings, bold, were used for all seeds."
        if comparison.selection == "held_out"
        else "Scores in percent on the validation rows, which are reported too, first seed; the best settings, bold, "
        "were used for all seeds."
    )
    return Table("Searches", caption, ("method", "task", "backbone", "settings", "score"), tuple(rows))


def failures_table(comparison: Comparison) -> Table | None:
    """Cells that went wrong, and why."""
    if not comparison.failed:
        return None
    rows = tuple(
        (one.method, one.task, one.backbone, str(one.seed), _place(one), " ".join((one.error or "").split()))
        for one in comparison.failed
    )
    columns = ("method", "task", "backbone", "seed", "where", "error")
    return Table("Failed", "These cells have no result; the same command tries them again.", columns, rows)


def to_csv(comparison: Comparison) -> str:
    """All places of the comparison, a line each, means over seeds."""
    columns: dict[str, Callable[[Summary], object]] = {
        "part": lambda one: one.part,
        "method": lambda one: one.method,
        "base_method": lambda one: one.base_method,
        "task": lambda one: one.task,
        "backbone": lambda one: one.backbone,
        "place": lambda one: " ".join(f"{key}={value}" for key, value in one.place),
        "selection": lambda one: comparison.selection,
        "seeds": lambda one: len(one.results),
        "failed": lambda one: one.num_failed,
        "settings_tried": lambda one: one.num_tries,
        "metric": lambda one: one.metric,
        "split": lambda one: one.results[0].split if one.results else "",
    }
    of_results: dict[str, Callable[[Summary], object]] = {
        "score": lambda one: one.mean,
        "standard_deviation": lambda one: one.deviation,
        "development_score": lambda one: fmean(result.development_score for result in one.results),
        "backbone_parameters": lambda one: one.size,
        "trained_parameters": lambda one: one.trained,
        "head_parameters": lambda one: fmean(result.counts["head"] for result in one.results),
        "trained_share": lambda one: fmean(result.trained_share for result in one.results),
        "seconds": lambda one: fmean(result.seconds for result in one.results),
        "cpu_seconds": lambda one: _mean([result.cpu_seconds for result in one.results]),
        "peak_memory_bytes": lambda one: _mean([result.peak_memory_bytes for result in one.results]),
        "peak_gpu_memory_bytes": lambda one: _mean([result.peak_gpu_memory_bytes for result in one.results]),
        "file_bytes": lambda one: fmean(result.file_bytes for result in one.results),
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *of_results])
    for one in summaries(comparison.part("main", "depth", "length")):
        own = [read(one) if one.results else None for read in of_results.values()]
        writer.writerow([*(read(one) for read in columns.values()), *("" if value is None else value for value in own)])
    return text.getvalue()


def shown(fraction: float) -> str:
    """A fraction in percent with one decimal."""
    return f"{100 * fraction:.1f}"


def _score(one: Summary, *, is_best: bool = False) -> str:
    if not one.results:
        return "failed"
    text = _with_spread(one.mean, one.deviation)
    text = f"**{text}**" if is_best else text
    return f"{text} ({one.num_failed} failed)" if one.num_failed else text


def _with_spread(mean: float, deviation: float | None) -> str:
    return shown(mean) if deviation is None else f"{shown(mean)} ± {shown(deviation)}"


def _best(own: Sequence[Summary]) -> list[Summary]:
    """The best frozen methods of a task; several where they show the same.

    There is none where they show no more than always giving the most frequent answer.
    """
    top = _top(own)
    majorities = [float(shown(one.majority)) for one in top if one.majority is not None]
    return [] if majorities and float(shown(top[0].mean)) <= max(majorities) else top


def _top(own: Sequence[Summary]) -> list[Summary]:
    """The frozen methods of a task with the highest score as it is shown."""
    frozen = [one for one in own if one.is_frozen and one.results]
    top = max((float(shown(one.mean)) for one in frozen), default=None)
    return [one for one in frozen if float(shown(one.mean)) == top]


def _score_caption(comparison: Comparison, own: Sequence[Summary], *notes: str) -> str:
    several = any(one.deviation is not None for one in own)
    spread = "mean ± standard deviation over seeds" if several else "one seed"
    missing = [f"{comparison.missing} cells have not run yet."] if comparison.missing else []
    return " ".join([f"Percent, {spread}. {caption(comparison)}.", *notes, *missing])


def _seeds(own: Sequence[Summary]) -> str:
    return _range([len(one.results) + one.num_failed for one in own], "{:.0f}".format)


def _measures(own: Iterable[Summary]) -> dict[str, str]:
    """Task -> what is shown of it, of those where something is finished."""
    return {one.task: one.measure for one in own if one.measure}


def _size(own: object) -> str:
    sizes = [one.size for one in own if one.results]  # type: ignore[attr-defined]
    return f" ({sizes[0]:,} parameters)" if sizes else ""


def _range(values: Sequence[float], text: Callable[[float], str]) -> str:
    if not values:
        return NONE
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def _peak(result: Result) -> int | None:
    return result.peak_memory_bytes if result.peak_gpu_memory_bytes is None else result.peak_gpu_memory_bytes


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _megabytes(values: Sequence[int | None], decimals: int) -> str:
    mean = _mean(values)
    return NONE if mean is None else f"{mean / 1e6:,.{decimals}f}"


def _machines(outcomes: Sequence[Outcome]) -> str:
    names = []
    for outcome in outcomes:
        if outcome.result is not None and outcome.result.machine:
            machine = outcome.result.machine
            parts = [str(machine.get("gpu") or machine.get("processor")), f"{machine.get('threads')} threads"]
            names.append(", ".join(parts))
    found = ordered(names)
    if not found:
        return ""
    if len(found) == 1:
        return f"Machine: {found[0]}."
    return f"Machines, so that seconds cannot all be compared: {'; '.join(found)}."


def _place(outcome: Outcome) -> str:
    if outcome.part == "main":
        return "table"
    return f"{outcome.part}: {', '.join(f'{key} {value}' for key, value in outcome.place.items())}"


def _without_place(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome.model_copy(update={"place": {}}) for outcome in outcomes]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
