from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ptuning.data.formats import (
    Table,
    class_names_of,
    read_csv,
    read_json,
    read_json_lines,
    read_parquet,
    read_table,
    suffixes_for,
    table_of,
)
from ptuning.errors import DataError


def test_json_lines_skip_blank_lines_and_remember_where_rows_stood() -> None:
    stream = io.BytesIO(b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"b": "\xc3\xa9", "a": null}\n')
    table = read_json_lines(stream, "x.jsonl")
    assert table.records == [{"a": 1}, {"b": "é", "a": None}]
    assert table.columns == ("a", "b")
    assert (table.where(0), table.where(1)) == ("x.jsonl:1", "x.jsonl:4")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": }\n', r"x:1 column 7: not valid JSON \(Expecting value\). Correct or remove it"),
        (b'{"a": 1}\n["a"]\n', "x:2: the line holds a JSON list. Expected one object a line, such as"),
        (b"3\n", "x:1: the line holds a JSON number"),
        (b"null\n", "x:1: the line holds a JSON null"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "x:2: byte 0xff is not UTF-8. Expected a UTF-8 file. Save it again as UTF-8"),
        (b'{"a": ' + b"1" * 5000 + b"}\n", "x:1: JSON that cannot be read .* Correct or remove it"),
        (b"[" * 100_000, "x:1: JSON that cannot be read"),
    ],
)
def test_broken_json_lines_are_refused_with_their_place(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_json_lines(io.BytesIO(data), "x")


def test_a_file_in_utf_16_is_named_so() -> None:
    with pytest.raises(DataError, match="x:1: byte 0xff is not UTF-8.*iconv -f utf-16 -t utf-8"):
        read_csv("text,label\n".encode("utf-16-le").join([b"\xff\xfe", b""]), "x")
    with pytest.raises(DataError, match="x:3: byte 0xe9 is not UTF-8.*iconv -f latin1 -t utf-8"):
        read_csv("text,label\na,b\né,c\n".encode("latin1"), "x")


def test_a_json_file_is_a_list_of_objects() -> None:
    table = read_json(b'[{"text": "a"}, {"text": "b"}]', "x.json", "classification")
    assert table.records == [{"text": "a"}, {"text": "b"}]
    assert table.where(1) == "x.json row 2"


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (
            b'{"text": "a"}',
            "classification",
            r"x holds a JSON object. Expected a list of objects. Files with one object",
        ),
        (b'{"text": "a"}', "question_answering", "Expected a list of objects, or SQuAD's data / paragraphs / qas"),
        (b'[{"text": "a"}, 3]', "classification", "x row 2 is a JSON number. Expected a list of objects, one a row"),
        (b'{"a": 1}\n{"a": 2}', "classification", "x:2 column 1: not valid JSON .* Files with one object a line are"),
    ],
)
def test_other_json_is_refused(data: bytes, kind: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_json(data, "x", kind)


def test_squad_files_become_rows() -> None:
    answer = {"text": "blue", "answer_start": 4}
    questions = [
        {"id": "1", "question": "which?", "answers": [answer, answer]},
        {"id": "2", "question": "where?", "answers": [], "is_impossible": True, "plausible_answers": [answer]},
        {"id": "3", "question": "who?"},
    ]
    document = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "the blue", "qas": questions}]}]}
    table = read_json(json.dumps(document).encode(), "x.json", "question_answering")
    assert [record.get("answers") for record in table.records] == [
        [answer, answer],
        {"text": [], "answer_start": []},
        None,
    ]
    assert [(record["id"], record["context"]) for record in table.records] == [
        ("1", "the blue"),
        ("2", "the blue"),
        ("3", "the blue"),
    ]


