"""What is written: one text, or several that belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptuning.errors import ConfigError
from ptuning.storage import replace_file
from ptuning.tasks.kind import Prediction


@dataclass(frozen=True)
class Output:
    """A file for a grader.

    Attributes:
        name: what it is called there, or, where the grader does not care, by custom.
        part: what a further file adds to the name of the first, such as `na_prob`; empty for the first.
        what: a further file in a few words.
    """

    name: str
    part: str = ""
    what: str = ""


@dataclass(frozen=True)
class Submission:
    """What becomes of the predictions of some rows.

    Attributes:
        outputs: which files there are.
        texts: predictions in the order of the rows -> what each file holds.
    """

    outputs: list[Output]
    texts: Callable[[Sequence[Prediction]], list[str]]


def paths_of(outputs: Sequence[Output], output: str | Path) -> list[Path]:
    """Returns where files go: by their names into a directory, else the first to `output` and the others beside it."""
    path = Path(output)
    if path.is_dir() or str(output).endswith(("/", "\\")):
        return [path / one.name for one in outputs]
    return [path if not one.part else path.with_name(f"{path.stem}.{one.part}{path.suffix}") for one in outputs]


def check_is_free(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Checks that no file is in the way.

    Raises:
        ConfigError: one is, and is not to be replaced.
    """
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"--output is to be {path}, which is a directory, expected a file. Give another path.")
        if path.exists() and not overwrite:
            raise ConfigError(
                f"--output has {path} already, expected nothing there. Give another path, or --overwrite to replace it."
            )


def write_files(texts: Sequence[str], paths: Sequence[Path], *, overwrite: bool) -> None:
    """Writes files so that each is whole or as before.

    Raises:
        ConfigError: one is in the way.
        OSError: a disk problem.
    """
    check_is_free(paths, overwrite=overwrite)
    for text, path in zip(texts, paths, strict=True):
        replace_file(path, text)
