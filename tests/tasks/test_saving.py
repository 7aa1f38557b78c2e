from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ptuning.data.sources import HeldOut, TaskData
from ptuning.errors import CheckpointError
from ptuning.tasks import get_task
from ptuning.tasks.classification import Classification
from ptuning.tasks.saving import kind_of, task_to_dict

DATA = TaskData([], [], None, ("no", "yes"), {"text": "body", "label": "team"}, "here", ())
KIND = Classification(("no", "yes"))


def _saved(data: TaskData) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads(json.dumps(task_to_dict(get_task("classification"), KIND, data, 96)))
    return saved


def test_a_prompt_remembers_what_it_is_for() -> None:
    assert _saved(DATA) == {
        "name": "classification",
        "columns": {"text": "body", "label": "team"},
        "max_length": 96,
        "kind": "classification",
        "label_names": ["no", "yes"],
    }


def test_how_rows_were_held_out_is_remembered_where_they_were() -> None:
    saved = _saved(replace(DATA, held_out=HeldOut(5, 0.25)))
    assert saved.pop("held_out") == {"seed": 5, "development_fraction": 0.25, "selection": "validation"}
    assert saved == _saved(DATA)


@pytest.mark.parametrize("held_out", [None, HeldOut(5, 0.25)])
def test_the_kind_comes_back(held_out: HeldOut | None) -> None:
    assert kind_of(_saved(replace(DATA, held_out=held_out))) == KIND


def test_options_that_the_kind_does_not_have_are_refused() -> None:
    with pytest.raises(CheckpointError, match="with label_names, beam, expected kind 'classification'"):
        kind_of({**_saved(DATA), "beam": 3})
