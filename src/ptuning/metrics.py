"""Metrics on plain lists; higher is always better.

Every function takes predictions first and references second, and returns its numbers by name: fractions in [0, 1], and
correlations (Matthews, Pearson, Spearman) in [-1, 1]. Where a number is undefined it is 0.0, without a warning: a
correlation with a constant, the F1 of a class that is neither predicted nor there.
"""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ptuning.data.spans import bio_spans, is_bio_tag
from ptuning.errors import DataError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return `accuracy`: the part of predictions that equal their reference."""
    _check_lengths(predictions, references)
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(references, predictions))}


def f1(
    predictions: Sequence[str],
    references: Sequence[str],
    label_names: Sequence[str],
    *,
    average: Literal["binary", "macro", "micro"] = "binary",
) -> dict[str, float]:
    """Return `f1` (binary), `f1_macro` or `f1_micro`.

    Args:
        predictions: class names.
        references: class names.
        label_names: all classes. Binary: exactly two, and the second one is the positive.
        average: binary; or macro, the mean over the classes that are predicted or there; or micro, all decisions pooled
            (which equals accuracy when every row has one class).

    Raises:
        DataError: binary with other than two classes, a class outside `label_names`, or lists that do not match.
    """
    _check_lengths(predictions, references)
    unknown = sorted({*predictions, *references} - set(label_names))
    if unknown:
        raise DataError(
            f"got the class {unknown[0]!r}, expected one of {', '.join(label_names[:10])}. "
            "Pass all classes as label_names."
        )
    from sklearn.metrics import f1_score

    if average == "binary":
        if len(label_names) != 2:
            raise DataError(
                f"binary F1 needs two classes, got {len(label_names)} ({', '.join(label_names[:10])}). "
                "Use average macro or micro."
            )
        # As the macro average over the positive class alone, any strings will do as names.
        labels = [label_names[1]]
    else:
        occurring = {*predictions, *references}
        labels = [name for name in label_names if name in occurring]
    method = "macro" if average == "binary" else average
    score = f1_score(references, predictions, labels=labels, average=method, zero_division=0.0)
    return {"f1" if average == "binary" else f"f1_{average}": float(score)}


def matthews(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return `matthews`: the correlation of classes, in [-1, 1]; 0.0 when either side is constant."""
    _check_lengths(predictions, references)
    from sklearn.metrics import matthews_corrcoef

    if _is_constant(predictions) or _is_constant(references):
        return {"matthews": 0.0}
    return {"matthews": float(matthews_corrcoef(references, predictions))}


def group_exact_match(predictions: Sequence[Any], references: Sequence[Any], groups: Sequence[str]) -> dict[str, float]:
    """Return `exact_match`: the part of groups in which every prediction equals its reference.

    That is MultiRC's exact match, where a group is the answers of one question (Khashabi et al., NAACL 2018).

    Args:
        predictions: any values.
        references: as many.
        groups: name of the group of each; its members need not stand together.

    Raises:
        DataError: lists that do not match.
    """
    _check_lengths(predictions, references)
    if len(groups) != len(references):
        raise DataError(
            f"got {len(groups)} groups for {len(references)} references, expected as many. Name the group of each row."
        )
    is_right: dict[str, bool] = {}
    for predicted, expected, group in zip(predictions, references, groups, strict=True):
        is_right[group] = is_right.get(group, True) and predicted == expected
    return {"exact_match": _mean(is_right.values())}


