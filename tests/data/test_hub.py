from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from ptuning.data import load_data
from ptuning.data.hub import CONVERTED, HubSource, hub_table, is_hub_name, open_hub, parse_hub_name
from ptuning.errors import DataError


@pytest.fixture
def hub_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the hub's layout, and a cache of its own for `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "pets" / "data").mkdir(parents=True)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for split, rows in {"train": [("purrs", 0), ("barks", 1), ("growls", 1)], "validation": [("meows", 0)]}.items():
        content = datasets.Dataset.from_dict(
            {"text": [text for text, _ in rows], "label": [label for _, label in rows]}, features=features
        )
        content.to_parquet(tmp_path / "pets" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "pets"


def test_a_directory_in_the_hubs_layout_is_loaded_with_its_class_names(hub_directory: Path) -> None:
    data = load_data(hub_directory, kind="classification")
    assert data.label_names == ("cat", "dog")
    assert data.train == [
        {"text": "purrs", "label": "cat"},
        {"text": "barks", "label": "dog"},
        {"text": "growls", "label": "dog"},
    ]
    assert data.validation == [{"text": "meows", "label": "cat"}]
    assert data.test is None and data.notes == ()


def test_only_the_splits_that_are_asked_for_are_read(hub_directory: Path) -> None:
    data = load_data(hub_directory, kind="classification", splits={"validation"})
    assert data.train is None and data.validation == [{"text": "meows", "label": "cat"}]
    with pytest.raises(DataError, match="has no test split, only train, validation. Add a file test.jsonl"):
        load_data(hub_directory, kind="classification", splits={"test"})


def test_class_labels_are_places_in_one_split_alone_too(tmp_path: Path, hub_directory: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["1", "2", "3"])}
    )
    (tmp_path / "stars").mkdir()
    for split, labels in {"train": [0, 1, 2], "validation": [1, 2]}.items():
        rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"][: len(labels)], "label": labels}, features=features)
        rows.to_parquet(tmp_path / "stars" / f"{split}.parquet")
    every = load_data(tmp_path / "stars", kind="classification")
    (tmp_path / "stars" / "train.parquet").unlink()
    alone = load_data(tmp_path / "stars", kind="classification", labels=every.label_names, splits=["validation"])
    assert alone.validation == every.validation == [{"text": "a", "label": "2"}, {"text": "b", "label": "3"}]


def test_a_label_outside_the_classes_is_refused(hub_directory: Path) -> None:
    with pytest.raises(DataError, match=r"data.labels is \['cat'\]. Expected a list of at least two"):
        load_data(hub_directory, kind="classification", labels=["cat"])


def test_classes_of_lists_are_names_of_tags() -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    table = hub_table(
        datasets.Dataset.from_dict({"tokens": [["Ada"]], "ner_tags": [[1]]}, features=features), "x train"
    )
    assert table.class_names == {"ner_tags": ("O", "B-PER")}
    assert table.records == [{"tokens": ["Ada"], "ner_tags": [1]}]
    assert table.where(0) == "x train row 1"


def test_a_directory_without_data_is_refused(hub_directory: Path) -> None:
    empty = hub_directory.parent / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing here")
    with pytest.raises(
        DataError,
        match=r"^the data set '.*empty' could not be loaded \(EmptyDatasetError.*Check the name and the network",
    ):
        load_data(empty, kind="classification")


def test_what_datasets_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, **arguments: Any) -> dict[str, Any]:
        asked.append((path, arguments))
        return {}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    open_hub(parse_hub_name("nyu/glue:rte"))
    open_hub(parse_hub_name("imdb"))
    open_hub(parse_hub_name("/data/some dir"))
    open_hub(HubSource("old/set", "rte", revision=CONVERTED))
    open_hub(HubSource("new/set", "rte", revision="v1"))
    assert asked == [
        ("nyu/glue", {"name": "rte"}),
        ("imdb", {}),
        ("/data/some dir", {}),
        ("old/set", {"revision": CONVERTED, "data_dir": "rte"}),
        ("new/set", {"revision": "v1", "name": "rte"}),
    ]


