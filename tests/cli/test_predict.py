from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.cli import predict

Ptuning = Callable[..., Any]
ROWS = [{"text": word * (1 + index % 4)} for index, word in enumerate(["red ", "a blue box ", "late "] * 4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def _predictions(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("dash", [["-"], []])
def test_stdin_is_answered_in_input_order(dash: list[str], ptuning: Ptuning, trained: Path) -> None:
    result = ptuning("predict", trained, *dash, stdin=LINES)
    assert (result.status, result.err) == (0, "")
    found = _predictions(result.out)
    assert len(found) == len(ROWS) and set(found[0]) == {"label", "score", "scores"}
    for row, prediction in zip(ROWS, found, strict=True):
        alone = _predictions(ptuning("predict", trained, stdin=json.dumps(row)).out)[0]
        assert prediction["scores"] == pytest.approx(alone["scores"], abs=1e-5)


def test_a_file_is_answered_as_stdin_is(
    ptuning: Ptuning, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text(LINES)
    (tmp_path / "rows.csv").write_text("text\n" + "".join(f"{row['text']}\n" for row in ROWS))
    expected = _predictions(ptuning("predict", trained, stdin=LINES).out)
    assert _predictions(ptuning("predict", trained, tmp_path / "rows.jsonl").out) == expected
    monkeypatch.setattr(predict, "_ROWS_AT_ONCE", 5)
    found = _predictions(ptuning("predict", trained / "prompt", tmp_path / "rows.csv").out)
    assert [row["label"] for row in found] == [row["label"] for row in expected]


def test_nothing_in_gives_nothing_out(ptuning: Ptuning, trained: Path) -> None:
    assert ptuning("predict", trained, stdin="").out == ""


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        ('{"text": "a"}\n{"text": \n', ">:2 column 9: not valid JSON"),
        ('{"body": "a"}\n', "no column 'text'"),
        ("[1, 2]\n", ">:1: the line holds a JSON list"),
    ],
)
def test_rows_that_are_wrong_are_one_line_and_1(stdin: str, said: str, ptuning: Ptuning, trained: Path) -> None:
    result = ptuning("predict", trained, stdin=stdin)
    assert (result.status, result.out) == (1, "")
    assert said in result.err and result.err.startswith("error: ") and result.err.count("\n") == 1


def test_a_device_that_is_not_there_is_2(ptuning: Ptuning, trained: Path) -> None:
    assert ptuning("predict", trained, "--device", "cpu", stdin=LINES).status == 0
    result = ptuning("predict", trained, "--device", "warp", stdin=LINES)
    assert (result.status, result.out) == (2, "")
    assert "the device is 'warp', which this machine does not have" in result.err


def test_a_file_that_is_not_there_is_one_line_and_1(ptuning: Ptuning, trained: Path, tmp_path: Path) -> None:
    result = ptuning("predict", trained, tmp_path / "rows.jsonl")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"error: {tmp_path / 'rows.jsonl'} is not a file. Expected ")


def test_a_reader_that_goes_away_is_no_traceback(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(LINES * 200)
    arguments = ["ptuning", "predict", str(trained), str(tmp_path / "rows.jsonl")]
    code = f"import sys; sys.argv = {arguments!r}; from ptuning.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["label"]
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 1
    assert error == ""
    process.stderr.close()
