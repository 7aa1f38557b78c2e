from __future__ import annotations

import inspect
import re

from ptuning import errors
from ptuning.errors import PtuningError


def _drawn() -> dict[str, tuple[str, str]]:
    """The tree in the docstring: class -> (parent, what happened)."""
    drawn: dict[str, tuple[str, str]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"[ │├└─]*(?P<name>\w+Error)\b *(?P<what>.*)", line)
        if match is None:
            continue
        column = match.start("name")
        above = [(other, name) for other, name in above if other < column]
        drawn[match["name"]] = (above[-1][1] if above else "Exception", match["what"])
        above.append((column, match["name"]))
    return drawn


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert all(issubclass(value, PtuningError) for value in classes.values())
    parents = {name: value.__bases__[0].__name__ for name, value in classes.items()}
    assert {name: parent for name, (parent, _) in _drawn().items()} == parents


def test_every_class_says_what_the_tree_says() -> None:
    for name, (_, what) in _drawn().items():
        doc = (getattr(errors, name).__doc__ or "").lower()
        if what:
            assert doc.startswith(what.split(":")[0].split(" (")[0].lower()), name


def test_errors_are_caught_as_what_callers_expect() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DataError, ValueError)
    assert issubclass(errors.BackboneError, ValueError)
    assert issubclass(errors.PromptError, ValueError)
    assert issubclass(errors.TrainingError, RuntimeError)
    assert issubclass(errors.MissingDependencyError, ImportError)
    assert issubclass(errors.BackboneMismatchError, errors.CheckpointError)
