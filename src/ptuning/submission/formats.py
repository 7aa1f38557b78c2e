"""The formats by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ptuning.errors import ConfigError
from ptuning.predictor import LoadedTask
from ptuning.submission import conll, glue, squad, super_glue
from ptuning.submission.asked import Asked
from ptuning.submission.output import Output, Submission
from ptuning.tasks.kind import Prediction


@dataclass(frozen=True)
class Format:
    """A form of predictions.

    Attributes:
        name: what `--format` takes.
        check_task: refuses (`ConfigError`) a prompt whose predictions cannot be written so.
        prepare: says what becomes of the predictions of rows, and refuses (`DataError`) rows without what the grader
            needs; nothing need be predicted yet.
        is_named: whether the grader expects the name that the file has.
    """

    name: str
    check_task: Callable[[LoadedTask], None]
    prepare: Callable[[LoadedTask, Asked], Submission]
    is_named: bool = False


def json_lines(predictions: Sequence[Prediction]) -> str:
    """Returns one JSON object a prediction and line."""
    return "".join(json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions)


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format(
            "json",
            check_task=lambda task: None,
            prepare=lambda task, asked: Submission([Output("predictions.jsonl")], lambda said: [json_lines(said)]),
        ),
        Format("super_glue", super_glue.check_task, super_glue.prepare, is_named=True),
        Format("glue", glue.check_task, glue.prepare, is_named=True),
        Format("squad", squad.check_task, squad.prepare),
        Format("conll", conll.check_task, conll.prepare),
    )
}
"""Name -> format."""


def get_format(name: str) -> Format:
    """Returns the format of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format is {name!r}, expected one of {', '.join(FORMATS)}. Name one of those.")
    return FORMATS[name]
