from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ptuning import metrics
from ptuning.errors import DataError

CAT, DOG, EEL = "cat", "dog", "eel"


def test_accuracy_is_the_part_of_equal_predictions() -> None:
    assert metrics.accuracy(["a", "b", "c", "a"], ["a", "b", "a", "a"]) == {"accuracy": 0.75}
    assert metrics.accuracy([1, 0], [0, 1]) == {"accuracy": 0.0}
    many = [str(number) for number in range(50)]
    assert metrics.accuracy(many, many) == {"accuracy": 1.0}


def test_binary_f1_is_of_the_second_name() -> None:
    predictions, references = [DOG, DOG, CAT, CAT, DOG], [DOG, CAT, DOG, CAT, DOG]
    # 2 right of 3 predicted, 2 found of 3: F1 is 2/3.
    assert metrics.f1(predictions, references, [CAT, DOG]) == {"f1": pytest.approx(2 / 3)}
    # The other one: 1 right of 2 predicted, 1 found of 2.
    assert metrics.f1(predictions, references, [DOG, CAT]) == {"f1": pytest.approx(1 / 2)}
    assert metrics.f1(["1", "0"], ["1", "0"], ["0", "1"]) == {"f1": 1.0}


def test_macro_f1_is_the_mean_over_the_classes_that_occur() -> None:
    predictions, references = [CAT, CAT, DOG, DOG], [CAT, DOG, DOG, DOG]
    # cat: precision 1/2, recall 1: 2/3; dog: precision 1, recall 2/3: 4/5; eel occurs nowhere.
    expected = (2 / 3 + 4 / 5) / 2
    assert metrics.f1(predictions, references, [CAT, DOG, EEL], average="macro") == {
        "f1_macro": pytest.approx(expected)
    }
    # eel is predicted once and never right.
    assert metrics.f1([*predictions, EEL], [*references, CAT], [CAT, DOG, EEL], average="macro") == {
        "f1_macro": pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    }


def test_micro_f1_equals_accuracy_when_every_row_has_one_class() -> None:
    predictions, references = [CAT, CAT, DOG, EEL], [CAT, DOG, DOG, CAT]
    assert metrics.f1(predictions, references, [CAT, DOG, EEL], average="micro") == {"f1_micro": 0.5}


def test_f1_of_a_class_that_is_nowhere_is_zero() -> None:
    assert metrics.f1([CAT, CAT], [CAT, CAT], [CAT, DOG]) == {"f1": 0.0}


def test_matthews_by_hand() -> None:
    predictions, references = [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1]
    # TP 2, TN 2, FP 1, FN 1: (4 - 1) / sqrt(3 * 3 * 3 * 3) = 1/3.
    assert metrics.matthews(predictions, references) == {"matthews": pytest.approx(1 / 3)}
    assert metrics.matthews(["b", "a"], ["a", "b"]) == {"matthews": -1.0}
    assert metrics.matthews([1, 1, 1], [0, 1, 0]) == {"matthews": 0.0}
    assert metrics.matthews([0, 1], [0, 0]) == {"matthews": 0.0}


def test_a_group_is_right_if_all_its_members_are() -> None:
    # Of the questions a (both right), b (one of two), c (right): 2 of 3. Members need not stand together.
    predictions, references = [1, 0, 0, 1, 1], [1, 0, 1, 1, 1]
    assert metrics.group_exact_match(predictions, references, ["a", "b", "b", "a", "c"]) == {
        "exact_match": pytest.approx(2 / 3)
    }
    assert metrics.group_exact_match([0], [1], ["a"]) == {"exact_match": 0.0}


def test_pearson_by_hand() -> None:
    # Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): 3 / sqrt(2 * 42/9).
    assert metrics.pearson([1, 2, 3], [1, 2, 4]) == {"pearson": pytest.approx(3 / math.sqrt(2 * 42 / 9))}
    assert metrics.pearson([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]) == {"pearson": pytest.approx(-1.0)}


def test_spearman_sees_ranks_only_and_shares_ties() -> None:
    assert metrics.spearman([1, 2, 1000], [1, 5, 6]) == {"spearman": pytest.approx(1.0)}
    # Ranks 1, 2.5, 2.5 against 1, 2, 3: sqrt(3) / 2.
    assert metrics.spearman([1, 2, 2], [1, 2, 3]) == {"spearman": pytest.approx(math.sqrt(3) / 2)}


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_correlations_with_constants_or_infinities_are_zero(values: list[float]) -> None:
    assert metrics.pearson(values, [1.0, 2.0, 3.0]) == {"pearson": 0.0}
    assert metrics.spearman([1.0, 2.0, 3.0], values) == {"spearman": 0.0}
    assert metrics.pearson([1.0], [2.0]) == {"pearson": 0.0}