@pytest.fixture
def converted_directory(tmp_path: Path, hub_directory: Path) -> Path:
    """A local copy in the layout of the hub's own Parquet copies: a directory a configuration, one a split in it."""
    for config, word in (("one", "purrs"), ("two", "barks")):
        for split in ("train", "validation_matched", "validation_mismatched"):
            directory = tmp_path / "converted" / config / split
            directory.mkdir(parents=True)
            rows = datasets.Dataset.from_dict({"text": [f"{word} {split}", "x"], "label": ["a", "b"]})
            rows.to_parquet(directory / "0000.parquet")
    return tmp_path / "converted"


def test_one_configuration_of_a_converted_copy_is_read_and_not_all_of_them(converted_directory: Path) -> None:
    splits = {"validation": "validation_matched", "validation_mismatched": "validation_mismatched"}
    source = HubSource(str(converted_directory), "two", splits=splits)
    data = load_data(source, kind="classification")
    assert data.train == [{"text": "barks train", "label": "a"}, {"text": "x", "label": "b"}]
    assert data.validation is not None and data.validation[0]["text"] == "barks validation_matched"
    assert data.others == {}
    other = load_data(source, kind="classification", splits=["validation_mismatched"])
    rows = other.rows("validation_mismatched")
    assert rows is not None and rows[0]["text"] == "barks validation_mismatched"


def test_configurations_in_the_card_are_asked_for_by_name(tmp_path: Path, hub_directory: Path) -> None:
    directory = tmp_path / "carded"
    card = "---\nconfigs:\n"
    for config in ("one", "two"):
        (directory / "files" / config).mkdir(parents=True)
        rows = datasets.Dataset.from_dict({"text": [config, "x"], "label": ["a", "b"]})
        rows.to_parquet(directory / "files" / config / "train.parquet")
        card += f"- config_name: {config}\n  data_files:\n  - split: train\n    path: files/{config}/train.parquet\n"
    (directory / "README.md").write_text(card + "---\n")
    data = load_data(HubSource(str(directory), "two"), kind="classification")
    assert data.train is not None and {row["text"] for row in [*data.train, *(data.validation or [])]} == {"two", "x"}


def test_a_failure_of_the_hub_says_what_was_tried_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, name: str | None = None) -> None:
        raise ConnectionError("could not\nreach   the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError,
        match="^there is no directory nobody/nothing here, and the data set 'nobody/nothing' could not be loaded "
        r"\(ConnectionError: could not reach the hub\). "
        "Expected a directory, or a data set on https://huggingface.co/datasets as owner/name, owner/name:config or "
        "owner/name:config@revision. Check the name and the network, or download it and give the directory",
    ):
        load_data("nobody/nothing", kind="classification")


def test_splits_of_other_names_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None: {"part1": one, "part2": one})
    with pytest.raises(DataError, match="'a/b' has the splits part1, part2, expected train, validation or test. Write"):
        load_data("a/b", kind="classification")


def test_an_empty_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = datasets.Dataset.from_dict({"text": [], "label": []})
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None: {"train": empty})
    with pytest.raises(DataError, match="a/b train has no rows. Expected at least one; choose another configuration"):
        load_data("a/b", kind="classification")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("imdb", HubSource("imdb")),
        ("nyu/glue", HubSource("nyu/glue")),
        ("nyu/glue:rte", HubSource("nyu/glue", "rte")),
        ("a.b/c-d_e:x+y.1", HubSource("a.b/c-d_e", "x+y.1")),
        ("imdb@v1.0", HubSource("imdb", None, "v1.0")),
        ("eriktks/conll2003@refs/convert/parquet", HubSource("eriktks/conll2003", None, CONVERTED)),
        ("nyu/glue:rte@refs/convert/parquet", HubSource("nyu/glue", "rte", CONVERTED)),
    ],
)
def test_names_of_the_hub_are_read_as_they_are_printed(name: str, source: HubSource) -> None:
    assert is_hub_name(name)
    assert parse_hub_name(name) == source
    assert str(source) == name


def test_a_converted_set_can_be_named_for_a_bare_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, **arguments: Any) -> dict[str, Any]:
        asked.append((path, arguments))
        return {"train": datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_data(f"old/set:two@{CONVERTED}", kind="classification")
    assert asked == [("old/set", {"revision": CONVERTED, "data_dir": "two"})]
    assert data.source == f"old/set:two@{CONVERTED}"


@pytest.mark.parametrize(
    "name", ["./data", "../data", "/data", "a/b/c", "-x", "a b", "", "a:", "a@", "a@b@c", "a@/b", "C:\\data"]
)
def test_other_names_are_paths(name: str) -> None:
    assert not is_hub_name(name)
