from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptuning.diagnostics.history import NormPoint, read_norms
from ptuning.errors import CheckpointError


def _line(epoch: int, *, norms: bool = True, **more: Any) -> dict[str, Any]:
    found = {"prompt_norms": {"layers": [0, 2], "keys": [1.0, epoch], "values": [0.5, 0.25]}} if norms else {}
    return {"epoch": epoch, "step": 10 * epoch, "is_best": epoch == 1, "validation": {}, **found, **more}


def _write(directory: Path, *lines: dict[str, Any]) -> Path:
    (directory / "prompt").mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory / "prompt"


def test_each_evaluation_is_a_point(tmp_path: Path) -> None:
    assert read_norms(_write(tmp_path / "run", _line(1), _line(2))) == (
        NormPoint(1, 10, True, (0, 2), (1.0, 1), (0.5, 0.25)),
        NormPoint(2, 20, False, (0, 2), (1.0, 2), (0.5, 0.25)),
    )


def test_lines_of_older_versions_have_none(tmp_path: Path) -> None:
    assert read_norms(_write(tmp_path / "old", _line(1, norms=False))) == ()
    assert [one.epoch for one in read_norms(_write(tmp_path / "resumed", _line(1, norms=False), _line(2)))] == [2]


def test_a_prompt_in_no_run_has_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(_line(1)))
    for name in ("prompt", "of-someone"):
        (tmp_path / "copied" / name).mkdir(parents=True)
        assert read_norms(tmp_path / "copied" / name) == ()
    (tmp_path / "task").mkdir()
    assert read_norms(tmp_path / "task") == (), "not a run's own prompt, though a run's metrics lie beside it"


def test_of_a_population_the_lines_of_the_prompts_candidate_count(tmp_path: Path) -> None:
    prompt = _write(tmp_path / "many", _line(1, candidate=0), _line(2, candidate=1), _line(3, candidate=1))
    (tmp_path / "many" / "population.json").write_text(json.dumps({"best": 1}))
    assert [one.epoch for one in read_norms(prompt)] == [2, 3]
    own = tmp_path / "many" / "candidates" / "0" / "prompt"
    own.mkdir(parents=True)
    assert [one.epoch for one in read_norms(own)] == [1]


@pytest.mark.parametrize("text", ["{", "[1]", '{"prompt_norms": {"layers": [0]}}', '{"prompt_norms": 3}'])
def test_a_damaged_line_is_named(text: str, tmp_path: Path) -> None:
    prompt = _write(tmp_path / "run", _line(1))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(text + "\n")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl has a line 2 that is no evaluation of a run \(.*Restore"):
        read_norms(prompt)
