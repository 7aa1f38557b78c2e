from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptuning.data.formats import Table, table_of
from ptuning.data.labels import (
    check_tags_are_known,
    check_tags_are_strings,
    checked_names,
    info_label_names,
    name_labels,
    name_tags,
    number_choices,
    seen_label_names,
    seen_tag_names,
    shown,
)
from ptuning.errors import DataError


def _labelled(*labels: Any) -> tuple[list[dict[str, Any]], Table]:
    rows = [{"text": "a", "label": label} for label in labels]
    return rows, table_of("x", rows)


def _tagged(*tags: list[Any]) -> tuple[list[dict[str, Any]], Table]:
    rows = [{"tokens": ["a"] * len(own), "tags": own} for own in tags]
    return rows, table_of("x", rows)


def _named(names: tuple[str, ...], *labels: Any, from_classes: bool = False) -> list[str]:
    rows, table = _labelled(*labels)
    name_labels({"train": (rows, table)}, names, from_classes=from_classes, source="data.labels")
    return [row["label"] for row in rows]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 9, -1], ("-1", "9", "10")),
        (["10", "9"], ("9", "10")),
        ([True, False], ("False", "True")),
        (["1", "a"], ("1", "a")),
        (["pos", " pos", "neg\t"], ("neg", "pos")),
        (["1", "9" * 5000], ("1", "9" * 5000)),  # more digits than Python reads as a number
    ],
)
def test_names_are_the_sorted_values(labels: list[Any], names: tuple[str, ...]) -> None:
    assert seen_label_names(*_labelled(*labels)) == names


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", "a"], "x: the only label is 'a'. Expected at least two classes; name all of them in data.labels"),
        ([1.5, 2.5], "x row 1: the label is 1.5, a floating-point number. Expected a class .*use the kind regression"),
        ([float("nan"), 1], "the label is nan, a floating-point number"),
        (["1.5", "2.0"], "x: the labels are numbers, such as 1.5, but not whole ones.*use the kind regression"),
        (["a", ["b"]], r"x row 2: the label is \['b'\] \(list\). Expected one class, a string or whole number"),
        (["a", " "], "x row 2: the label is empty, expected a class. Fill it in or remove the row"),
    ],
)
def test_values_that_are_no_classes_are_refused(labels: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        seen_label_names(*_labelled(*labels))


def test_numbers_are_places_unless_all_of_them_are_names() -> None:
    assert _named(("no", "yes"), 0, 1, "yes", True) == ["no", "yes", "yes", "yes"]
    assert _named(("no", "yes"), "1", "0", " 1") == ["yes", "no", "yes"]
    assert _named(("1", "2"), 1, 2) == ["1", "2"]
    assert _named(("1", "2"), 0, 1) == ["1", "2"]
    assert _named(("1", "2"), 0, 1, from_classes=True) == ["1", "2"]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (
            "nop",
            "x row 1: the label 'nop' is not among the 2 label names of data.labels: no, yes. Did you mean 'no'. Corr",
        ),
        (2, "the label 2 is not among the 2 label names .* Correct the row, or give all names in data.labels"),
        (-1, "the label -1 is not among"),
        ("9" * 5000, r"the label '9{59}\.\.\. is not among"),
        (1.0, "the label is 1.0, a floating-point number"),
    ],
)
def test_unknown_labels_are_refused_with_the_nearest_name(label: Any, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("mean 'no'.", r"mean 'no'\?")):
        _named(("no", "yes"), label)


def test_blanks_around_labels_do_not_count() -> None:
    assert _named(("no", "yes"), " yes", "no\n") == ["yes", "no"]
    assert _named((" no", "yes"), " no") == [" no"]


def test_rows_without_label_are_left_alone() -> None:
    rows = [{"text": "a"}]
    name_labels({"test": (rows, table_of("x", rows))}, ("a", "b"), from_classes=False, source="")
    assert rows == [{"text": "a"}]


@pytest.mark.parametrize("names", ["ab", [], ["a"], ["a", "a"], ["a", 1], ["a", ""], None, {"a": 1}])
def test_label_names_are_at_least_two_different_strings(names: Any) -> None:
    with pytest.raises(
        DataError, match=r"data.labels is .*\. Expected a list of at least two different strings, one a"
    ):
        checked_names(names, "data.labels")


