"""Where the rows of a preset are read from, when `--data` says something."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from ptuning.config import load_config
from ptuning.data.hub import CONVERTED, HubSource
from ptuning.errors import DataError
from ptuning.tasks import PRESETS, get_task
from ptuning.tasks.loading import load_task_data, task_source


@pytest.mark.parametrize("name", [name for name, task in PRESETS.items() if isinstance(task.source, HubSource)])
def test_the_data_set_of_a_preset_can_be_typed_as_it_is_printed_and_by_its_bare_name(name: str) -> None:
    task = get_task(name)
    assert isinstance(task.source, HubSource)
    for given in (str(task.source), task.source.name):
        assert task_source(task, given) == task.source


def test_what_is_said_goes_before_what_the_preset_has() -> None:
    task = get_task("srl/conll2012")
    name = "ontonotes/conll2012_ontonotesv5"
    assert task_source(task, f"{name}:english_v4") == HubSource(name, "english_v4", CONVERTED)
    assert task_source(task, f"{name}@main") == HubSource(name, "english_v12", "main")
    assert task_source(task, "me/copy") == HubSource("me/copy", "english_v12")
    assert task_source(get_task("super_glue/rte"), "me/copy@v2") == HubSource("me/copy", "rte", "v2")


def test_a_directory_with_a_file_a_split_is_named_as_it_was_given(tmp_path: Path) -> None:
    row = {"premise": "It rains.", "hypothesis": "It pours."}
    rows = [row | {"label": label} for label in ("entailment", "not_entailment")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    task = get_task("super_glue/rte")
    config = load_config(None, {"task": task.name, "data.path": str(tmp_path)})
    assert load_task_data(config, task).source == str(tmp_path)
    with pytest.raises(DataError, match=f"^{tmp_path} has no test split, only train. Add"):
        load_task_data(config, task, ["test"])
    # The names beside the files count, as they do without a preset.
    (tmp_path / "dataset_info.json").write_text('{"label_names": ["not_entailment", "entailment"]}')
    assert load_task_data(config, task).label_names == ("not_entailment", "entailment")


def test_a_directory_has_the_presets_configuration_where_it_is_there(tmp_path: Path) -> None:
    task = get_task("super_glue/rte")
    for part in ("copy/rte/train", "other/data"):
        (tmp_path / part).mkdir(parents=True)
        rows = datasets.Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["a", "b"], "label": [0, 1]})
        rows.to_parquet(tmp_path / part / "train-00000-of-00001.parquet")
    assert task_source(task, str(tmp_path / "copy")) == HubSource(str(tmp_path / "copy"), "rte")
    assert task_source(task, str(tmp_path / "other")) == HubSource(str(tmp_path / "other"))
