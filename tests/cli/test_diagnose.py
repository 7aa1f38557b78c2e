from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ptuning = Callable[..., Any]


def test_people_get_a_table_and_where_the_figures_are(ptuning: Ptuning, trained: Path, tmp_path: Path) -> None:
    result = ptuning("diagnose", trained, "--output", tmp_path / "seen", "--rows", 4)
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("colours: p-tuning-v2, 4 virtual tokens, 4 validation rows (")
    assert str(tmp_path / "seen" / "attention-colours.svg") in lines
    assert lines[-1] == str(tmp_path / "seen" / "diagnostics.json")
    assert (tmp_path / "seen" / "similarity.png").is_file()


def test_json_is_one_object_and_figures_go_into_the_run(ptuning: Ptuning, trained: Path) -> None:
    result = ptuning("diagnose", trained, "--json")
    assert (result.status, result.err) == (0, "")
    found = json.loads(result.out)
    assert set(found) == {"split", "tasks", "similarity", "notes"}
    assert found == json.loads((trained / "diagnostics" / "diagnostics.json").read_text())


def test_notes_go_to_stderr(ptuning: Ptuning, trained: Path, tiny_data: Any, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes((tiny_data("classification") / "train.jsonl").read_bytes())
    result = ptuning("diagnose", trained, "--data", tmp_path, "--output", tmp_path / "seen", "--json")
    assert json.loads(result.out)["tasks"][0]["num_rows"] == 2
    assert "held out for validation" in result.err


def test_what_fails_is_one_line(ptuning: Ptuning, trained: Path, tmp_path: Path) -> None:
    for arguments, status, said in (
        ([tmp_path / "nowhere"], 1, "does not exist, expected a run directory or its prompt/."),
        ([trained, trained, "--output", tmp_path], 2, "is given twice, expected each prompt once."),
        ([trained, "--split", "test"], 1, "has no test split, only train, validation."),
    ):
        result = ptuning("diagnose", *arguments)
        assert (result.status, result.out) == (status, "")
        assert said in result.err and result.err.count("\n") == 1 and result.err.startswith("error: ")
    assert ptuning("diagnose", trained, "--rows", 0).status == 2
    assert ptuning("diagnose").status == 2