def test_correlations_of_nearly_constant_and_of_huge_values_warn_of_nothing() -> None:
    assert -1.0 <= metrics.pearson([1.0, 1.0 + 1e-15, 1.0], [1.0, 2.0, 3.0])["pearson"] <= 1.0
    assert math.isfinite(metrics.pearson([1e300, -1e300, 1e300], [1.0, 2.0, 3.0])["pearson"])


def _tags(*sentences: str) -> list[list[str]]:
    return [sentence.split() for sentence in sentences]


@pytest.mark.parametrize(
    ("predictions", "references", "precision", "recall"),
    [
        (_tags("B-X I-X O", "B-Y"), _tags("B-X I-X O", "B-Y"), 1, 1),
        (_tags("B-X O O"), _tags("B-X I-X O"), 0, 0),  # one end is wrong
        (_tags("B-Y I-Y O"), _tags("B-X I-X O"), 0, 0),  # the type is wrong
        (_tags("B-X I-X B-Y"), _tags("B-X I-X O"), 1 / 2, 1),
        (_tags("B-X O O", "O O"), _tags("B-X O B-Y", "B-X I-X"), 1, 1 / 3),
        (_tags("B-X B-X"), _tags("B-X I-X"), 0, 0),
        (_tags("I-X I-X"), _tags("B-X I-X"), 0, 0),  # strict: no B-, no entity
        (_tags("B-X I-Y"), _tags("B-X B-Y"), 1, 1 / 2),  # the I-Y belongs to nothing
        (_tags("B-a-b I-a-b"), _tags("B-a-b I-a-b"), 1, 1),
        (_tags("O O"), _tags("B-X O"), 0, 0),
        (_tags("B-X O"), _tags("O O"), 0, 0),
        (_tags("O O"), _tags("O O"), 0, 0),
    ],
)
def test_entities_count_if_type_and_both_ends_are_right(
    predictions: list[list[str]], references: list[list[str]], precision: float, recall: float
) -> None:
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert metrics.entity_f1(predictions, references) == {
        "precision": pytest.approx(precision),
        "recall": pytest.approx(recall),
        "f1": pytest.approx(f1),
    }


@pytest.mark.parametrize(
    ("prediction", "reference", "correct", "predicted", "expected"),
    [
        ("B-A0 B-V B-A1 I-A1", "B-A0 B-V B-A1 I-A1", 2, 2, 2),  # V is not counted
        ("O B-A0 B-V", "O B-A1 B-V", 0, 1, 1),  # the role is wrong
        ("B-A1 O B-V", "B-A1 I-A1 B-V", 0, 1, 1),  # the end is wrong
        ("B-A0 B-A1 O", "B-A0 B-V B-A1", 1, 2, 2),  # an argument where the predicate is
        ("B-A1 B-V B-C-A1", "B-A1 B-V B-C-A1", 1, 1, 1),  # one argument in two pieces
        ("B-A1 B-V O", "B-A1 B-V B-C-A1", 0, 1, 1),  # a piece is missing
        ("B-A1 B-V B-C-A1", "B-A1 B-V O", 0, 1, 1),
        ("B-A1 B-V B-A1", "B-A1 B-V B-C-A1", 0, 2, 1),  # two arguments are not one in two pieces
        ("B-A1 B-C-A1 I-C-A1 O", "B-A1 B-C-A1 O I-C-A1", 0, 1, 1),
        ("B-C-A1 B-V O", "B-A1 B-V O", 1, 1, 1),  # nothing to continue: an argument of its own
        ("B-C-A1 B-V B-A1", "B-A1 B-V B-C-A1", 0, 2, 1),  # a continuation only goes back
        ("B-A1 B-A1 B-C-A1", "B-A1 B-A1 B-C-A1", 2, 2, 2),  # it continues the last one
        ("B-A0 B-V B-C-A1", "B-A0 B-V B-C-A1", 2, 2, 2),
        ("B-A0 B-V B-C-V", "B-A0 B-V O", 1, 1, 1),  # C-V is the predicate's
        ("B-R-A0 B-V O", "B-A0 B-V O", 0, 1, 1),  # R-A0 is another role
        ("I-A0 I-A0 B-V", "B-A0 I-A0 B-V", 1, 1, 1),
        ("O B-V O", "O B-V O", 0, 0, 0),
    ],
)
def test_arguments_count_as_in_conll_2005(
    prediction: str, reference: str, correct: int, predicted: int, expected: int
) -> None:
    precision = correct / predicted if predicted else 0.0
    recall = correct / expected if expected else 0.0
    f1 = 2 * correct / (predicted + expected) if correct else 0.0
    scores = {"precision": precision, "recall": recall, "f1": pytest.approx(f1)}
    assert metrics.role_f1(_tags(prediction), _tags(reference)) == scores


