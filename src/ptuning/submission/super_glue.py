"""SuperGLUE: a file of JSON lines for each task, {"idx", "label"}.

Names of files and labels, and the nested lines of MultiRC, are those that the authors of the benchmark write in
nyu-mll/jiant (v1, `jiant/evaluate.py`: `SUPERGLUE_NAME_MAP` and the functions `_write_..._preds`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptuning.predictor import LoadedTask
from ptuning.submission import ids
from ptuning.submission.asked import Asked, preset_name
from ptuning.submission.benchmark import check_is_of_benchmark
from ptuning.submission.output import Output, Submission
from ptuning.tasks.kind import Prediction


@dataclass(frozen=True)
class _Set:
    """A task of the benchmark.

    Attributes:
        file: what it is called in a submission.
        labels: our name of a label -> what the file says; empty where predictions are no labels.
        parts: of an idx that is made of several numbers.
    """

    file: str
    labels: Mapping[str, str | int] = field(default_factory=dict)
    parts: tuple[str, ...] = ()


_ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}
_NESTED = ("paragraph", "question", "answer")
_LOWER = {"False": "false", "True": "true"}

SETS: Mapping[str, _Set] = {
    "super_glue/boolq": _Set("BoolQ.jsonl", _LOWER),
    "super_glue/cb": _Set("CB.jsonl", {name: name for name in ("entailment", "contradiction", "neutral")}),
    "super_glue/copa": _Set("COPA.jsonl"),
    "super_glue/multirc": _Set("MultiRC.jsonl", {"False": 0, "True": 1}, _NESTED),
    "super_glue/record": _Set("ReCoRD.jsonl", parts=("passage", "query")),
    "super_glue/rte": _Set("RTE.jsonl", _ENTAILMENT),
    "super_glue/wic": _Set("WiC.jsonl", _LOWER),
    "super_glue/wsc": _Set("WSC.jsonl", {"False": "False", "True": "True"}),
}
"""Preset -> its file."""


def check_task(task: LoadedTask) -> None:
    """Checks that the prompt answers a task of SuperGLUE, with its labels.

    Raises:
        ConfigError: it does not.
    """
    check_is_of_benchmark(task, {name: own.labels for name, own in SETS.items()}, "super_glue")


def prepare(task: LoadedTask, asked: Asked) -> Submission:
    """Returns the file of the task, whose lines are in the order of the rows.

    Raises:
        DataError: a record has not the idx that the benchmark gave it, or two have the same.
    """
    own = SETS[preset_name(task)]
    found = _ids(own, asked)

    def texts(predictions: Sequence[Prediction]) -> list[str]:
        values = [_value(own, prediction) for prediction in predictions]
        if own.parts == _NESTED:
            return [_lines(_nested(found, values))]
        return [_lines({"idx": place[-1], "label": value} for place, value in zip(found, values, strict=True))]

    return Submission([Output(own.file)], texts)


def _value(own: _Set, prediction: Prediction) -> Any:
    if own.labels:
        return own.labels[prediction["label"]]
    return prediction["choice"] if "choice" in prediction else prediction["answer"]


def _ids(own: _Set, asked: Asked) -> list[tuple[int, ...]]:
    if own.parts:
        return ids.places(asked.table, "idx", own.parts)
    return [(number,) for number in ids.numbers(asked.table, ("idx",))]


def _nested(places: Sequence[tuple[int, ...]], values: Sequence[int]) -> list[dict[str, Any]]:
    """One object a paragraph, with its questions and their answers, each in the order of their first rows."""
    paragraphs: dict[int, dict[int, list[dict[str, int]]]] = {}
    for (paragraph, question, answer), value in zip(places, values, strict=True):
        paragraphs.setdefault(paragraph, {}).setdefault(question, []).append({"idx": answer, "label": value})
    return [
        {
            "idx": paragraph,
            "passage": {"questions": [{"idx": question, "answers": own} for question, own in questions.items()]},
        }
        for paragraph, questions in paragraphs.items()
    ]


def _lines(objects: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
