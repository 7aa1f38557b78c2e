from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.data import load_data, load_rows, rows_from_records
from ptuning.data.sources import HeldOut
from ptuning.errors import DataError

Folder = Callable[[dict[str, Any]], Path]

ROWS = [{"text": f"row {number}", "label": "yes" if number % 3 else "no"} for number in range(20)]
OTHER = [{"text": "else", "label": "no"}]


def test_every_split_is_read_and_other_files_are_ignored(folder: Folder) -> None:
    path = folder({"train.jsonl": ROWS, "DEV.csv": "text,label\na,yes\n", "test.jsonl": OTHER, "notes.csv": "x"})
    data = load_data(path, kind="classification")
    assert data.train == ROWS
    assert data.validation == [{"text": "a", "label": "yes"}]
    assert data.test == OTHER
    assert data.label_names == ("no", "yes")
    assert data.columns == {"text": "text", "label": "label"}
    assert data.source == str(path) and data.notes == ()


def test_rows_are_held_out_by_seed_where_there_is_no_validation_file(folder: Folder) -> None:
    path = folder({"train.jsonl": ROWS})
    data = load_data(path, kind="classification", development_fraction=0.25)
    assert data.train is not None and data.validation is not None
    assert (len(data.train), len(data.validation)) == (15, 5)
    assert sorted([*data.train, *data.validation], key=lambda row: int(row["text"][4:])) == ROWS
    assert data.notes == (
        "No validation file: 5 of 20 train rows (development_fraction 0.25, seed 11) held out for validation.",
    )
    assert load_data(path, kind="classification", development_fraction=0.25) == data
    other = load_data(path, kind="classification", development_fraction=0.25, seed=12)
    assert other.validation != data.validation


@pytest.mark.parametrize(("fraction", "held_out"), [(1e-9, 1), (0.999, 19)])
def test_both_splits_keep_a_row_at_extreme_fractions(folder: Folder, fraction: float, held_out: int) -> None:
    data = load_data(folder({"train.jsonl": ROWS}), kind="classification", development_fraction=fraction)
    assert data.validation is not None and len(data.validation) == held_out
    assert data.train is not None and len(data.train) == 20 - held_out


def test_evaluation_holds_out_the_same_rows_as_training(folder: Folder) -> None:
    path = folder({"train.jsonl": ROWS})
    alone = load_data(path, kind="classification", splits={"validation"})
    assert alone.train is None
    assert alone.validation == load_data(path, kind="classification").validation


def test_limits_draw_rows_by_seed(folder: Folder) -> None:
    path = folder({"train.jsonl": ROWS, "validation.jsonl": [*OTHER, *ROWS]})
    data = load_data(path, kind="classification", max_train_rows=4, max_validation_rows=6)
    assert data.train is not None and len(data.train) == 4 and all(row in ROWS for row in data.train)
    assert data.validation is not None and len(data.validation) == 6
    assert data.validation == [row for row in [*OTHER, *ROWS] if row in data.validation]  # in the order of the file
    again = [
        load_data(path, kind="classification", max_validation_rows=6, seed=seed, splits=["validation"]).validation
        for seed in (11, 12)
    ]
    assert again[0] == data.validation != again[1]
    assert "train: 4 of 20 rows used (max_train_rows, seed 11)." in data.notes
    assert "validation: 6 of 21 rows used (max_validation_rows, seed 11)." in data.notes
    assert load_data(path, kind="classification", max_train_rows=99, max_validation_rows=99).train == ROWS


def test_a_limit_on_sorted_validation_rows_keeps_every_class(folder: Folder) -> None:
    rows = sorted(ROWS, key=lambda row: row["label"])
    path = folder({"train.jsonl": ROWS, "validation.jsonl": rows})
    validation = load_data(path, kind="classification", max_validation_rows=7).validation
    assert validation is not None and {row["label"] for row in validation} == {"no", "yes"}


def test_it_is_said_how_rows_were_held_out(folder: Folder) -> None:
    path = folder({"train.jsonl": ROWS})
    data = load_data(path, kind="classification", development_fraction=0.25, seed=4)
    assert data.held_out == HeldOut(4, 0.25)
    assert load_data(path, kind="classification", splits=["train"]).held_out is None
    assert load_data(folder({"train.jsonl": ROWS, "dev.jsonl": OTHER}), kind="classification").held_out is None


