"""A run's directory: who may write to it, what a run leaves in it, and how a run is taken up again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from ptuning.checkpoint import FILES as PROMPT_FILES
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


_TREES = (CHECKPOINT_NAME, PROMPT_NAME, TRUNK_NAME, CANDIDATES_NAME)
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
        ConfigError: there is a run, and it is neither to go on nor to be overwritten.
        CheckpointError: there is no run that could go on.
    """
    if resume:
        if not (directory / CONFIG_NAME).exists():
            raise CheckpointError(
                f"{directory} has no {CONFIG_NAME}, so there is no run to resume. Leave --resume out, or give the "
                "--output of the run."
            )
        return
    for name in _TREES:
        recover_directory(directory / name)
    found = [name for name in (*_FILES, *_TREES) if (directory / name).exists()]
    if found and not overwrite:
        raise ConfigError(
            f"{directory} has a run already ({', '.join(found)}). Use --resume to go on with it, --overwrite to start "
            "again, or another --output."
        )
    prompt = directory / PROMPT_NAME
    foreign = sorted({path.name for path in prompt.iterdir()} - set(PROMPT_FILES)) if prompt.is_dir() else []
    if foreign:
        raise ConfigError(
            f"{prompt} holds {', '.join(foreign)}, which no run has written, and would be deleted with it. Move that "
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
    for name in _TREES:
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
    command: str = "train",
) -> None:
    """Makes sure that a run that goes on has the settings it was started with.

    Args:
        directory: of the run.
        settings: those it is to go on with.
        load_settings: reads its `config.yaml`.
        may_differ: settings that do not matter.
        command: that would go on with it.

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
        raise ConfigError(
            f"{directory} was started with other settings: {'; '.join(differing)}. Resume with those it was started "
            f"with (`ptuning {command} --resume --output DIR` alone takes them from there), or use another --output."
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
