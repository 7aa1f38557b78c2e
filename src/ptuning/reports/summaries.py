"""Cells of a comparison over their seeds: means, spreads, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ptuning.config.methods import METHODS
from ptuning.reports.outcomes import Comparison, Outcome, Part, Result, ordered

VALIDATION = "validation"


def caption(comparison: Comparison) -> str:
    """What a score is on, for every table and figure but those of learning curves."""
    if comparison.selection == "paper":
        return "The paper's way: the best epoch on the validation rows is the score, chosen by the rows it is on"
    return f"Scores on held-out rows; epochs and settings were chosen by other rows: {_rows_to_choose_by(comparison)}"


def figure_caption(comparison: Comparison, own: Sequence[Summary]) -> str:
    """What the scores of a figure are on, and what its points are where they are not of one seed each.

    Args:
        comparison: that it is of.
        own: what it shows.
    """
    seeds = _seeds(own)
    return f"{caption(comparison)}; {seeds}, bars: standard deviation" if seeds else caption(comparison)


def curve_caption(comparison: Comparison, own: Sequence[Summary]) -> str:
    """What the scores of learning curves are on, and what a band is where there is one.

    Args:
        comparison: that they are of.
        own: those drawn.
    """
    seeds = _seeds(own)
    bands = f"; {seeds}, bands: all of them" if seeds else ""
    if comparison.selection == "paper":
        return f"The paper's way: scores on the validation rows, the best of which is reported{bands}"
    return f"Scores on the rows that epochs and settings are chosen by: {_rows_to_choose_by(comparison)}{bands}"


def _seeds(own: Sequence[Summary]) -> str:
    """How many seeds each has, in words; empty where all have one."""
    counts = sorted({len(one.results) for one in own if one.results})
    if not counts or counts == [1]:
        return ""
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def rows_of_curves(comparison: Comparison) -> str:
    """What the axis of learning curves is called."""
    others, is_mixed = _other_splits(comparison)
    if is_mixed:
        return "rows to choose by"
    return "validation rows" if others or comparison.selection == "paper" else "development rows"


def measure(result: Result) -> str:
    """What a column or panel shows: the metric, and of which rows where they are not those of validation."""
    return result.metric if result.split == VALIDATION else f"{result.metric}, {result.split}"


def _rows_to_choose_by(comparison: Comparison) -> str:
    """Which rows epochs and settings are chosen by where the score is on others."""
    others, is_mixed = _other_splits(comparison)
    if is_mixed:
        return f"rows cut from train, and validation rows where {others} is reported"
    return "validation rows" if others else "rows cut from train"


def _other_splits(comparison: Comparison) -> tuple[str, bool]:
    """Splits that are reported besides validation, in words, empty without any; and whether validation is too."""
    found = ordered([one.result.split for one in comparison.outcomes if one.result is not None])
    others = [split for split in found if split != VALIDATION]
    return " or ".join(others), bool(others) and VALIDATION in found


@dataclass(frozen=True)
class Summary:
    """One place of a comparison over its seeds.

    Attributes:
        part: main, depth or length.
        method: label.
        base_method: what `method` is in settings.
        task: name.
        backbone: name.
        place: point of a sweep, as (key, value) pairs.
        num_tries: settings that were tried to find those of this place.
        results: one for each seed that is finished.
        num_failed: seeds that failed.
    """

    part: Part
    method: str
    base_method: str
    task: str
    backbone: str
    place: tuple[tuple[str, object], ...]
    num_tries: int
    results: tuple[Result, ...]
    num_failed: int

    @property
    def metric(self) -> str:
        """What the task is judged by; empty where nothing is finished."""
        return self.results[0].metric if self.results else ""

    @property
    def measure(self) -> str:
        """The metric, and of which rows where they are not those of validation; empty where nothing is finished."""
        return measure(self.results[0]) if self.results else ""

    @property
    def mean(self) -> float:
        """Of the scores, a fraction."""
        return fmean(result.score for result in self.results)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the scores over seeds (divided by n - 1); None for one."""
        scores = [result.score for result in self.results]
        return stdev(scores) if len(scores) > 1 else None

    @property
    def majority(self) -> float | None:
        """What always giving the most frequent answer scores; mean over seeds, None where one does not say."""
        scores = [result.majority_score for result in self.results]
        known = [score for score in scores if score is not None]
        return fmean(known) if known and len(known) == len(scores) else None

    @property
    def is_frozen(self) -> bool:
        """Whether the backbone stays as it is."""
        return not METHODS[self.base_method].trains_backbone if self.base_method in METHODS else True

    @property
    def size(self) -> int:
        """Parameters of the backbone."""
        return self.results[0].counts["backbone"]

    @property
    def trained(self) -> float:
        """Trained parameters, the head's among them; mean over seeds."""
        return fmean(result.counts["trained"] for result in self.results)


def summaries(outcomes: Iterable[Outcome]) -> list[Summary]:
    """Outcomes of one place and several seeds as one, in the order in which places come first.

    Args:
        outcomes: of one part of a comparison, or of several.
    """
    places: dict[tuple[object, ...], list[Outcome]] = {}
    for outcome in outcomes:
        at = (outcome.part, outcome.method, outcome.task, outcome.backbone, *_pairs(outcome))
        places.setdefault(at, []).append(outcome)
    found = []
    for own in places.values():
        first = own[0]
        results = tuple(outcome.result for outcome in own if outcome.result is not None)
        found.append(
            Summary(
                part=first.part,
                method=first.method,
                base_method=first.base_method,
                task=first.task,
                backbone=first.backbone,
                place=_pairs(first),
                num_tries=first.num_tries,
                results=results,
                num_failed=len(own) - len(results),
            )
        )
    return found


def average(own: Sequence[Summary]) -> tuple[float, float | None]:
    """Mean over tasks, and its standard deviation over seeds where all tasks have the same seeds, more than one.

    Args:
        own: a summary a task, each with results, seeds in the same order.
    """
    counts = {len(summary.results) for summary in own}
    mean = fmean(summary.mean for summary in own)
    if len(counts) != 1 or counts == {1} or any(summary.num_failed for summary in own):
        return mean, None
    by_seed = [fmean(summary.results[turn].score for summary in own) for turn in range(counts.pop())]
    return mean, stdev(by_seed)


def _pairs(outcome: Outcome) -> tuple[tuple[str, object], ...]:
    return tuple(outcome.place.items())