@pytest.mark.parametrize("labels", [["1", "2"], None])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_label_means_in_one_split_alone_what_it_means_among_all(
    split: Any, labels: list[str] | None, folder: Folder
) -> None:
    rows = [{"text": f"t{number}", "label": number % 2} for number in range(6)]
    files = {"train.jsonl": rows, "validation.jsonl": rows[1::2], "test.jsonl": rows[1::2]}
    path = folder({**files, "dataset_info.json": '{"label_names": ["1", "2"]}'})
    every = load_data(path, kind="classification", labels=labels)
    alone = load_data(path, kind="classification", labels=labels, splits=[split])
    assert getattr(alone, split) == getattr(every, split)
    assert {row["label"] for row in getattr(alone, split)} == ({"1", "2"} if split == "train" else {"2"})


def test_a_test_split_without_labels_does_not_decide_what_numbers_are(folder: Folder) -> None:
    rows = [{"text": f"t{number}", "label": 1 + number % 2} for number in range(6)]
    path = folder({"train.jsonl": rows, "dev.jsonl": rows, "test.jsonl": [{"text": "a", "label": -1}]})
    for splits in (None, ["validation"]):
        validation = load_data(path, kind="classification", labels=["1", "2"], splits=splits).validation
        assert validation is not None and [row["label"] for row in validation] == ["1", "2"] * 3


def test_repeated_and_missing_labels_are_said(folder: Folder) -> None:
    path = folder({"train.jsonl": ROWS, "validation.jsonl": [ROWS[0], *OTHER]})
    data = load_data(path, kind="classification", labels=["yes", "no", "maybe"])
    assert data.notes == (
        "No train row has the label maybe.",
        "1 of 2 validation rows stand in train too, word for word.",
    )


def test_a_class_that_is_held_out_altogether_is_said(folder: Folder) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    data = load_data(folder({"train.jsonl": rows}), kind="classification")
    assert data.validation is not None
    assert f"No train row has the label {data.validation[0]['label']}." in data.notes


def test_label_names_come_from_the_config_the_info_file_or_the_values(folder: Folder) -> None:
    numbers = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    files = {"train.jsonl": numbers, "validation.jsonl": numbers}
    info = '{"label_names": ["bad", "good"]}'
    assert load_data(folder(files), kind="classification").label_names == ("0", "1")
    named = load_data(folder({**files, "dataset_info.json": info}), kind="classification")
    assert named.label_names == ("bad", "good")
    assert named.train == [{"text": "a", "label": "bad"}, {"text": "b", "label": "good"}]
    given = load_data(folder({**files, "dataset_info.json": info}), kind="classification", labels=["n", "p"])
    assert given.label_names == ("n", "p")


def test_test_rows_may_come_without_labels(folder: Folder) -> None:
    for test, note in (
        ([{"text": "x"}], ()),
        ([{"text": "x", "label": None}], ()),
        ([{"text": "x", "label": -1}], ("test: every label is -1, so its rows are taken as unlabelled.",)),
    ):
        path = folder({"train.jsonl": ROWS, "validation.jsonl": OTHER, "test.jsonl": test})
        data = load_data(path, kind="classification")
        assert data.test == [{"text": "x"}]
        assert data.notes == note


def test_columns_of_the_config_are_read(folder: Folder) -> None:
    path = folder({"train.csv": "title,body,team\na,b,x\nc,d,y\n"})
    data = load_data(path, kind="classification", columns={"text": "body", "label": "team"})
    assert data.columns == {"text": "body", "label": "team"}
    assert data.train is not None and data.train[0].keys() == {"text", "label"}


def test_regression_and_pairs(folder: Folder) -> None:
    path = folder(
        {
            "train.csv": "sentence1,sentence2,label\na,b,1.5\nc,d,2\n",
            "validation.csv": "sentence1,sentence2,label\ne,f,0\n",
        }
    )
    data = load_data(path, kind="regression")
    assert data.train == [
        {"text": "a", "text_pair": "b", "label": 1.5},
        {"text": "c", "text_pair": "d", "label": 2.0},
    ]
    assert data.label_names is None


