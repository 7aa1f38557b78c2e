"""Scores of the written files by the official scripts' definitions, which are written down here a second time.

Sources of the definitions: evaluate-v1.1.py and evaluate-v2.0.py of SQuAD (Rajpurkar et al.), conlleval (Tjong Kim
Sang), srl-eval.pl (Carreras and Marquez).
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from ptuning import metrics
from ptuning.data.formats import table_of
from ptuning.submission import Asked, conll, squad
from ptuning.tasks.question_answering import QuestionAnswering, best_threshold, with_threshold


def _plain(text: str) -> str:
    kept = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(word for word in re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _overlap(gold: str, said: str) -> float:
    ours, theirs = _plain(said).split(), _plain(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def _squad(gold: Mapping[str, list[str]], said: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Question -> exact and f1, each the best over its answers; no answer is the one answer ''."""
    raw: dict[str, dict[str, float]] = {"exact": {}, "f1": {}}
    for question, answers in gold.items():
        answers = [answer for answer in answers if _plain(answer)] or [""]
        raw["exact"][question] = max(float(_plain(answer) == _plain(said[question])) for answer in answers)
        raw["f1"][question] = max(_overlap(answer, said[question]) for answer in answers)
    return raw


def _best(
    gold: Mapping[str, list[str]], said: Mapping[str, str], raw: Mapping[str, float], absent: Mapping[str, float]
) -> float:
    """The best mean that a threshold on the probability of no answer gives; the least probable are answered first."""
    total = best = float(sum(not answers for answers in gold.values()))
    for question in sorted(absent, key=lambda one: absent[one]):
        total += raw[question] if gold[question] else (-1 if said[question] else 0)
        best = max(best, total)
    return best / len(gold)


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _chunks(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """conlleval: a chunk begins at B-X, and at I-X after O or another type; so an I-X after O is a chunk."""
    found, start = set(), 0
    for place in range(len(tags) + 1):
        before = tags[place - 1] if place else "O"
        here = tags[place] if place < len(tags) else "O"
        if before != "O" and (here == "O" or here.startswith("B-") or here[2:] != before[2:]):
            found.add((before[2:], start, place))
        if here != "O" and (before == "O" or here.startswith("B-") or here[2:] != before[2:]):
            start = place
    return found


def _conlleval(text: str) -> tuple[int, int, int]:
    """(right, guessed, correct) chunks of a file."""
    correct = guessed = right = 0
    for block in text.strip("\n").split("\n\n"):
        lines = [line.split() for line in block.split("\n")]
        gold, said = _chunks([line[-2] for line in lines]), _chunks([line[-1] for line in lines])
        correct, guessed, right = correct + len(gold & said), guessed + len(said), right + len(gold)
    return right, guessed, correct


def _arguments(column: Sequence[str]) -> set[tuple[str, tuple[tuple[int, int], ...]]]:
    """srl-eval.pl: brackets to arguments; C-X belongs to the last X before it; V is left out."""
    pieces: list[tuple[str, int, int]] = []
    role, start = "", 0
    for place, cell in enumerate(column):
        opened = re.match(r"\(([^*(]+)\*", cell)
        if opened:
            role, start = opened[1], place
        if cell.endswith(")"):
            pieces.append((role, start, place))
    arguments: list[list[Any]] = []
    for kind, first, last in pieces:
        whole = next((own for own in reversed(arguments) if kind == f"C-{own[0]}"), None)
        if whole is not None:
            whole[1].append((first, last))
        else:
            arguments.append([kind.removeprefix("C-"), [(first, last)]])
    return {(kind, tuple(spans)) for kind, spans in arguments if kind != "V"}


def _srl_eval(gold: str, said: str) -> tuple[int, int, int]:
    right = guessed = correct = 0
    for ours, theirs in zip(gold.strip("\n").split("\n\n"), said.strip("\n").split("\n\n"), strict=True):
        columns = [list(zip(*[line.split() for line in block.split("\n")], strict=True)) for block in (ours, theirs)]
        assert columns[0][0] == columns[1][0]  # the script compares the predicates
        assert len(columns[0]) == 1 + sum(verb != "-" for verb in columns[0][0])
        for own, other in zip(columns[0][1:], columns[1][1:], strict=True):
            expected, found = _arguments(own), _arguments(other)
            right, guessed, correct = right + len(expected), guessed + len(found), correct + len(expected & found)
    return right, guessed, correct


def _f1(right: int, guessed: int, correct: int) -> float:
    return 2 * correct / (right + guessed)


def _task(kind: Any) -> Any:
    return SimpleNamespace(kind=kind, directory="runs/x", columns={}, template=None, saved=None)


_GOLD = {
    "q1": ["The red lamp", "red lamp on the desk"],
    "q2": ["in 1999"],
    "q3": [],
    "q4": [],
    "q5": ["Cork"],
}


def _answer(best: str, score: float, threshold: float = 0.0) -> dict[str, Any]:
    spans = [{"answer": best, "start": 0, "end": len(best), "score": 0.5}] if best else []
    none = {"answer": "", "start": None, "end": None, "score": 0.5}
    chosen = none if score > threshold or not spans else spans[0]
    return {**chosen, "no_answer_score": score, "n_best": [*spans, none]}


_SAID = {
    "q1": _answer("a red lamp!", -3.0),  # exact after normalization
    "q2": _answer("1999", -1.0),  # one of two words: f1 2/3
    "q3": _answer("nothing", 2.0),  # rightly empty
    "q4": _answer("blue", -0.5),  # wrongly answered
    "q5": _answer("Cork", 0.25),  # wrongly empty
}


def _squad_asked(gold: Mapping[str, list[str]]) -> tuple[Asked, list[dict[str, Any]]]:
    rows = [
        {"answers": {"text": texts, "answer_start": [0] * len(texts)}, "question": "?", "context": "c", "id": own}
        for own, texts in gold.items()
    ]
    return Asked(table_of("rows", rows), [{} for _ in rows]), rows


def test_squad_1_is_scored_as_the_official_script_does() -> None:
    gold = {own: texts for own, texts in _GOLD.items() if texts}
    asked, rows = _squad_asked(gold)
    kind = QuestionAnswering(allow_no_answer=False)
    predictions = [_answer(_SAID[own]["n_best"][0]["answer"], -9.0) for own in gold]
    (text,) = squad.prepare(_task(kind), asked).texts(predictions)
    raw, ours = _squad(gold, json.loads(text)), kind.score(predictions, rows)
    assert (_mean(raw["exact"]), _mean(raw["f1"])) == (2 / 3, pytest.approx((1 + 2 / 3 + 1) / 3))
    assert ours == {"exact_match": pytest.approx(_mean(raw["exact"])), "f1": pytest.approx(_mean(raw["f1"]))}


def test_squad_2_is_scored_as_the_official_script_does() -> None:
    asked, rows = _squad_asked(_GOLD)
    kind, predictions = QuestionAnswering(allow_no_answer=True), list(_SAID.values())
    assert [one.name for one in squad.prepare(_task(kind), asked).outputs] == ["predictions.json", "na_prob.json"]
    answers, absent = map(json.loads, squad.prepare(_task(kind), asked).texts(predictions))
    raw, ours = _squad(_GOLD, answers), kind.score(predictions, rows)
    assert answers == {"q1": "a red lamp!", "q2": "1999", "q3": "", "q4": "blue", "q5": ""}
    assert _mean(raw["exact"]) == ours["exact_match"] == 2 / 5
    assert _mean(raw["f1"]) == pytest.approx(ours["f1"]) and ours["f1"] == pytest.approx((1 + 2 / 3 + 1) / 5)
    has_answer = {own: value for own, value in raw["f1"].items() if _GOLD[own]}
    assert ours["has_answer_f1"] == pytest.approx(_mean(has_answer)) and ours["no_answer_accuracy"] == 0.5
    assert [absent[own] > 0.5 for own in absent] == [answer == "" for answer in answers.values()]


def test_the_best_threshold_is_the_official_script_s() -> None:
    asked, rows = _squad_asked(_GOLD)
    kind = QuestionAnswering(allow_no_answer=True)
    everything = with_threshold(list(_SAID.values()), 99.0)  # the script moves the threshold over answers, not blanks
    answers, absent = map(json.loads, squad.prepare(_task(kind), asked).texts(everything))
    raw = _squad(_GOLD, answers)
    # From the least probable on: q1 +1, q2 +2/3, q4 -1, q5 +1, q3 -1; two are right without any answer.
    assert _best(_GOLD, answers, raw["f1"], absent) == pytest.approx((2 + 1 + 2 / 3 - 1 + 1) / 5)
    fitted = with_threshold(everything, best_threshold(everything, rows))
    assert kind.score(fitted, rows)["f1"] == pytest.approx(_best(_GOLD, answers, raw["f1"], absent))
    assert _best(_GOLD, answers, raw["exact"], absent) == pytest.approx((2 + 1) / 5)


_WORDS = [["EU", "rejects", "New  York"], ["Bern", "in", "May", "."]]
_RIGHT = [["B-ORG", "O", "B-LOC"], ["B-LOC", "O", "B-DATE", "O"]]


@pytest.mark.parametrize(
    ("tags", "counts", "ours"),
    [
        ([["B-ORG", "O", "B-LOC"], ["B-LOC", "O", "B-DATE", "O"]], (4, 4, 4), 1.0),
        ([["B-ORG", "I-ORG", "B-LOC"], ["B-PER", "O", "O", "O"]], (4, 3, 1), 2 / 7),
        ([["O", "O", "O"], ["B-LOC", "I-LOC", "B-LOC", "O"]], (4, 2, 0), 0.0),
    ],
)
def test_entities_are_scored_as_conlleval_does(
    tags: list[list[str]], counts: tuple[int, int, int], ours: float
) -> None:
    text = conll.columns(_WORDS, tags, _RIGHT)
    assert _conlleval(text) == counts
    assert metrics.entity_f1(tags, _RIGHT)["f1"] == pytest.approx(_f1(*counts)) and _f1(*counts) == pytest.approx(ours)
    assert [len(line.split(" ")) for line in text.splitlines() if line] == [3] * 7


def test_an_inside_after_outside_begins_a_chunk_for_conlleval_and_so_do_predictions() -> None:
    from ptuning.data.spans import iob1_to_bio

    said = [["I-ORG", "O", "I-LOC"], ["B-PER", "I-LOC", "O", "O"]]
    text = conll.columns(_WORDS, said, _RIGHT)
    assert _conlleval(text) == (4, 4, 2)
    assert metrics.entity_f1(said, _RIGHT)["f1"] == 0.0  # strict, as it is given
    valid = [iob1_to_bio(tags) for tags in said]  # what a kind predicts
    assert metrics.entity_f1(valid, _RIGHT)["f1"] == pytest.approx(_f1(*_conlleval(text)))
    assert _conlleval(conll.columns(_WORDS, valid, _RIGHT)) == (4, 4, 2)


_SENTENCE = ["He", "took", "it", "up", "and", "said", "so"]
_ROWS = [
    {"tokens": _SENTENCE, "predicate_index": 5},
    {"tokens": _SENTENCE, "predicate_index": 1},
    {"tokens": ["Go", "now"], "predicate_index": 0},
    {"tokens": ["Go", "now"], "predicate_index": 0},
]
_ROLES = [
    ["B-A0", "O", "O", "O", "O", "B-V", "B-A1"],
    ["B-A0", "B-V", "B-A1", "B-C-V", "O", "O", "O"],
    ["B-V", "B-AM-TMP"],
    ["B-V", "B-AM-TMP"],
]
_PREDICTED = [
    ["B-A0", "I-A0", "O", "O", "O", "B-V", "B-A1"],
    ["B-A0", "B-V", "B-A1", "B-C-A1", "O", "O", "O"],
    ["B-V", "B-AM-TMP"],
    ["B-V", "O"],
]


def test_roles_are_scored_as_srl_eval_does() -> None:
    verbs = ["say", "take", "go", "go"]
    gold, said = (conll.props(_ROWS, verbs, tags) for tags in (_ROLES, _PREDICTED))
    counts = _srl_eval(gold, said)
    assert counts == (6, 5, 3)  # A0 of said is too long, A1 of took has a piece too many, one AM-TMP is missing
    assert metrics.role_f1(_PREDICTED, _ROLES)["f1"] == pytest.approx(_f1(*counts))
    assert metrics.role_f1(_ROLES, _ROLES)["f1"] == 1.0 == _f1(*_srl_eval(gold, gold))


def test_props_have_a_column_a_predicate_in_the_order_of_the_sentence() -> None:
    text = conll.props(_ROWS, ["say", "take", "go", "go"], _ROLES)
    first, second, third = text.strip("\n").split("\n\n")
    assert first.split("\n") == [
        "- (A0*) (A0*)",
        "take (V*) *",
        "- (A1*) *",
        "- (C-V*) *",
        "- * *",
        "say * (V*)",
        "- * (A1*)",
    ]
    assert second == third == "go (V*)\n- (AM-TMP*)"
    assert conll.props([], [], []) == "" == conll.columns([], [], None)


def test_props_are_read_back_as_they_were() -> None:
    from ptuning.data.props import read_props

    text = conll.props(_ROWS[:2], ["say", "take"], _PREDICTED[:2])
    lines = text.strip("\n").split("\n")
    pasted = "\n".join(f"{word} {line}" for word, line in zip(_SENTENCE, lines, strict=True)) + "\n"
    records = read_props(pasted.encode(), "x").records
    assert [(r["predicate_index"], r["predicate"], r["tags"]) for r in records] == [
        (1, "take", _PREDICTED[1]),
        (5, "say", _PREDICTED[0]),
    ]