def test_names_are_read_from_a_file_beside_the_data(tmp_path: Path) -> None:
    assert info_label_names(tmp_path, "label") is None
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps({"label_names": ["no", "yes"]}))
    assert info_label_names(tmp_path, "label") == ("no", "yes")
    path.write_text(json.dumps({"features": {"label": {"names": ["n", "y"], "_type": "ClassLabel"}}}))
    assert info_label_names(tmp_path, "label") == ("n", "y")
    assert info_label_names(tmp_path, "other") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", 'cannot be read as JSON .* Expected {"label_names": .*; correct it or move it away'),
        ("[]", "holds no JSON object"),
        ('{"label_names": "no"}', "label_names in .*dataset_info.json is 'no'. Expected a list"),
    ],
)
def test_a_broken_file_of_names_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(DataError, match=words):
        info_label_names(tmp_path, "label")


def test_tags_are_sorted_behind_o() -> None:
    train, _ = _tagged(["B-Y", "B-X"], ["I-X"])
    other, _ = _tagged(["B-X", "I-Y", "B-Z", "O"])
    assert seen_tag_names(train, [], "x") == ("O", "B-X", "B-Y", "I-X")
    # I-Y is rare; a whole type that train never shows is an error that is found later.
    assert seen_tag_names(train, [other, [{"tokens": ["a"]}]], "x") == ("O", "B-X", "B-Y", "I-X", "I-Y")


def test_tags_without_any_entity_are_refused() -> None:
    with pytest.raises(DataError, match="x: every tag is O. Expected entities, as B-TYPE and I-TYPE; name all tags in"):
        seen_tag_names(_tagged(["O", "O"])[0], [], "x")


def test_tags_that_are_numbers_become_names() -> None:
    rows, table = _tagged([1, 0, "B-X"])
    name_tags({"train": (rows, table)}, ("O", "B-X"), source="data.labels")
    assert rows[0]["tags"] == ["B-X", "O", "B-X"]


def test_tags_without_meaning_are_refused() -> None:
    for tag in (2, -1):
        with pytest.raises(
            DataError, match=f"x row 1: the tag {tag} is not among the 2 label names of data.labels: O, B"
        ):
            name_tags({"train": _tagged([tag])}, ("O", "B-X"), source="data.labels")
    with pytest.raises(DataError, match="data.labels: 'PER' is no BIO tag. Expected O, B-TYPE or I-TYPE for each tag"):
        name_tags({"train": _tagged(["O"])}, ("O", "PER"), source="data.labels")
    with pytest.raises(
        DataError, match="x row 1: the tag 3 is not a string. Expected .*numbers need their names, in data"
    ):
        check_tags_are_strings({"train": _tagged([3])})
    with pytest.raises(
        DataError, match="the tag 'B-Z' is not among the 2 label names of train: O, B-X. Did you mean 'B-X"
    ):
        check_tags_are_known({"train": _tagged(["B-Z"])}, ("O", "B-X"), source="train")


def _choice(label: Any, names: tuple[str, ...] | None = None) -> Any:
    rows = [{"text": "q", "choices": ["a", "b"], "label": label}]
    number_choices({"train": (rows, table_of("x", rows))}, ["choice1", "choice2"], names)
    return rows[0]["label"]


def test_right_choices_are_numbers_columns_or_names() -> None:
    assert [_choice(label) for label in (0, 1, "1", "choice1", "choice2")] == [0, 1, 1, 0, 1]
    assert _choice("second", ("first", "second")) == 1


@pytest.mark.parametrize("label", [2, -1, 1.0, True, "a", "9" * 5000, None])
def test_right_choices_outside_are_refused(label: Any) -> None:
    with pytest.raises(
        DataError, match="but the row has 2 choices. Expected the number of the right one, from 0 to 1. Cor"
    ):
        _choice(label)


def test_at_most_ten_names_are_shown() -> None:
    assert shown([str(number) for number in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