def test_choices_may_differ_in_number(folder: Folder) -> None:
    rows = [{"text": "q", "choices": ["a", "b"], "label": 0}, {"text": "r", "choices": ["a", "b", "c"], "label": 2}]
    data = load_data(folder({"train.jsonl": rows, "validation.jsonl": rows[:1]}), kind="multiple_choice")
    assert data.train == rows and data.label_names is None


def test_iob1_files_are_converted_and_said(folder: Folder) -> None:
    path = folder({"train.conll": "a I-X\nb I-X\nc B-X\n\nd O\n", "dev.conll": "a B-X\nb I-X\n"})
    data = load_data(path, kind="token_classification")
    assert data.train == [{"tokens": ["a", "b", "c"], "tags": ["B-X", "I-X", "B-X"]}, {"tokens": ["d"], "tags": ["O"]}]
    assert data.label_names == ("O", "B-X", "I-X")
    assert data.notes == ("train: the tags are IOB1 and were converted to BIO (every entity begins with B-).",)


def test_roles_that_train_has_not_are_known_from_other_splits_or_said_to_be_missed(folder: Folder) -> None:
    seen, rare = ({"tokens": ["he", "ran"], "predicate_index": 1, "tags": [tag, "B-V"]} for tag in ("B-A0", "B-A5"))
    path = folder({"train.jsonl": [seen], "test.jsonl": [rare]})
    assert load_data(path, kind="semantic_role_labeling", development_fraction=0.5, splits=["train"]).label_names == (
        "O",
        "B-A0",
        "B-V",
    )
    path = folder({"train.jsonl": [seen], "validation.jsonl": [seen], "test.jsonl": [rare]})
    assert load_data(path, kind="semantic_role_labeling").label_names == ("O", "B-A0", "B-A5", "B-V")
    names = ["O", "B-A0", "B-V"]
    data = load_data(path, kind="semantic_role_labeling", labels=names, splits=["test"])
    assert data.test == [rare]
    assert data.notes == ("test: B-A5 cannot be predicted, being no label names of data.labels.",)
    with pytest.raises(DataError, match="the tag 'B-A0' is not among the 2 label names of data.labels"):
        load_data(path, kind="semantic_role_labeling", labels=["O", "B-V"])


def test_broken_roles_are_not_converted(folder: Folder) -> None:
    row = {"tokens": ["he", "ran"], "predicate_index": 1, "tags": ["I-A0", "B-V"]}
    with pytest.raises(DataError, match="tag 'I-A0' of word 1 .'he'. begins the sentence.*Correct the tag"):
        load_data(folder({"train.jsonl": [row, row]}), kind="semantic_role_labeling")


def test_o_is_a_tag_even_if_every_word_is_in_an_entity(folder: Folder) -> None:
    path = folder({"train.bio": "a B-X\n\nb B-X\n"})
    assert load_data(path, kind="token_classification").label_names == ("O", "B-X")


def test_squad_files_are_loaded(folder: Folder) -> None:
    squad = (
        '{"data": [{"paragraphs": [{"context": "the blue lamp", "qas": [{"id": "1", "question": "which?", '
        '"answers": [{"text": "blue", "answer_start": 4}]}, {"id": "2", "question": "who?", "answers": []}]}]}]}'
    )
    data = load_data(folder({"train.json": squad, "dev.json": squad}), kind="question_answering")
    assert data.train is not None
    assert [row["answers"] for row in data.train] == [
        {"text": ["blue"], "answer_start": [4]},
        {"text": [], "answer_start": []},
    ]


TRAIN = {"train.jsonl": ROWS}
TAGGED = {"tokens": ["a", "b"], "tags": ["B-X", "O"]}


