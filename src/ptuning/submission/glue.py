"""GLUE: a file of tab-separated values for each task, `index` and `prediction`.

Names of files and labels are those that nyu-mll/jiant writes for the benchmark's server (v1, `jiant/evaluate.py`:
`GLUE_NAME_MAP` and `_write_glue_preds`); so are three decimals for STS-B, and its limits 0 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
        labels: our name of a label -> what the file says; empty for a number.
        mismatched: the file of the other test set, if there are two.
    """

    file: str
    labels: Mapping[str, str] = field(default_factory=dict)
    mismatched: str | None = None


def _places(*names: str) -> dict[str, str]:
    return {name: str(place) for place, name in enumerate(names)}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_ENTAILMENT = _same("entailment", "not_entailment")

SETS: Mapping[str, _Set] = {
    "glue/cola": _Set("CoLA.tsv", _places("unacceptable", "acceptable")),
    "glue/sst2": _Set("SST-2.tsv", _places("negative", "positive")),
    "glue/mrpc": _Set("MRPC.tsv", _places("not_equivalent", "equivalent")),
    "glue/stsb": _Set("STS-B.tsv"),
    "glue/qqp": _Set("QQP.tsv", _places("not_duplicate", "duplicate")),
    "glue/mnli": _Set("MNLI-m.tsv", _same("entailment", "neutral", "contradiction"), "MNLI-mm.tsv"),
    "glue/qnli": _Set("QNLI.tsv", _ENTAILMENT),
    "glue/rte": _Set("RTE.tsv", _ENTAILMENT),
    "glue/wnli": _Set("WNLI.tsv", _places("not_entailment", "entailment")),
}
"""Preset -> its file."""

_COLUMNS = ("idx", "index")  # on the hub, and in the files as they were released
_LOWEST, _HIGHEST = 0.0, 5.0


def check_task(task: LoadedTask) -> None:
    """Checks that the prompt answers a task of GLUE, with its labels.

    Raises:
        ConfigError: it does not.
    """
    check_is_of_benchmark(task, {name: own.labels for name, own in SETS.items()}, "glue")


def prepare(task: LoadedTask, asked: Asked) -> Submission:
    """Returns the file of the task, whose lines are in the order of the rows.

    Raises:
        DataError: a record has no index, or two have the same.
    """
    own = SETS[preset_name(task)]
    numbers = ids.numbers(asked.table, _COLUMNS)

    def texts(predictions: Sequence[Prediction]) -> list[str]:
        lines = [f"{number}\t{_said(own, one)}" for number, one in zip(numbers, predictions, strict=True)]
        return ["\n".join(["index\tprediction", *lines]) + "\n"]

    file = own.mismatched if own.mismatched is not None and "mismatched" in asked.split else own.file
    return Submission([Output(file)], texts)


def _said(own: _Set, prediction: Prediction) -> str:
    if own.labels:
        return own.labels[prediction["label"]]
    return f"{min(max(prediction['value'], _LOWEST), _HIGHEST):.3f}"
