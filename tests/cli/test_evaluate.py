from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ptuning = Callable[..., Any]


def test_json_is_one_object_on_the_last_line(ptuning: Ptuning, trained: Path) -> None:
    result = ptuning("evaluate", trained, "--json")
    assert (result.status, result.err) == (0, "")
    found = json.loads(result.out.splitlines()[-1])
    assert set(found) == {"split", "num_rows", "metrics"}
    assert (found["split"], found["num_rows"]) == ("validation", 12)
    saved = json.loads((trained / "prompt" / "config.json").read_text())
    assert found["metrics"] == saved["metrics"]


def test_people_get_a_line_a_metric(ptuning: Ptuning, trained: Path, tiny_data: Callable[..., Path]) -> None:
    result = ptuning("evaluate", trained / "prompt", "--split", "train", "--data", tiny_data("classification"))
    lines = result.out.splitlines()
    assert lines[0] == "train, 24 rows"
    assert [line.split()[0] for line in lines[1:]] == ["accuracy", "f1", "f1_macro", "f1_micro", "matthews"]


def test_notes_on_the_data_go_to_stderr(ptuning: Ptuning, trained: Path, tiny_data: Any, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes((tiny_data("classification") / "train.jsonl").read_bytes())
    result = ptuning("evaluate", trained, "--data", tmp_path, "--json")
    assert json.loads(result.out)["num_rows"] == 2
    assert "held out for validation" in result.err


def test_what_fails_is_one_line_and_1(ptuning: Ptuning, trained: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ([tmp_path / "nowhere"], "does not exist, expected a run directory or its prompt/."),
        ([trained, "--split", "test"], "has no test split, only train, validation."),
        ([trained, "--backbone", tmp_path], "was not found or has no readable config.json"),
    ):
        result = ptuning("evaluate", *arguments)
        assert (result.status, result.out) == (1, "")
        assert said in result.err and result.err.count("\n") == 1 and result.err.startswith("error: ")


def test_a_device_that_is_not_there_is_2(ptuning: Ptuning, trained: Path) -> None:
    assert ptuning("evaluate", trained, "--device", "cpu").status == 0
    result = ptuning("evaluate", trained, "--device", "warp")
    assert (result.status, result.out) == (2, "")
    assert "the device is 'warp', which this machine does not have" in result.err


def test_a_threshold_where_there_is_none_is_2(ptuning: Ptuning, trained: Path) -> None:
    result = ptuning("evaluate", trained, "--fit-threshold")
    assert (result.status, result.out) == (2, "")
    assert "--fit-threshold is for question answering with unanswerable questions" in result.err
