from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.data.file_names import find_splits, split_of
from ptuning.data.formats import read_table
from ptuning.errors import DataError

Folder = Callable[[dict[str, Any]], Path]


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train.jsonl Train.CSV train.parquet train.tsv train.txt.gz train train.conllu"),
        ("validation", "dev.tsv val.jsonl valid.txt validation.json.gz devel development dev.bio"),
        ("test", "test.jsonl test.iob2 test"),
        ("train", "eng.train train-v1.1.json train-v2.0.json msr_paraphrase_train.txt conll05.train.txt train-set.gz"),
        ("train", "en_ewt-up-train.conllu en_ewt-ud-train.conllup train.english.v4_gold_conll conll2012.train.txt"),
        ("train", "train.v12_gold_conll train.gold_conll conll-2012-train.txt"),
        ("validation", "eng.testa dev-v1.1.json dev-v2.0.json dev_matched.tsv validation_matched.jsonl"),
        ("validation", "conll05.devel.txt dev-set devel-set.gz fi_ftb-up-dev.conllu dev.english.v4_gold_conll"),
        ("validation_mismatched", "dev_mismatched.tsv validation_mismatched.jsonl val_mismatched.csv"),
        ("test", "eng.testb msr_paraphrase_test.txt conll05.test.wsj.txt test.wsj test-wsj test_matched.tsv"),
        ("test", "conll-2012-test test.v9_gold_conll en_ewt-up-test.conllu test-set-wsj.gz test_wsj.jsonl"),
        ("test_brown", "test.brown conll05.test.brown.txt test-brown test_brown.jsonl test.brown.txt.gz"),
        ("test_mismatched", "test_mismatched.tsv"),
    ],
)
def test_well_known_names_say_their_split(split: str, names: str) -> None:
    assert [split_of(name) for name in names.split()] == [split] * len(names.split())


@pytest.mark.parametrize(
    "name",
    "official_val_nested.jsonl resplit.json dataset_info.json diagnostic.tsv dev_ids.tsv README.md train.old.jsonl "
    "my-train.jsonl train_2.csv eng.raw trainset words test.spanish train_matched.tsv data props".split(),
)
def test_other_names_say_none(name: str) -> None:
    assert split_of(name) is None


def test_every_split_is_found_and_other_files_are_ignored(folder: Folder) -> None:
    names = ("dev_mismatched.tsv", "train.tsv", "dev_matched.tsv", "diagnostic.tsv", "test.notes", "dev.conll")
    directory = folder(dict.fromkeys(names, "a\tb\n"))
    (directory / "test").mkdir()
    found = find_splits(directory, "classification")
    assert {split: path.name for split, path in found.items()} == {
        "train": "train.tsv",
        "validation": "dev_matched.tsv",
        "validation_mismatched": "dev_mismatched.tsv",
    }
    assert list(found) == ["train", "validation", "validation_mismatched"]
    assert find_splits(folder({}), "classification") == {}


def test_two_files_of_one_split_are_refused(folder: Folder) -> None:
    for files in (("dev.jsonl", "valid.csv"), ("dev-v1.1.json", "dev-v2.0.json"), ("dev.jsonl", "dev.jsonl.gz")):
        with pytest.raises(
            DataError,
            match=rf"has more than one validation file: {files[0]}, {files[1]}. Expected one; move the others away",
        ):
            find_splits(folder(dict.fromkeys(files, "")), "classification")


def test_a_file_does_not_go_before_a_directory(folder: Folder) -> None:
    directory = folder({"train.txt": "0 Go ||| B-V\n"})
    for part in ("words", "props"):
        (directory / "train" / part).mkdir(parents=True)
    with pytest.raises(DataError, match="has more than one train file: train, train.txt. Expected one"):
        find_splits(directory, "semantic_role_labeling")
    assert find_splits(directory, "token_classification") == {"train": directory / "train.txt"}


def test_the_paraphrase_corpus_counts_where_glue_made_nothing_of_it(folder: Folder) -> None:
    files = dict.fromkeys(("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"), "")
    names = {split: path.name for split, path in find_splits(folder(files), "classification").items()}
    assert names == {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}
    both = find_splits(folder(files | {"train.tsv": "", "dev.tsv": ""}), "classification")
    assert {split: path.name for split, path in both.items()} == {
        "train": "train.tsv",
        "validation": "dev.tsv",
        "test": "msr_paraphrase_test.txt",
    }


def test_conll2005_is_found_and_read_as_it_was_released(tmp_path: Path) -> None:
    for split in ("train", "devel", "test.wsj", "test.brown"):
        for part, text in (("words", f"{split}\ngo\n"), ("props", "- (A0*)\ngo (V*)\n")):
            (tmp_path / split / part).mkdir(parents=True)
            (tmp_path / split / part / f"{split}.{part}").write_text(text)
    (tmp_path / "scripts").mkdir()
    found = find_splits(tmp_path, "semantic_role_labeling")
    assert {split: path.name for split, path in found.items()} == {
        "train": "train",
        "validation": "devel",
        "test": "test.wsj",
        "test_brown": "test.brown",
    }
    for path in found.values():
        assert read_table(path, "semantic_role_labeling").records == [
            {"tokens": [path.name, "go"], "predicate_index": 1, "predicate": "go", "tags": ["B-A0", "B-V"]}
        ]


def test_conll2012_is_found_for_roles_and_for_entities(tmp_path: Path) -> None:
    for split in ("train", "development", "conll-2012-test"):
        deep = tmp_path / split / "data" / "english"
        deep.mkdir(parents=True)
        (deep / "x.gold_conll").write_text("")
    for kind in ("semantic_role_labeling", "token_classification"):
        found = find_splits(tmp_path, kind)
        assert {split: path.name for split, path in found.items()} == {
            "train": "train",
            "validation": "development",
            "test": "conll-2012-test",
        }
    assert find_splits(tmp_path, "classification") == {}
