"""The cells of a comparison, and which of several tried settings is the best."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptuning.compare.identity import cell_key
from ptuning.compare.settings import CompareConfig, DepthSweep, LengthSweep
from ptuning.config import RunConfig
from ptuning.data.file_names import find_splits
from ptuning.data.hub import HubSource
from ptuning.data.sources import source_directory
from ptuning.data.splits import SPLIT_NAMES
from ptuning.errors import ConfigError, DataError, PtuningError
from ptuning.reports.outcomes import Part
from ptuning.tasks.presets import get_task

Group = tuple[str, str, str]
"""Labels of method, task and backbone."""
Chosen = Mapping[Group, Mapping[str, Any]]
"""Settings that a search found best."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        part: main (the table), try (of a search), depth or length (of a sweep).
        method: label.
        task: name.
        backbone: name.
        seed: of everything random.
        place: what sets the cell apart in its part: the settings of a try, the point of a sweep; empty in the table.
        config: complete settings but a rate that follows from the backbone, without an output.
        split: rows that are reported.
        key: of what decides its result.
    """

    part: Part
    method: str
    task: str
    backbone: str
    seed: int
    place: Mapping[str, Any]
    config: RunConfig = field(repr=False)
    split: str
    key: str

    @property
    def group(self) -> Group:
        """What it is a cell of."""
        return self.method, self.task, self.backbone

    @property
    def name(self) -> str:
        """For people."""
        place = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.place.items())
        return f"{self.method}{f' ({place})' if place else ''}, {self.task}, {self.backbone}, seed {self.seed}"


def tries(config: CompareConfig) -> list[Cell]:
    """The cells of all searches: each combination of values, with the first seed of its method."""
    found = []
    for method, grid in config.search.items():
        for task, backbone in itertools.product(config.tasks, config.backbones):
            for values in itertools.product(*grid.values()):
                place = dict(zip(grid, values, strict=True))
                found.append(_cell(config, "try", (method, task, backbone), config.seeds_of(method)[0], place, place))
    return found


def best_tries(cells: Sequence[Cell], development: Mapping[str, float | None]) -> dict[Group, Mapping[str, Any]]:
    """Which settings of each search are the best; the first of several that are equally good.

    Nothing but what was reached on the rows to choose by is looked at.

    Args:
        cells: the tries.
        development: key of a cell -> its score on the rows to choose by; None or missing for one that failed.

    Returns:
        Group -> settings; groups of which all tries failed are missing.
    """
    best: dict[Group, tuple[float, Mapping[str, Any]]] = {}
    for cell in cells:
        score = development.get(cell.key)
        if score is not None and (cell.group not in best or score > best[cell.group][0]):
            best[cell.group] = score, cell.place
    return {group: place for group, (_, place) in best.items()}


def main_cells(config: CompareConfig, chosen: Chosen) -> list[Cell]:
    """The cells of the table and of the sweeps, the first seeds of all first.

    Args:
        config: of the comparison.
        chosen: what searches found; groups that are searched for and missing here have no cells.
    """
    cells = []
    for group in itertools.product(config.methods, config.tasks, config.backbones):
        if group[0] in config.search and group not in chosen:
            continue
        own = chosen.get(group, {})
        for turn, seed in enumerate(config.seeds_of(group[0])):
            cells.append((turn, _cell(config, "main", group, seed, {}, own)))
        for sweep in (config.depth, config.length):
            if group[0] not in sweep.methods or (sweep.tasks is not None and group[1] not in sweep.tasks):
                continue
            seeds = config.seeds_of(group[0]) if sweep.seeds is None else sweep.seeds
            for place, settings in _points(sweep):
                part: Part = "depth" if isinstance(sweep, DepthSweep) else "length"
                more = {**own, **sweep.settings, **settings}
                for turn, seed in enumerate(seeds):
                    cells.append((turn, _cell(config, part, group, seed, place, more)))
    return [cell for _, cell in sorted(cells, key=lambda item: item[0])]  # stable


def _points(sweep: DepthSweep | LengthSweep) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields what a point of a sweep is called, and its settings."""
    if isinstance(sweep, DepthSweep):
        counts = [count for count in sweep.layers if count != "all"]
        which = [f"{side}:{count}" for side, count in itertools.product(("last", "first"), counts)]
        for layers in (*which, *(["all"] if "all" in sweep.layers else [])):
            yield {"layers": layers}, {"prompts.layers": layers}
        return
    for (how, settings), length in itertools.product(sweep.reparameterizations.items(), sweep.lengths):
        place = {"prompt_length": length, "reparameterization": how}
        yield place, {**settings, **{f"prompts.{key}": value for key, value in place.items()}}


def _cell(
    config: CompareConfig, part: Part, group: Group, seed: int, place: Mapping[str, Any], more: Mapping[str, Any]
) -> Cell:
    method, task, backbone = group
    try:
        settings = config.settings_of(*group, {**more, "training.seed": seed})
        split = config.split_of(task)
        key = cell_key(settings, split)
        _check_split(settings, split)
    except PtuningError as error:
        where = f"{part} of {method}, {task}, {backbone}" if part != "main" else f"{method}, {task}, {backbone}"
        raise (ConfigError if isinstance(error, ConfigError) else type(error))(f"{where}: {error}") from error
    return Cell(part, method, task, backbone, seed, dict(place), settings, split, key)


def _check_split(config: RunConfig, split: str) -> None:
    """Makes sure that there are rows to report on, as far as that is known without a hub, before anything is trained.

    Raises:
        ConfigError: the task has no such split.
        DataError: its directory has no file of it.
    """
    task = get_task(config.task)
    known = (*SPLIT_NAMES, *task.more_splits)
    if split not in known:
        raise ConfigError(
            f"`split` is {split!r}, expected one of {', '.join(known)}. Correct it, or leave it out for validation."
        )
    source = config.data.path or task.source
    if split == "validation" or source is None or isinstance(source, HubSource):
        return  # without a file, validation rows are cut from train
    directory = Path(source_directory(source))
    found = find_splits(directory, task.kind) if directory.is_dir() else {}
    if found and split not in found:
        raise DataError(
            f"`split` is {split}, but {directory} has only {', '.join(found)}. Add a file for it, or leave `split` out "
            "for validation."
        )
