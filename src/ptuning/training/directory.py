"""A run's directory: who may write to it, what a run leaves in it, and how a run is taken up again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from ptuning.checkpoint import FILES as PROMPT_FILES
from ptuning.config.text import read_yaml
from ptuning.errors import CheckpointError, ConfigError
from ptuning.storage import recover_directory, replace_file

CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"
CHECKPOINT_NAME = "checkpoints/last"
PROMPT_NAME = "prompt"
TRUNK_NAME = "trunk"
CANDIDATES_NAME = "candidates"
POPULATION_NAME = "population.json"


class Settings(Protocol):
    """What `config.yaml` holds."""

    def to_yaml(self) -> str:
        """As text that reads back as equal settings."""

    def model_dump(self) -> dict[str, Any]:
        """As plain values."""


TREES = (CHECKPOINT_NAME, PROMPT_NAME, TRUNK_NAME, CANDIDATES_NAME)
"""Directories that a run writes in its own."""

_PROMPT = rf"prompt/({'|'.join(map(re.escape, PROMPT_FILES))})|\.prompt\..*"
# What a run writes into those that are not known by their name alone.
_WRITTEN = {
    PROMPT_NAME: re.compile(_PROMPT),
    TRUNK_NAME: re.compile(r"trunk/(index\.json|states\.bin)"),
    CANDIDATES_NAME: re.compile(rf"candidates/\d+/(config\.yaml|{_PROMPT})"),
}
_ALWAYS = (CHECKPOINT_NAME, PROMPT_NAME)  # a run's, with its config or without
_FILES = (METRICS_NAME, POPULATION_NAME, CONFIG_NAME)


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Makes a run's directory and keeps a second process out of it; one that is still empty at the end goes again.

    Raises:
        ConfigError: another process is training there, or the directory cannot be made.
    """
    directory = directory.resolve()  # one lock, whatever the spelling
    lock = FileLock(directory.parent / f".{directory.name}.lock")
    was_there = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another process is training in {directory}. Wait for it, or give this run another --output."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the run cannot be written to {directory}: {error.strerror or error}. Give another --output."
        ) from error
    try:
        yield
    finally:
        if not was_there and not any(directory.iterdir()):
            directory.rmdir()
        lock.release()


def check_start(directory: Path, *, resume: bool, overwrite: bool) -> None:
    """Makes sure that a run may start, or go on, in a directory. Nothing is deleted.

    Raises:
        ConfigError: there is a run, and it is neither to go on nor to be overwritten; or it is a part of a population.
        CheckpointError: there is no run that could go on.
    """
    _check_is_no_candidate(directory)
    if resume:
        if not (directory / CONFIG_NAME).exists():
            raise CheckpointError(
                f"{directory} has no {CONFIG_NAME}, so there is no run to resume. Leave --resume out, or give the "
                "--output of the run."
            )
        return
    for name in TREES:
        recover_directory(directory / name)
    is_run = (directory / CONFIG_NAME).exists()  # without it, what only runs beside a config write is of others
    found = [name for name in (*_FILES, *(TREES if is_run else _ALWAYS)) if (directory / name).exists()]
    if found and not overwrite:
        raise ConfigError(
            f"{directory} has a run already ({', '.join(found)}). Use --resume to go on with it, --overwrite to start "
            "again, or another --output."
        )
    for name, written in _WRITTEN.items():
        if name in _ALWAYS or is_run:
            _check_foreign(directory / name, written)


def _check_is_no_candidate(directory: Path) -> None:
    """A candidate's directory has a config and a prompt as that of a run has, but its population writes them."""
    candidates, population = directory.resolve().parent, directory.resolve().parent.parent
    config = population / CONFIG_NAME
    if candidates.name == CANDIDATES_NAME and config.is_file() and "candidates" in read_yaml(config):
        raise ConfigError(
            f"{directory} is a candidate of the population in {population}, expected a directory for a run. Go on with "
            "all candidates by train_population(..., resume=True), or use another --output."
        )


def _check_foreign(tree: Path, written: re.Pattern[str]) -> None:
    files = [path.relative_to(tree.parent).as_posix() for path in tree.rglob("*") if not path.is_dir()]
    foreign = sorted(file.partition("/")[2] for file in files if not written.fullmatch(file))
    if foreign:
        raise ConfigError(
            f"{tree} holds {', '.join(foreign)}, which no run has written, and would be deleted with it. Move that "
            "away, or use another --output."
        )


def start_directory(directory: Path, settings: Settings) -> None:
    """Deletes what an earlier run has written, and nothing else that may be there, and writes config.yaml."""
    clear_directory(directory)
    replace_file(directory / CONFIG_NAME, settings.to_yaml())


def clear_directory(directory: Path) -> None:
    """Deletes what a run has written, and nothing else that may be there.

    Its config goes last: a process that dies in between leaves what still counts as a run.
    """
    for name in TREES if (directory / CONFIG_NAME).exists() else _ALWAYS:
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    for name in _FILES:
        (directory / name).unlink(missing_ok=True)


def check_settings(
    directory: Path,
    settings: Settings,
    load_settings: Callable[[Path], Settings],
    *,
    may_differ: Collection[str] = ("output",),
    command: str | None = "train",
) -> None:
    """Makes sure that a run that goes on has the settings it was started with.

    Args:
        directory: of the run.
        settings: those it is to go on with.
        load_settings: reads its `config.yaml`.
        may_differ: settings that do not matter.
        command: that would go on with it; None where that is `train_population`.

    Raises:
        ConfigError: it has others; all are named.
    """
    started = load_settings(directory / CONFIG_NAME)
    differing = [
        f"{key} {before!r} then, {now!r} now"
        for key, (before, now) in _differences(started.model_dump(), settings.model_dump()).items()
        if key not in may_differ
    ]
    if differing:
        way = f"`ptuning {command} --resume --output DIR` alone takes them from there"
        if command is None:
            way = f"they are in its {CONFIG_NAME}; give the same to train_population(..., resume=True)"
        raise ConfigError(
            f"{directory} was started with other settings: {'; '.join(differing)}. Resume with those it was started "
            f"with ({way}), or use another --output."
        )


def cut_metrics(directory: Path, num_lines: int) -> None:
    """Drops lines of metrics.jsonl that a killed run wrote after its last checkpoint.

    Raises:
        CheckpointError: the file is gone.
    """
    path = directory / METRICS_NAME
    if not path.exists():
        if num_lines:
            raise CheckpointError(
                f"{path} is missing, but the run has made {num_lines} evaluations. Put it back, or start again with "
                "--overwrite."
            )
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) > num_lines:
        replace_file(path, "".join(lines[:num_lines]))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in now:
        if isinstance(now[key], dict) and isinstance(before.get(key), dict) and key != "columns":
            found |= _differences(before[key], now[key], f"{prefix}{key}.")
        elif now[key] != before.get(key):
            found[prefix + key] = (before.get(key), now[key])
    return found