@pytest.mark.parametrize(
    ("files", "arguments", "words"),
    [
        (
            {},
            {},
            r"data1 is empty. Expected a directory with a train file, .*\(.jsonl, .json, .csv, .parquet, .tsv\), or a",
        ),
        ({"train.xlsx": "x"}, {}, "has no split files, only: train.xlsx. Expected a directory with a train file"),
        ({"train.bio": "a\tb"}, {}, "has no split files, only: train.bio"),
        ({"train.jsonl": ""}, {}, "train.jsonl has no rows. Expected at least one"),
        ({"train.csv": "text,label\n"}, {}, "train.csv has no rows"),
        ({"test.jsonl": ROWS}, {}, r"has no train split, only test. Add a file train.jsonl \(or another of .jsonl"),
        (
            TRAIN,
            {"splits": {"test"}},
            "has no test split, only train. Add a file test.jsonl .*or ask for another split",
        ),
        (TRAIN, {"splits": {"dev"}}, r"has no dev split, only train"),
        (TRAIN, {"splits": set()}, "splits are empty, expected such as train and validation"),
        (
            {**TRAIN, "train.csv": "x"},
            {},
            "more than one train file: train.csv, train.jsonl. Expected one; move the othe",
        ),
        ({**TRAIN, "dev.csv": "x", "val.csv": "x"}, {}, "more than one validation file: dev.csv, val.csv"),
        (
            {"train.jsonl": ROWS[:1]},
            {"labels": ["no", "yes"]},
            "has 1 row, and there is no validation file. Expected at",
        ),
        ({"train.jsonl": ROWS[1:3]}, {}, "the only label is 'yes'. Expected at least two classes"),
        (
            {**TRAIN, "dev.jsonl": [{"text": "a", "label": "yess"}]},
            {},
            "dev.jsonl:1: the label 'yess' is not among .*'yes'",
        ),
        (
            {**TRAIN, "dev.jsonl": [{"text": "a"}]},
            {},
            r"dev.jsonl has no column 'label' \(label\).*in every split; rename",
        ),
        (
            {**TRAIN, "test.jsonl": [{"body": "a"}]},
            {},
            r"test.jsonl has no column 'text' \(text\). Its columns are: body",
        ),
        (TRAIN, {"development_fraction": 1.0}, "development_fraction must be between 0 and 1, got 1.0. Set data.dev"),
        (TRAIN, {"development_fraction": float("nan")}, "development_fraction must be between 0 and 1, got nan"),
        (
            TRAIN,
            {"max_train_rows": 0},
            "max_train_rows must be at least 1, got 0. Set data.max_train_rows, or leave it",
        ),
        (TRAIN, {"max_validation_rows": -1}, "max_validation_rows must be at least 1, got -1"),
        (TRAIN, {"kind": "sentiment"}, "kind must be one of classification, .*got 'sentiment'. Name one of those"),
        (TRAIN, {"kind": "regression"}, r"train.jsonl:1: 'label' holds 'no' \(str\), expected a finite number"),
        (
            {"train.jsonl": [{"text": "a", "label": 1}] * 2},
            {"kind": "regression", "labels": ["a", "b"]},
            "data.labels names 2 classes, but regression has none. Leave data.labels out",
        ),
        ({"train.jsonl": [TAGGED] * 2}, {"kind": "token_classification", "labels": ["O", "X"]}, "'X' is no BIO tag"),
        (
            {"train.jsonl": [TAGGED] * 2, "dev.jsonl": [{"tokens": ["a"], "tags": ["B-Z"]}]},
            {"kind": "token_classification"},
            r"dev.jsonl:1: the tag 'B-Z' is not among the 2 label names of train \(its sorted tags\): O, B-X",
        ),
    ],
)
def test_data_that_cannot_be_used_are_refused(
    folder: Folder, files: dict[str, Any], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        load_data(folder(files), **{"kind": "classification", **arguments})


def test_paths_that_are_no_directory_are_refused(folder: Folder) -> None:
    path = folder(TRAIN)
    with pytest.raises(
        DataError, match="train.jsonl is a file. Expected a directory .* Put it into a directory as train"
    ):
        load_data(path / "train.jsonl", kind="classification")
    with pytest.raises(DataError, match="nothing does not exist. Expected a directory"):
        load_data(path / "nothing", kind="classification")
    with pytest.raises(DataError, match="the path of the data is empty. Expected a directory"):
        load_data(" ", kind="classification")
    (path / "train.jsonl").unlink()
    (path / "train.jsonl").mkdir()
    with pytest.raises(DataError, match="has no split files, only: train.jsonl"):
        load_data(path, kind="classification")


def test_a_file_that_may_not_be_read_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str = "r") -> None:
        raise PermissionError(13, "Permission denied", str(path))

    path = folder(TRAIN)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        DataError, match="train.jsonl cannot be opened: Permission denied. Check the path and its rights"
    ):
        load_data(path, kind="classification")


