"""The directory of all runs: which are in it, what of them may go, and how old ones give way.

    OUTPUT/
      config.yaml, results.json
      .overwriting              only while old runs are deleted
      seed-N/shared/, seed-N/multi/NAME/, seed-N/single/NAME/

Nothing is deleted that another process is writing, that other runs left, or that the new ones read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ptuning.checkpoint import FILES as PROMPT_FILES
from ptuning.config import RunConfig, load_config
from ptuning.config.text import read_yaml
from ptuning.errors import CheckpointError, ConfigError
from ptuning.multitask.results import RESULTS_NAME
from ptuning.multitask.settings import MultitaskConfig
from ptuning.multitask.shared import TASKS_NAME
from ptuning.storage import replace_file
from ptuning.training.directory import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    METRICS_NAME,
    PROMPT_NAME,
    TREES,
    check_start,
    claimed,
    clear_directory,
)

OVERWRITING_NAME = ".overwriting"
_SEED_NAME = re.compile(r"seed-\d+")
_TRACES = (CONFIG_NAME, METRICS_NAME, CHECKPOINT_NAME, PROMPT_NAME, TASKS_NAME)


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Makes sure that multi-task training may start, or go on, in a directory. Nothing is deleted.

    Raises:
        ConfigError: there are runs, and they are neither to go on nor to be overwritten, or not this command's to
            delete; or it is itself a part of such runs.
        CheckpointError: there is nothing that could go on.
    """
    whole = output.resolve()
    if whole.name == "shared" and _SEED_NAME.fullmatch(whole.parent.name) and _has_run(whole):
        raise ConfigError(
            f"{output} is the shared stage of other runs, expected the directory of all runs. Use --output "
            f"{whole.parent.parent}, or one that is new."
        )
    if resume and (output / OVERWRITING_NAME).exists():
        raise CheckpointError(
            f"{output} was being overwritten when the process was stopped, and has only a part of the old runs, which "
            "cannot go on. Start again with --overwrite."
        )
    check_start(output, resume=resume, overwrite=overwrite)
    runs = runs_in(output)
    if resume:
        lost = [run for run in runs if not (run / CONFIG_NAME).exists()]
        if lost:
            raise CheckpointError(
                f"{_listed(lost)} {'has' if len(lost) == 1 else 'have'} no {CONFIG_NAME}, expected one in every run "
                "that goes on. Put it back, or move what is there away to train it again."
            )
        return
    if runs and not overwrite:
        raise ConfigError(
            f"{output} has runs already ({_listed(runs)}). Use --resume to go on with them, --overwrite to start "
            "again, or another --output."
        )
    names = _names_of_old(output)
    foreign = [run for run in runs if not names or (run.name not in names and run.name != "shared")]
    if foreign:
        raise ConfigError(
            f"{output} has {_listed(foreign)}, which its {CONFIG_NAME} does not know, so it may be of others and is "
            "not deleted. Move it away, or use another --output."
        )
    for run in runs:
        _check_can_go(run)


def check_kept(read: Mapping[str, Path], output: Path) -> None:
    """Makes sure that what new runs read does not go with the old ones.

    Args:
        read: setting -> the directory or file that it names.
        output: directory of all runs, to be overwritten.

    Raises:
        ConfigError: some of it would go.
    """
    going = [path.resolve() for path in (*runs_in(output), *(output / name for name in TREES))]
    for setting, path in read.items():
        if any(path.resolve().is_relative_to(directory) for directory in going):
            raise ConfigError(
                f"{setting} is {path}, which --overwrite would delete before it is read. Copy it elsewhere and name "
                "that, or use another --output."
            )


def start_output(output: Path, config: MultitaskConfig, *, overwrite: bool) -> None:
    """Deletes old runs, if they are to go, and nothing else that may be there, and writes config.yaml.

    The output must be claimed. Old runs are claimed here, all before the first is touched. A process that dies in
    between leaves `.overwriting`: what is left then is not resumed, and can be overwritten.

    Raises:
        ConfigError: as `check_output`; or another process is training in one of the runs.
    """
    old = runs_in(output)
    with ExitStack() as claims:
        for run in old:
            claims.enter_context(claimed(run))
        check_output(output, resume=False, overwrite=overwrite)  # again: nobody else writes from here on
        if overwrite:
            (output / OVERWRITING_NAME).touch()
        for run in old:
            _clear(run)
        (output / RESULTS_NAME).unlink(missing_ok=True)
        clear_directory(output)
        replace_file(output / CONFIG_NAME, config.to_yaml())
        (output / OVERWRITING_NAME).unlink(missing_ok=True)


def follow_move(run: Path, settings: RunConfig, output: Path) -> None:
    """Lets the config of a run name the shared stage where it is now, if the directory of all runs was moved.

    Args:
        run: its directory.
        settings: those that it goes on with.
        output: directory of all runs.
    """
    started = load_config(run / CONFIG_NAME)
    moved = {}
    for group in ("prompts", "head"):
        before, now = (Path(getattr(config, group).init) for config in (started, settings))
        if before == now or not now.is_relative_to(output.resolve()):
            continue
        inside = now.relative_to(output.resolve()).parts  # seed-N/shared, or seed-N/shared/tasks/NAME
        if before.parts[-len(inside) :] == inside:
            moved[group] = getattr(started, group).model_copy(update={"init": str(now)})
    if moved:
        with claimed(run):
            replace_file(run / CONFIG_NAME, started.model_copy(update=moved).to_yaml())


def runs_in(output: Path) -> list[Path]:
    """Directories in which multi-task training, or a run that was sent there, has left something."""
    seeds = [path for path in sorted(output.glob("seed-*")) if _SEED_NAME.fullmatch(path.name)]
    found = [
        path for seed in seeds for pattern in ("shared", "multi/*", "single/*") for path in sorted(seed.glob(pattern))
    ]
    return [path for path in found if path.is_dir() and _has_run(path)]


def _has_run(directory: Path) -> bool:
    return any((directory / name).exists() for name in _TRACES)


def _names_of_old(output: Path) -> set[str]:
    """The data sets of the runs that are there; none where no config says that they are multi-task training's."""
    path = output / CONFIG_NAME
    tasks = read_yaml(path).get("tasks") if path.is_file() else None
    return set(tasks) if isinstance(tasks, dict) else set()


def _check_can_go(run: Path) -> None:
    check_start(run, resume=False, overwrite=True)
    for prompt in (run / TASKS_NAME).glob("*"):
        foreign = sorted({path.name for path in prompt.iterdir()} - set(PROMPT_FILES)) if prompt.is_dir() else [prompt]
        if foreign:
            raise ConfigError(
                f"{prompt} holds {', '.join(map(str, foreign))}, which no run has written, and would be deleted with "
                "it. Move that away, or use another --output."
            )


def _clear(run: Path) -> None:
    """Deletes a run, and its directory if nothing else is in it. The file that claims it stays, for who may wait."""
    for prompt in (run / TASKS_NAME).glob("*"):
        for name in PROMPT_FILES:
            (prompt / name).unlink(missing_ok=True)
        prompt.rmdir()
    clear_directory(run)
    for path in (run / TASKS_NAME, run / "checkpoints", run):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _listed(runs: list[Path]) -> str:
    """Runs by their last names, a few of them."""
    names = [str(run.relative_to(run.parents[1 if run.name == "shared" else 2])) for run in runs]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
