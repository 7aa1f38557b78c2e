"""SQuAD: one JSON object, id -> answer; for 2.0 a second one, id -> probability that there is no answer.

These are `predictions.json` and `na_prob.json` of the official evaluate-v1.1.py and evaluate-v2.0.py (Rajpurkar et
al.), which the latter reads with `--na-prob-file`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ptuning.errors import ConfigError
from ptuning.predictor import LoadedTask
from ptuning.submission import ids
from ptuning.submission.asked import Asked
from ptuning.submission.output import Output
from ptuning.tasks.kind import Prediction
from ptuning.tasks.question_answering import QuestionAnswering


def check_task(task: LoadedTask) -> None:
    """Checks that the prompt answers questions.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(task.kind, QuestionAnswering):
        raise ConfigError(
            f"--format squad was given, but {task.directory} was trained for {task.kind.name}. Expected "
            "question_answering. Use --format json."
        )


def check_rows(task: LoadedTask, asked: Asked) -> None:
    """Checks that every question has an id.

    Raises:
        DataError: one has not, or two have the same.
    """
    _ids(asked)


def outputs(task: LoadedTask, asked: Asked) -> list[Output]:
    """Returns the file of the answers, and where questions may have none that of how probable it is."""
    answers = Output("predictions.json")
    if not getattr(task.kind, "allow_no_answer", False):
        return [answers]
    return [answers, Output("na_prob.json", "na_prob", "the probabilities of no answer")]


def texts(predictions: Sequence[Prediction], task: LoadedTask, asked: Asked) -> list[str]:
    """Returns what they hold, in the order of the rows."""
    found = dict(zip(_ids(asked), predictions, strict=True))
    answers = _json({own: prediction["answer"] for own, prediction in found.items()})
    probabilities = _json({own: no_answer_probability(prediction) for own, prediction in found.items()})
    return [answers, probabilities][: len(outputs(task, asked))]


def no_answer_probability(prediction: Prediction) -> float:
    """Returns the probability of no answer against the best span alone: the logistic function of `no_answer_score`.

    It is above 0.5 where no answer is the likelier of the two; the prompt's own threshold plays no part. 1.0 where the
    context has no span at all.
    """
    if not any(item["start"] is not None for item in prediction["n_best"]):
        return 1.0
    score = float(prediction["no_answer_score"])
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    return math.exp(score) / (1 + math.exp(score))


def _ids(asked: Asked) -> list[str]:
    return ids.texts(asked.table, asked.columns.get("id", "id"))


def _json(values: dict[str, str] | dict[str, float]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