@pytest.mark.parametrize(
    ("articles", "words"),
    [
        ([{"paragraphs": [{"context": "c"}]}], "x: article 1 has no 'qas'. Expected SQuAD's form"),
        ([{"paragraphs": [{"context": "c", "qas": [{"id": "7"}]}]}], "x: article 1, question '7' has no 'question'"),
        ([{"paragraphs": []}, 3], "x: article 2 has another form"),
    ],
)
def test_broken_squad_files_are_refused_with_their_place(articles: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_json(json.dumps({"data": articles}).encode(), "x", "question_answering")


def test_csv_cells_are_strings_and_empty_ones_are_missing() -> None:
    table = read_csv(b'\xef\xbb\xbftext, label\r\n"a, ""b""\nc",1\r\n\r\nd,\r\n', "x.csv")
    assert table.columns == ("text", "label")
    assert table.records == [{"text": 'a, "b"\nc', "label": "1"}, {"text": "d", "label": None}]
    assert (table.where(0), table.where(1)) == ("x.csv:2", "x.csv:5")


def test_csv_cells_may_be_long_documents() -> None:
    document = "word " * 60_000
    assert read_csv(f"text,label\n{document},1\n".encode(), "x.csv").records[0]["text"] == document


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"text,label\na,b,c\n", "x:2: 3 cells, expected 2 as the header has. Put cells with commas or line breaks in"),
        (b"text,label\na\n", "x:2: 1 cells, expected 2"),
        (b'text,label\n"a,b\n', r"x:2: not valid CSV \(unexpected end of data\). Put cells with commas"),
        (b'text,label\n"a"b,c\n', "x:2: not valid CSV"),
        (
            b"text,text\na,b\n",
            "x:1: the column 'text' stands twice in the header. Expected a first line with .* Add or",
        ),
        (b"good,1\nbad,0\n", "x:1: '1' is no column name in the header. Expected a first line with one name a column"),
        (b"text,\na,b\n", "x:1: '' is no column name in the header"),
        (b"text;label\na;b\n", "x:1: the header is the one cell 'text;label'. Expected commas .* Save the file again"),
        (b"text\tlabel\na\tb\n", "the header is the one cell 'text.tlabel'"),
    ],
)
def test_broken_csv_is_refused_with_its_line(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_csv(data, "x")


def _parquet(path: Path, columns: dict[str, list[Any]], metadata: str | None = None) -> Path:
    table = pyarrow.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, path)
    return path


def test_parquet_keeps_types_and_class_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    path = _parquet(
        tmp_path / "x.parquet", {"text": ["a", "b"], "label": [1, None]}, json.dumps({"info": {"features": features}})
    )
    table = read_parquet(path)
    assert table.records == [{"text": "a", "label": 1}, {"text": "b", "label": None}]
    assert table.class_names == {"label": ("no", "yes")}
    assert table.where(1) == f"{path} row 2"


@pytest.mark.parametrize("metadata", ["{", "[]", "null", '{"info": null}', '{"info": {"features": 3}}'])
def test_metadata_of_others_are_not_read(tmp_path: Path, metadata: str) -> None:
    assert read_parquet(_parquet(tmp_path / "x.parquet", {"a": [1]}, metadata)).class_names == {}


def test_names_of_folders_add_no_columns(tmp_path: Path) -> None:
    (tmp_path / "lang=en").mkdir()
    assert read_parquet(_parquet(tmp_path / "lang=en" / "x.parquet", {"a": [1]})).columns == ("a",)


def test_broken_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"x.parquet is not a Parquet file that can be read \(.*0 bytes.* Write it again"
    ):
        read_parquet(path)
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["t", "t"]), path)
    with pytest.raises(DataError, match="the column 't' stands twice. Expected one of each name; rename or drop one"):
        read_parquet(path)


def test_files_are_read_by_their_suffix(tmp_path: Path) -> None:
    for name, content in (
        ("a.JSONL", '{"text": "x"}'),
        ("a.json", '[{"text": "x"}]'),
        ("a.csv", "text\nx\n"),
    ):
        (tmp_path / name).write_text(content)
        assert read_table(tmp_path / name, "classification").records == [{"text": "x"}]
    (tmp_path / "a.bio").write_text("x O\n")
    assert read_table(tmp_path / "a.bio", "token_classification").columns == ("tokens", "tags")
    assert suffixes_for("classification") == (".jsonl", ".json", ".csv", ".parquet", ".tsv")
    assert ".conll" in suffixes_for("token_classification")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x O\n")
    with pytest.raises(
        DataError, match=r"a.txt cannot be read for classification. Expected one of .jsonl, .json, .csv"
    ):
        read_table(tmp_path / "a.txt", "classification")
    with pytest.raises(DataError, match=r"b.csv cannot be opened: No such file or directory. Check the path and its"):
        read_table(tmp_path / "b.csv", "classification")
    for name in ("a.jsonl", "a.csv", "a.conll"):
        (tmp_path / name).write_text("")
        with pytest.raises(
            DataError, match=f"{name} has no rows. Expected at least one; check how the file was written"
        ):
            read_table(tmp_path / name, "token_classification")


def test_text_columns_hold_strings_that_are_not_all_numbers() -> None:
    records = [
        {"a": None, "b": "1", "c": "x", "d": 3, "e": "1", "f": ["x"]},
        {"a": "y", "b": "2.5", "c": "2", "e": "z"},
    ]
    assert table_of("x", records).text_columns() == ("a", "c", "e")
    assert Table("x", ("a",), []).text_columns() == ()


def test_class_names_are_read_from_features_and_from_lists_of_them() -> None:
    names = {"names": ["O", "B-X"], "_type": "ClassLabel"}
    assert class_names_of({"tags": {"feature": names, "_type": "List"}, "text": {"dtype": "string"}, "odd": 3}) == {
        "tags": ("O", "B-X")
    }
    assert class_names_of(None) == class_names_of({"a": {"names": [1]}}) == {}
