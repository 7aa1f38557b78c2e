from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.checkpoint import read_prompt
from ptuning.errors import CheckpointError, ConfigError, DataError
from ptuning.evaluation import evaluate
from ptuning.training.run import train

TinyRun = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluated") / "run"
    train(tiny_run(directory))
    return directory


def test_validation_of_the_run_is_the_default(run: Path) -> None:
    result = evaluate(run)
    assert result.metrics == read_prompt(run).metrics
    assert result.to_dict() == {"split": "validation", "num_rows": 12, "metrics": result.metrics}
    assert evaluate(run / "prompt") == result


def test_other_splits_and_other_data(run: Path, tiny_data: Callable[..., Path], tmp_path: Path) -> None:
    assert evaluate(run, split="train").num_rows == 24
    shutil.copy(tiny_data("classification", seed=3) / "train.jsonl", tmp_path / "test.jsonl")
    assert evaluate(run, data=tmp_path, split="test").num_rows == 24


def test_train_rows_are_those_that_were_not_held_out(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(tiny_data("classification") / "train.jsonl", data)
    train(tiny_run(tmp_path / "run", **{"data.path": str(data), "data.development_fraction": 0.25}))
    assert evaluate(tmp_path / "run", split="train").num_rows == 18
    assert evaluate(tmp_path / "run").num_rows == 6


def test_a_split_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(DataError, match="has no test split, only train, validation"):
        evaluate(run, split="test")


def test_rows_without_labels_are_refused(run: Path, tmp_path: Path) -> None:
    for row in ('{"text": "a red box"}', '{"text": "a red box", "label": null}'):
        (tmp_path / "test.jsonl").write_text(f"{row}\n")
        with pytest.raises(DataError) as caught:
            evaluate(run, data=tmp_path, split="test")
        assert str(caught.value) == (
            f"the test rows of {tmp_path} have no labels, so there is nothing to score against. Use another --split, "
            "or `ptuning predict`."
        )


def test_a_label_that_training_never_had_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "a red box", "label": "purple"}\n')
    with pytest.raises(DataError, match="purple"):
        evaluate(run, data=tmp_path, split="test")


def test_a_prompt_on_its_own_needs_data(run: Path, tiny_data: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(run / "prompt", tmp_path / "colours")
    with pytest.raises(ConfigError) as caught:
        evaluate(tmp_path / "colours")
    assert str(caught.value) == (
        f"{tmp_path / 'colours'} does not say which data it was trained on. Give a directory or a data set with --data."
    )
    assert evaluate(tmp_path / "colours", data=tiny_data("classification")).metrics == read_prompt(run).metrics


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist, expected a run directory or its prompt/"):
        evaluate(tmp_path / "nowhere")


def test_held_out_rows_are_those_of_training(tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(tiny_data("classification") / "train.jsonl", tmp_path / "data" / "train.jsonl")
    settings = {"data.path": str(tmp_path / "data"), "data.development_fraction": 0.3, "training.seed": 5}
    result = train(tiny_run(tmp_path / "run", **settings))
    again = evaluate(tmp_path / "run")
    assert again.num_rows == 7
    assert again.metrics == result.metrics
    assert "held out for validation" in again.notes[0]


def test_a_no_answer_threshold_is_fitted_and_kept(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", "question_answering"))
    before = evaluate(tmp_path / "run")
    fitted = evaluate(tmp_path / "run", fit_threshold=True)
    assert fitted.metrics["f1"] >= before.metrics["f1"]
    task = read_prompt(tmp_path / "run").task
    assert task is not None and task["no_answer_threshold"] != 0.0
    assert evaluate(tmp_path / "run") == fitted


def test_a_threshold_for_a_task_without_one_is_refused(run: Path) -> None:
    before = (run / "prompt" / "config.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        evaluate(run, fit_threshold=True)
    assert str(caught.value) == (
        "--fit-threshold is for question answering with unanswerable questions, and the prompt is for classification. "
        "Leave it out."
    )
    assert (run / "prompt" / "config.json").read_bytes() == before


def test_questions_without_ids_are_scored_by_a_prompt_that_learned_with_ids(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    train(tiny_run(tmp_path / "run", "question_answering", **{"training.max_steps": 1}))
    lines = (tiny_data("question_answering") / "validation.jsonl").read_text().splitlines()
    rows = [{key: value for key, value in json.loads(line).items() if key != "id"} for line in lines]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(tmp_path / "run", data=tmp_path / "data").metrics == evaluate(tmp_path / "run").metrics
