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
from ptuning.submission.output import Output, Submission
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


def prepare(task: LoadedTask, asked: Asked) -> Submission:
    """Returns the file of the answers, and where questions may have none that of how probable it is.

    Raises:
        DataError: a question has no id, or two have the same.
    """
    names = ids.texts(asked.table, asked.columns.get("id", "id"))
    outputs = [Output("predictions.json")]
    if getattr(task.kind, "allow_no_answer", False):
        outputs.append(Output("na_prob.json", "na_prob", "the probabilities of no answer"))

    def texts(predictions: Sequence[Prediction]) -> list[str]:
        found = dict(zip(names, predictions, strict=True))
        answers = _json({own: prediction["answer"] for own, prediction in found.items()})
        probabilities = _json({own: no_answer_probability(prediction) for own, prediction in found.items()})
        return [answers, probabilities][: len(outputs)]

    return Submission(outputs, texts)


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


def _json(values: dict[str, str] | dict[str, float]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