def pearson(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Return `pearson`: the linear correlation, in [-1, 1]; 0.0 when either side is constant or not finite."""
    from scipy.stats import pearsonr

    return {"pearson": _correlation(pearsonr, predictions, references)}


def spearman(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Return `spearman`: the correlation of ranks, in [-1, 1]; 0.0 when either side is constant or not finite."""
    from scipy.stats import spearmanr

    return {"spearman": _correlation(spearmanr, predictions, references)}


def entity_f1(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `precision`, `recall` and `f1` over entities: type and both ends must be right.

    seqeval's strict mode with the scheme IOB2 (BIO): an `I-X` without `B-X` or `I-X` before it begins no entity. (Its
    default mode, like the conlleval script, would let it begin one.) All three are 0.0 when nothing is predicted or
    there.

    Args:
        predictions: BIO tags of each sentence.
        references: as many, equally long.

    Raises:
        DataError: lists that do not match, or a tag that is not BIO.
    """
    _check_tags(predictions, references)
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2

    if not any(tag.startswith("B-") for tags in (*predictions, *references) for tag in tags):
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0}  # seqeval cannot count no entities at all
    precision, recall, score, _ = precision_recall_fscore_support(
        [list(tags) for tags in references],
        [list(tags) for tags in predictions],
        average="micro",
        zero_division=0,
        scheme=IOB2,
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(score)}


def role_f1(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `precision`, `recall` and `f1` over the arguments of predicates: role and all words must be right.

    The "Overall" line of srl-eval.pl, the scorer of the CoNLL-2005 shared task (Carreras and Marquez):

    - The predicate's own role `V` is left out (`%excluded` there).
    - A span `C-X` continues the last `X` before it: both are one argument, right only if all its pieces are. Where
      there is no `X` before it, it is an argument `X`. So a `C-V` belongs to `V`, and is left out too.
    - `R-X` is a role like any other.

    The script reads brackets, where this reads BIO tags: an `I-X` that follows neither `B-X` nor `I-X` begins a span.

    Args:
        predictions: BIO tags of one predicate each.
        references: as many, equally long.

    Raises:
        DataError: lists that do not match, or a tag that is not BIO.
    """
    _check_tags(predictions, references)
    correct = predicted_count = expected_count = 0
    for predicted, expected in zip(predictions, references, strict=True):
        found, wanted = _arguments(predicted), _arguments(expected)
        correct += len(found & wanted)
        predicted_count += len(found)
        expected_count += len(wanted)
    precision = correct / predicted_count if predicted_count else 0.0
    recall = correct / expected_count if expected_count else 0.0
    score = 2 * precision * recall / (precision + recall) if correct else 0.0
    return {"precision": precision, "recall": recall, "f1": score}


def _arguments(tags: Sequence[str]) -> set[tuple[str, tuple[tuple[int, int], ...]]]:
    """Return (role, its pieces) of every argument but the predicate itself."""
    arguments: list[tuple[str, list[tuple[int, int]]]] = []
    last: dict[str, list[tuple[int, int]]] = {}  # role -> pieces of the last argument that has it
    for kind, start, end in bio_spans(tags):
        role = kind.removeprefix("C-")
        if role != kind and role in last:
            last[role].append((start, end))
        else:
            last[role] = [(start, end)]
            arguments.append((role, last[role]))
    return {(role, tuple(pieces)) for role, pieces in arguments if role != "V"}


def _check_tags(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> None:
    """Check that there are as many BIO tags on both sides."""
    _check_lengths(predictions, references)
    for index, (predicted, expected) in enumerate(zip(predictions, references, strict=True)):
        if len(predicted) != len(expected):
            raise DataError(
                f"sentence {index} has {len(predicted)} predicted tags, expected {len(expected)}. "
                "Predict one tag a word."
            )
        wrong = next((tag for tag in (*predicted, *expected) if not is_bio_tag(tag)), None)
        if wrong is not None:
            raise DataError(f"sentence {index} has the tag {wrong!r}, expected O, B-TYPE or I-TYPE. Convert it to BIO.")


def squad_em_f1(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return `exact_match` and `f1` over questions, as SQuAD 1.1 and 2.0 define them.

    Answers are compared after `normalize_answer`. F1 is over words, exact match is of the whole; each is the best over
    a question's answers. A question without answer scores 1.0 if the prediction is empty, else 0.0.

    Args:
        predictions: id -> answer; "" means that there is none.
        references: id -> right answers; an empty list means that there is none.

    Returns:
        `exact_match` and `f1`; where some questions have no answer also `no_answer_accuracy`, and
        `has_answer_exact_match` and `has_answer_f1` over those that have one.

    Raises:
        DataError: no questions, or one without prediction.
    """
    if not references:
        raise DataError("got no questions, expected at least one. Check the data.")
    missing = [identifier for identifier in references if identifier not in predictions]
    if missing:
        raise DataError(
            f"{len(missing)} questions have no prediction, such as {missing[0]!r}. "
            "Expected one for every id; predict an empty string for no answer."
        )
    exact: dict[str, float] = {}
    overlap: dict[str, float] = {}
    for identifier, answers in references.items():
        golds = [words for words in map(normalize_answer, answers) if words] or [""]
        predicted = normalize_answer(predictions[identifier])
        exact[identifier] = max(float(predicted == gold) for gold in golds)
        overlap[identifier] = max(_word_f1(predicted.split(), gold.split()) for gold in golds)
    scores = {"exact_match": _mean(exact.values()), "f1": _mean(overlap.values())}
    unanswerable = [identifier for identifier, answers in references.items() if not answers]
    if unanswerable:
        scores["no_answer_accuracy"] = _mean(exact[identifier] for identifier in unanswerable)
        answerable = [identifier for identifier, answers in references.items() if answers]
        if answerable:
            scores["has_answer_exact_match"] = _mean(exact[identifier] for identifier in answerable)
            scores["has_answer_f1"] = _mean(overlap[identifier] for identifier in answerable)
    return scores


def normalize_answer(text: str) -> str:
    """Lower the case, remove ASCII punctuation and the articles a, an, the, and collapse blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))


def _mean(values: Any) -> float:
    items = list(values)
    return float(sum(items) / len(items))


def _correlation(function: Any, predictions: Sequence[float], references: Sequence[float]) -> float:
    _check_lengths(predictions, references)
    if _is_constant(predictions) or _is_constant(references):
        return 0.0
    if not all(math.isfinite(value) for value in (*predictions, *references)):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant values: the number is rough, but says enough
        value = float(function(predictions, references)[0])
    return value if math.isfinite(value) else 0.0


def _is_constant(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def _check_lengths(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if len(predictions) != len(references) or not predictions:
        raise DataError(
            f"got {len(predictions)} predictions for {len(references)} references, expected as many and at least one. "
            "Predict every row that is scored."
        )
