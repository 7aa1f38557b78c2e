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


@pytest.fixture(scope="session")
def entailment(tiny_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of super_glue/rte, whose directory of data has a test file without labels."""
    from ptuning.training.run import train

    data = tmp_path_factory.mktemp("rte")
    rows = [
        {"premise": "the red lamp", "hypothesis": f"a {word}", "label": index % 2, "idx": index}
        for index, word in enumerate(["lamp", "box", "desk", "door"] * 3)
    ]
    for split, some in (("train", rows), ("validation", rows[:4])):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    unlabelled = [{key: row[key] for key in ("premise", "hypothesis", "idx")} for row in rows[:3]]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unlabelled))
    run = tmp_path_factory.mktemp("cli") / "rte"
    train(tiny_run(run, **{"task": "super_glue/rte", "data.path": str(data), "training.epochs": 1}))
    return run


def test_the_test_split_of_a_run_becomes_a_submission(ptuning: Ptuning, entailment: Path, tmp_path: Path) -> None:
    result = ptuning("predict", entailment, "--split", "test", "--format", "super_glue")
    assert (result.status, result.err) == (0, "")
    lines = _predictions(result.out)
    assert [line["idx"] for line in lines] == [0, 1, 2]
    assert {line["label"] for line in lines} <= {"entailment", "not_entailment"}
    arguments = ("predict", entailment, "--split", "test", "--format", "super_glue", "--output")
    assert ptuning(*arguments, f"{tmp_path}/sent/").status == 0
    assert (tmp_path / "sent" / "RTE.jsonl").read_text() == result.out
    other = ptuning(*arguments, tmp_path / "x.jsonl")
    assert other.out == "" and "wrote" in other.err and "takes it by the name RTE.jsonl" in other.err
    again = ptuning(*arguments, tmp_path / "x.jsonl")
    assert again.status == 2 and "--overwrite to replace it" in again.err
    assert ptuning(*arguments, tmp_path / "x.jsonl", "--overwrite").status == 0


def test_data_with_other_columns_and_labels_are_predicted_too(
    ptuning: Ptuning, entailment: Path, tmp_path: Path
) -> None:
    row = {"premise": "the red lamp", "hypothesis": "a lamp", "label": "whatever", "idx": 9}
    (tmp_path / "validation.jsonl").write_text(json.dumps(row) + "\n")
    arguments = ("predict", entailment, "--data", tmp_path, "--split", "validation")
    assert _predictions(ptuning(*arguments, "--format", "super_glue").out)[0]["idx"] == 9
    assert _predictions(ptuning(*arguments).out)[0]["label"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("rows.jsonl", "--split", "test"), 2, "FILE is rows.jsonl, and --data or --split was given too"),
        (("--format", "csv"), 2, "--format is 'csv', expected one of json, "),
        (("--split", "test", "--format", "squad"), 2, "--format squad was given, but "),
        (("--split", "test_brown"), 2, "split is 'test_brown', expected one of train, validation, test"),
    ],
)
def test_what_does_not_go_together_is_a_line(
    arguments: tuple[str, ...], status: int, said: str, ptuning: Ptuning, entailment: Path
) -> None:
    result = ptuning("predict", entailment, *arguments)
    assert (result.status, result.out) == (status, "")
    assert said in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl"),
        (("rows.jsonl", "--format", "squad"), "--format squad was given, but "),
        (("rows.jsonl", "--format", "super_glue"), "has no column 'idx', by which the grader knows the rows"),
        (("rows.jsonl", "--output", "there.jsonl"), "--overwrite to replace it"),
        (("--split", "test_brown"), "split is 'test_brown', expected one of"),
    ],
)
def test_mistakes_are_said_before_the_backbone_is_loaded(
    arguments: tuple[str, ...],
    said: str,
    ptuning: Ptuning,
    entailment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the backbone was loaded")

    monkeypatch.setattr("ptuning.predictor.load_backbone", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"premise": "a lamp", "hypothesis": "a box"}) + "\n")
    (tmp_path / "there.jsonl").write_text("mine")
    result = ptuning("predict", entailment, *arguments)
    assert result.out == "" and said in result.err
    with pytest.raises(AssertionError, match="the backbone was loaded"):
        ptuning("predict", entailment, "rows.jsonl")


def test_rows_without_idx_are_refused_for_a_grader(ptuning: Ptuning, entailment: Path) -> None:
    row = json.dumps({"premise": "a", "hypothesis": "b"})
    result = ptuning("predict", entailment, "--format", "super_glue", stdin=row)
    assert (result.status, result.out) == (1, "")
    assert "has no column 'idx', by which the grader knows the rows" in result.err
