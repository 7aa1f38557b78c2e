from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ptuning.data.formats import read_table, suffixes_for
from ptuning.data.text_formats import can_be_read
from ptuning.errors import DataError

ROLES = {"tokens": ["He", "left"], "predicate_index": 1, "tags": ["B-A0", "B-V"]}
LINES = "1 He left ||| B-A0 B-V\n"
PROPS = "He - (A0*)\nleft leave (V*)\n"


@pytest.mark.parametrize(
    ("name", "text", "predicate"),
    [
        ("conll05.train.txt", LINES, None),
        ("train.conll", "\n" + LINES, None),
        ("train.txt", PROPS, "leave"),
        ("train-set", PROPS, "leave"),
        ("test.wsj", PROPS, "leave"),
        ("test.brown.gz", PROPS, "leave"),
        ("a.v4_gold_conll", "d 0 0 He P * - - - - * (A0*) -\nd 0 1 left V * leave - - - * (V*) -\n", "leave"),
        (
            "a.conllup",
            "# global.columns = ID FORM UP:PRED UP:ARGSPANS\n1\tHe\t_\t_\n2\tleft\tleave\tA0:1-1\n",
            "leave",
        ),
        ("a.jsonl", json.dumps(ROLES), None),
    ],
)
def test_roles_are_read_by_name_and_content(tmp_path: Path, name: str, text: str, predicate: str | None) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (record,) = read_table(path, "semantic_role_labeling").records
    record.pop("id", None)
    assert record == ROLES | ({} if predicate is None else {"predicate": predicate})


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.jsonl.gz", '{"text": "x"}\n', "classification"),
        ("a.json.gz", '[{"text": "x"}]', "classification"),
        ("a.csv.gz", "text\nx\n", "classification"),
        ("a.tsv.GZ", "text\nx\n", "regression"),
    ],
)
def test_packed_files_are_unpacked(tmp_path: Path, name: str, text: str, kind: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert read_table(tmp_path / name, kind).records == [{"text": "x"}]


@pytest.mark.parametrize("data", [b"text\nx\n", gzip.compress(b"text\nx\n" * 99, mtime=0)[:-9], b""])
def test_damaged_packed_files_are_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("a.csv.gz", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(data)
        words = f"{name} (cannot be unpacked .* Expected a whole gzip file, as its name says|has no rows)"
        with pytest.raises(DataError, match=words):
            read_table(tmp_path / name, "classification")


def test_conll2003_is_read_under_the_names_it_was_released_with(tmp_path: Path) -> None:
    for name in ("eng.train", "eng.testa", "eng.testb.gz"):
        text = b"-DOCSTART- -X- O O\n\nRome NNP I-NP I-LOC\n"
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        assert read_table(tmp_path / name, "token_classification").records == [{"tokens": ["Rome"], "tags": ["I-LOC"]}]


def test_names_tell_what_can_be_read() -> None:
    assert can_be_read("a.parquet", "classification") and not can_be_read("a.parquet.gz", "classification")
    assert can_be_read("a.tsv", "regression") and not can_be_read("a.tsv", "question_answering")
    assert can_be_read("msr_paraphrase_train.txt", "classification") and not can_be_read("a.txt", "classification")
    assert can_be_read("a.gold_conll", "token_classification") and not can_be_read("a.conllu", "token_classification")
    assert suffixes_for("regression")[-1] == ".tsv"
    assert suffixes_for("semantic_role_labeling")[-5:] == (".conllu", ".conllup", ".conll", ".txt", "_gold_conll")


def test_a_directory_that_is_no_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="is a directory that cannot be read as one split for classification. Expected a f"
    ):
        read_table(tmp_path, "classification")
    with pytest.raises(
        DataError, match="Expected the directories words and props, or .*_gold_conll files; name a file in"
    ):
        read_table(tmp_path, "semantic_role_labeling")