def test_arguments_are_counted_over_all_predicates_together() -> None:
    predictions, references = _tags("B-A0 B-V B-A1", "B-V O"), _tags("B-A0 B-V B-A2", "B-V B-A1")
    # 1 right of 2 predicted, of 3 that are there.
    scores = metrics.role_f1(predictions, references)
    assert scores == {"precision": 1 / 2, "recall": pytest.approx(1 / 3), "f1": pytest.approx(2 / 5)}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Blue, lamp!", "blue lamp"),
        ("an  apple a day", "apple day"),
        ("Theatre", "theatre"),  # an article only as a word
        ("U.S.A.", "usa"),
        ("well-known", "wellknown"),
        ("«the» — ½", "« » — ½"),  # punctuation is that of ASCII, as in the official scripts
        ("The", ""),
        ("\tA\n", ""),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(text: str, normal: str) -> None:
    assert metrics.normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("the Eiffel Tower.", ["Eiffel tower"], 1, 1),
        ("Eiffel Tower in Paris", ["Eiffel Tower"], 0, 2 * 2 / (4 + 2)),
        ("tower", ["Eiffel Tower"], 0, 2 * 1 / (1 + 2)),
        ("Rome", ["Paris"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("in Paris", ["the city of Paris", "Paris"], 0, 2 * 1 / (2 + 1)),  # the best of several golds
        ("blue", ["red", "Blue"], 1, 1),
        ("new new york", ["new york york"], 0, 2 * 2 / (3 + 3)),  # words count as often as they stand in both
        ("the", ["a"], 1, 1),  # nothing is left of either
        ("x", ["a"], 0, 0),
    ],
)
def test_exact_match_and_f1_of_squad_1(prediction: str, golds: list[str], exact: float, f1: float) -> None:
    scores = metrics.squad_em_f1({"1": prediction}, {"1": golds})
    assert scores == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_exact_match_and_f1_of_squad_2() -> None:
    references = {"1": ["blue"], "2": [], "3": ["red lamp"], "4": []}
    predictions = {"1": "blue", "2": "", "3": "lamp", "4": "green", "5": "not asked"}
    assert metrics.squad_em_f1(predictions, references) == {
        "exact_match": 2 / 4,
        "f1": pytest.approx((1 + 1 + 2 / 3 + 0) / 4),
        "no_answer_accuracy": 1 / 2,
        "has_answer_exact_match": 1 / 2,
        "has_answer_f1": pytest.approx((1 + 2 / 3) / 2),
    }
    assert metrics.squad_em_f1({"1": "the"}, {"1": []}) == {
        "exact_match": 1.0,  # as in the official script: nothing is left of "the"
        "f1": 1.0,
        "no_answer_accuracy": 1.0,
    }


def test_the_average_is_over_questions_not_over_answers() -> None:
    scores = metrics.squad_em_f1({"1": "a b", "2": "c"}, {"1": ["x", "y", "b"], "2": ["c"]})
    assert scores == {"exact_match": 1.0, "f1": 1.0}


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (
            lambda: metrics.accuracy([], []),
            "got 0 predictions for 0 references, expected as many and at least one. Predi",
        ),
        (lambda: metrics.pearson([1.0], [1.0, 2.0]), "got 1 predictions for 2 references"),
        (lambda: metrics.group_exact_match([], [], []), "got 0 predictions for 0 references"),
        (lambda: metrics.group_exact_match([1], [1], []), "got 0 groups for 1 references, expected as many. Name the"),
        (
            lambda: metrics.f1([CAT], [CAT], [CAT]),
            r"binary F1 needs two classes, got 1 \(cat\). Use average macro or micro",
        ),
        (
            lambda: metrics.f1([CAT], [DOG], [CAT, EEL]),
            "got the class 'dog', expected one of cat, eel. Pass all classes as",
        ),
        (lambda: metrics.f1([CAT], [DOG], [EEL], average="macro"), "got the class 'cat', expected one of eel"),
        (
            lambda: metrics.entity_f1(_tags("O"), _tags("O O")),
            "sentence 0 has 1 predicted tags, expected 2. Predict one",
        ),
        (
            lambda: metrics.entity_f1(_tags("E-X"), _tags("O")),
            "sentence 0 has the tag 'E-X', expected O, B-TYPE or I-TYPE",
        ),
        (lambda: metrics.entity_f1([], []), "got 0 predictions"),
        (lambda: metrics.role_f1(_tags("O"), _tags("O O")), "sentence 0 has 1 predicted tags, expected 2"),
        (lambda: metrics.role_f1(_tags("A0"), _tags("O")), "sentence 0 has the tag 'A0', expected O, B-TYPE"),
        (lambda: metrics.squad_em_f1({}, {}), "got no questions, expected at least one. Check the data"),
        (
            lambda: metrics.squad_em_f1({}, {"7": []}),
            "1 questions have no prediction, such as '7'. Expected one for every",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(score: Callable[[], Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        score()
