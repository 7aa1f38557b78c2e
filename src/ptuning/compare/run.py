"""A comparison in a directory, from nothing or from where it was stopped.

    runs/compare/
      config.yaml              the settings, complete
      cells/KEY/result.json    a finished cell; KEY is a digest of all that decides it
      results.json             all cells, as plain values: what tables and figures are made of, and enough to go on from
      table.md, table.csv, *.svg, *.png

A cell that is finished, here or in `results.json`, is not run again as long as its settings and data are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from ptuning.compare.cells import Cell, Group, best_tries, main_cells, tries
from ptuning.compare.processes import Watcher, failure_in, run_cells, usual_workers
from ptuning.compare.reporting import Silent
from ptuning.compare.settings import CompareConfig
from ptuning.compare.worker import RESULT_NAME, drop_heavy_files, write_cell
from ptuning.errors import CheckpointError, ConfigError
from ptuning.launch import require_one
from ptuning.reports.comparison import write_report
from ptuning.reports.outcomes import RESULTS_NAME, Comparison, Outcome, Result, read_results, write_results
from ptuning.storage import replace_file

CONFIG_NAME = "config.yaml"
CELLS_NAME = "cells"


def compare_methods(config: CompareConfig, *, watcher: Watcher | None = None, tables_only: bool = False) -> Comparison:
    """Runs all cells that are not finished, then writes tables and figures.

    Args:
        config: settings, of `load_compare_config`.
        watcher: who is told how it goes; nobody by default.
        tables_only: run nothing; tables and figures of the cells that are finished.

    Returns:
        What all cells came to; those that failed have no result.

    Raises:
        ConfigError: settings that contradict each other, or another process is at work in the directory.
        BackboneError: a backbone is in a directory that is not there.
        DataError: data are in a directory that is not there.
        CheckpointError: with `tables_only`, nothing is finished; or `results.json` is damaged.
    """
    require_one("compare")
    directory, watcher = config.directory, watcher or Silent()
    searched = tries(config)  # before anything is written: keys need the data
    if not searched:
        main_cells(config, {})
    with _claimed(directory):
        state = _State(config, directory)
        if not tables_only:
            replace_file(directory / CONFIG_NAME, config.to_yaml())
            state.run(searched, watcher, others=_num_main_cells(config))
        chosen = best_tries(searched, state.scores_to_choose_by(searched))
        cells = main_cells(config, chosen)
        if not tables_only:
            state.run(cells, watcher, before=searched)
        comparison = state.comparison([*cells, *searched])
        if tables_only and not any(outcome.result for outcome in comparison.outcomes):
            raise CheckpointError(
                f"{directory} has no finished cells of these settings, so there is nothing to make tables of. Run "
                "`ptuning compare` without --tables-only first."
            )
        write_results(directory / RESULTS_NAME, comparison)
        write_report(comparison, directory)
        return comparison


class _State:
    """What is known of the cells of a comparison."""

    def __init__(self, config: CompareConfig, directory: Path) -> None:
        self._config, self._directory = config, directory
        self.results: dict[str, Result] = {}
        self._errors: dict[str, str] = {}
        self._before: list[Outcome] = []
        if (directory / RESULTS_NAME).is_file():
            before = read_results(directory / RESULTS_NAME)
            self._before = [one for one in (*before.outcomes, *before.kept) if one.result is not None]
            self.results = {one.key: one.result for one in self._before if one.result is not None}

    def directory_of(self, cell: Cell) -> Path:
        return self._directory / CELLS_NAME / cell.key

    def run(self, cells: Sequence[Cell], watcher: Watcher, *, before: Sequence[Cell] = (), others: int = 0) -> None:
        """Runs those of some cells that are not finished.

        Args:
            cells: in the order in which they are to run.
            watcher: who is told.
            before: cells that were run before these, for counting.
            others: how many come later, for counting.
        """
        once = {cell.key: cell for cell in cells}
        earlier = {cell.key for cell in before} - set(once)
        waiting = [cell for key, cell in once.items() if not self._is_finished(cell)]
        done = len(once) - len(waiting) + len(earlier)
        if not cells:
            return
        for cell in waiting:
            write_cell(
                self.directory_of(cell),
                cell.config,
                split=cell.split,
                selection=self._config.selection,
                keep=self._config.keep,
            )
        workers = self._config.workers or usual_workers()
        watcher.start(len(once) + len(earlier) + others, done, workers)
        run_cells(
            waiting,
            self.directory_of,
            workers=workers,
            watcher=watcher,
            done_before=done,
            ended=lambda cell, error: self._ended(cell, error, [*before, *cells]),
        )

    def scores_to_choose_by(self, cells: Sequence[Cell]) -> dict[str, float]:
        """Scores of those cells that are finished, by key."""
        return {cell.key: self.results[cell.key].development_score for cell in cells if self._is_finished(cell)}

    def comparison(self, cells: Sequence[Cell]) -> Comparison:
        """What some cells came to."""
        outcomes = []
        for cell in cells:
            self._is_finished(cell)
            result = self.results.get(cell.key)
            error = None if result is not None else self._errors.get(cell.key) or failure_in(self.directory_of(cell))
            if result is not None or error is not None:
                outcomes.append(
                    Outcome(
                        part=cell.part,
                        method=cell.method,
                        base_method=cell.config.method,
                        task=cell.task,
                        backbone=cell.backbone,
                        seed=cell.seed,
                        place=dict(cell.place),
                        key=cell.key,
                        num_tries=prod(len(values) for values in self._config.search.get(cell.method, {}).values()),
                        result=result,
                        error=error,
                    )
                )
        shown = {outcome.key for outcome in outcomes}
        return Comparison(
            selection=self._config.selection,
            outcomes=tuple(outcomes),
            missing=len(cells) - len(outcomes),
            kept=tuple(one for one in self._before if one.key not in shown),
        )

    def _is_finished(self, cell: Cell) -> bool:
        path = self.directory_of(cell) / RESULT_NAME
        if cell.key not in self.results and path.is_file():
            result = _read_result(path)
            if result is not None:
                self.results[cell.key] = result
                if not self._config.keep:
                    drop_heavy_files(path.parent)  # a process that died right after writing it could not
        return cell.key in self.results

    def _ended(self, cell: Cell, error: str | None, cells: Sequence[Cell]) -> str:
        if error is not None:
            self._errors[cell.key] = error
            came = f"failed: {error}"
        else:
            self._is_finished(cell)
            came = _shown(self.results[cell.key], self._config.selection)
        write_results(self._directory / RESULTS_NAME, self.comparison(cells))
        return came


def _num_main_cells(config: CompareConfig) -> int:
    """How many cells there will be besides the tries, where each search finds something."""
    any_choice: dict[Group, dict[str, Any]] = {
        (method, task, backbone): {}
        for method in config.search
        for task in config.tasks
        for backbone in config.backbones
    }
    keys = {cell.key for cell in main_cells(config, any_choice)}
    return len(keys) - len(any_choice)  # one of each search has been run as a try


def _read_result(path: Path) -> Result | None:
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None  # it is run again


def _shown(result: Result, selection: str) -> str:
    score = f"{result.metric} {100 * result.score:.1f}"
    return score if selection == "paper" else f"{score} ({100 * result.development_score:.1f} on rows to choose by)"


@contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """Keeps a second comparison out of a directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / ".compare.lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another process is comparing in {directory}. Wait for it, or give this comparison another --output."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the comparison cannot be written to {directory}: {error.strerror or error}. Give another --output."
        ) from error
    try:
        yield
    finally:
        lock.release()