def test_rows_to_predict_for_lose_their_labels(folder: Folder) -> None:
    path = folder({"a.csv": "text,label\nx,yes\n", "b.jsonl": [{"text": "y"}], "c.conll": "a O\nb B-X\n"})
    assert load_rows(path / "a.csv", "classification") == [{"text": "x"}]
    assert load_rows(path / "b.jsonl", "classification", {"text": "text", "label": "label"}) == [{"text": "y"}]
    assert load_rows(path / "c.conll", "token_classification") == [{"tokens": ["a", "b"]}]
    assert load_rows(io.BytesIO(b'{"text": "z"}\n'), "classification") == [{"text": "z"}]
    assert load_rows(io.StringIO('{"text": "z"}\n'), "classification") == [{"text": "z"}]
    assert load_rows(io.BytesIO(b""), "classification") == []


def test_ids_of_rows_to_predict_for_do_not_count() -> None:
    row = {"question": "q", "context": "c"}
    records = [{"id": "a", **row}, {"id": "a", **row}, row, {"id": None, **row}, {"id": 1.5, **row}]
    for columns in (None, {"id": "id", "question": "question", "context": "context", "answers": "answers"}):
        assert rows_from_records(records, "question_answering", columns) == [row] * 5


def test_rows_to_predict_for_may_use_columns_or_roles() -> None:
    columns = {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    expected = [{"text": "a", "text_pair": "b"}]
    assert rows_from_records([{"premise": "a", "hypothesis": "b", "n": 1}], "classification", columns) == expected
    assert rows_from_records([{"text": "a", "text_pair": "b"}], "classification", columns) == expected
    assert rows_from_records([{"text": "a b"}], "token_classification", {"tokens": "words", "tags": "tags"}) == [
        {"text": "a b"}
    ]
    choices = {"text": "q", "choice1": "choice1", "choice2": "choice2"}
    assert rows_from_records([{"q": "?", "choices": ["x", "y", "z"]}], "multiple_choice", choices) == [
        {"text": "?", "choices": ["x", "y", "z"]}
    ]
    assert rows_from_records([], "classification") == []


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({"text": "a"}, r"rows are a dict, expected a list of dicts, column to value. Pass one row as \[{"),
        ("text", "rows are a str, expected a list of dicts"),
        (None, "rows are a NoneType, expected a list of dicts"),
        (["text"], "rows row 1 is 'text', expected a dict, column to value. Pass rows such as"),
        ([{"text": "a"}, {1: "b"}], "rows row 2 is {1: 'b'}, expected a dict"),
        (
            [{"txt": "a"}],
            r"rows: no column 'text' \(text\), which classification reads here. The columns are: txt. Did you",
        ),
        ([{"zzz": "a"}], "The columns are: zzz. Rename one, or add it"),
        ([{"text": None}], "rows row 1: 'text' has no value, expected its text"),
    ],
)
def test_records_that_cannot_be_used_are_refused(records: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rows_from_records(records, "classification", {"text": "text", "label": "label"})


def test_files_to_predict_for_that_cannot_be_read_are_refused(folder: Folder) -> None:
    path = folder({"a.xyz": "x", "b.jsonl": ""})
    for name in (".", "nothing.jsonl"):
        with pytest.raises(
            DataError, match=r"is not a file. Expected .jsonl, .json, .csv, .parquet, .tsv, or JSON lines"
        ):
            load_rows(path / name, "classification")
    with pytest.raises(DataError, match="a.xyz cannot be read for classification. Expected one of .jsonl"):
        load_rows(path / "a.xyz", "classification")
    with pytest.raises(DataError, match="b.jsonl has no rows"):
        load_rows(path / "b.jsonl", "classification")
    with pytest.raises(DataError, match="<stream>:2: byte 0xff is not UTF-8"):
        load_rows(io.BytesIO(b'{"text": "a"}\n\xff\n'), "classification")
    with pytest.raises(DataError, match="kind must be one of"):
        load_rows(path / "b.jsonl", "sentiment")
