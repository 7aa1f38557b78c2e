from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ptuning import evaluation
from ptuning.checkpoint import read_prompt, save_prompt
from ptuning.config import load_config
from ptuning.errors import CheckpointError, ConfigError, DataError
from ptuning.evaluation import evaluate
from ptuning.predictor import load
from ptuning.submission import read_split
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
    with pytest.raises(DataError) as caught:
        evaluate(run, data=tmp_path, split="test")
    assert str(caught.value) == (
        f"{tmp_path / 'test.jsonl'}:1: the label 'purple' is not among the 3 label names of the prompt: blue, green, "
        "red. Correct the row, or leave it out: the prompt knows what it was trained for alone."
    )


def test_other_columns_are_read_where_predictions_read_them(tiny_run: TinyRun, tmp_path: Path) -> None:
    rows = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "label": n % 2} for n in range(6)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"task": "glue/mrpc", "data.path": str(tmp_path / "data"), "training.max_steps": 1}
    train(tiny_run(tmp_path / "run", **settings))
    (tmp_path / "glue").mkdir()
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *(f"{n % 2}\t1\t2\ta {n}\tb {n}" for n in range(4))]
    (tmp_path / "glue" / "dev.tsv").write_text("\n".join(lines) + "\n")
    asked = read_split(load(tmp_path / "run").tasks[0], str(tmp_path / "glue"), "validation")
    assert asked.rows == [{"text": f"a {n}", "text_pair": f"b {n}"} for n in range(4)]
    assert evaluate(tmp_path / "run", data=tmp_path / "glue").num_rows == 4


def test_a_template_reads_its_own_names_where_those_of_training_are_not_there(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    row = {"span1_index": 0, "span1_text": "Ann", "span2_index": 3, "span2_text": "she"}
    rows = [{**row, "text": "Ann ran as she fell.", "label": n % 2} for n in range(6)]
    for name in ("own", "standard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(
            "".join(
                json.dumps({("sentence" if key == "text" and name == "own" else key): row[key] for key in row}) + "\n"
                for row in rows
            )
        )
    settings = {"task": "super_glue/wsc", "data.path": str(tmp_path / "own"), "data.columns": {"text": "sentence"}}
    train(tiny_run(tmp_path / "run", **settings, **{"training.max_steps": 1}))
    assert evaluate(tmp_path / "run", data=tmp_path / "standard", split="train").num_rows == 5
    (tmp_path / "neither").mkdir()
    (tmp_path / "neither" / "test.jsonl").write_text(json.dumps({**row, "label": 1}) + "\n")
    with pytest.raises(DataError, match="no column 'text', but the template wsc/0 .* Rename one, or add it.$"):
        evaluate(tmp_path / "run", data=tmp_path / "neither", split="test")


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


def test_a_threshold_fitted_to_the_runs_own_validation_rows_has_its_metrics_saved(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    train(tiny_run(tmp_path / "run", "question_answering"))
    before = read_prompt(tmp_path / "run")
    assert before.metrics["f1"] == evaluate(tmp_path / "run").metrics["f1"]
    # On other rows, and then on train: the metrics stay, and it is said what they are from.
    for where in ({"data": tmp_path / "other"}, {"split": "train"}):
        if "data" in where:
            shutil.copytree(str(tiny_run(tmp_path, "question_answering").data.path), tmp_path / "other")
        evaluate(tmp_path / "run", fit_threshold=True, **where)  # type: ignore[arg-type]
        saved = read_prompt(tmp_path / "run")
        assert saved.metrics == before.metrics
        assert saved.metrics_from == "with a no-answer threshold of 0; another was fitted to other rows"
    card = (tmp_path / "run" / "prompt" / "README.md").read_text(encoding="utf-8")
    assert "The validation metrics are with a no-answer threshold of 0; another was fitted to other rows." in card
    fitted = evaluate(tmp_path / "run", fit_threshold=True)
    saved = read_prompt(tmp_path / "run")
    assert saved.metrics == fitted.metrics == evaluate(tmp_path / "run").metrics
    assert saved.metrics_from is None
    card = (tmp_path / "run" / "prompt" / "README.md").read_text(encoding="utf-8")
    assert f"| validation f1 | {fitted.metrics['f1']:.4f} |" in card and "The validation metrics are" not in card


def test_a_prompt_in_the_hubs_cache_is_not_rewritten(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    train(tiny_run(tmp_path / "run", "question_answering", **{"training.max_steps": 1}))
    snapshot = tmp_path / "models--me--questions" / "snapshots" / ("0123abcd" * 5)
    shutil.copytree(tmp_path / "run" / "prompt", snapshot)
    before = (snapshot / "config.json").read_bytes()
    with pytest.raises(CheckpointError) as caught:
        evaluate(snapshot, data=tiny_data("question_answering"), fit_threshold=True)
    assert str(caught.value) == (
        f"--fit-threshold would change {snapshot}, which is in the hub's cache, shared by all that use it. Copy it "
        f"first, such as with `cp -rL {snapshot} my-prompt`, and give the copy."
    )
    assert (snapshot / "config.json").read_bytes() == before


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


def test_a_runs_validation_limit_holds(tiny_run: TinyRun, tmp_path: Path) -> None:
    result = train(tiny_run(tmp_path / "run", **{"data.max_validation_rows": 5, "data.max_train_rows": 9}))
    again = evaluate(tmp_path / "run")
    assert (again.num_rows, again.metrics) == (5, result.metrics)
    assert "validation: 5 of 12 rows used (max_validation_rows, seed 11)." in again.notes
    assert evaluate(tmp_path / "run", split="train").num_rows == 9


def test_numbers_mean_in_evaluation_what_they_meant_in_training(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset_info.json").write_text('{"label_names": ["1", "2"]}')
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (tiny_data("classification") / f"{split}.jsonl").read_text().splitlines()]
        # Train has 0 and 1, so these are places; validation has 1 alone, which is a name too.
        own = [{**row, "label": int(row["label"] == "red")} for row in rows]
        own = own if split == "train" else [{**row, "label": 1} for row in own]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    result = train(tiny_run(tmp_path / "run", **{"data.path": str(data)}))
    assert evaluate(tmp_path / "run").metrics == result.metrics
    assert evaluate(tmp_path / "run", data=data).metrics == result.metrics
    shutil.copytree(tmp_path / "run" / "prompt", tmp_path / "alone")
    assert evaluate(tmp_path / "alone", data=data).metrics == result.metrics


def test_data_that_have_other_labels_than_in_training_are_refused(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_data("classification"), tmp_path / "data")
    train(tiny_run(tmp_path / "run", **{"data.path": str(tmp_path / "data"), "training.max_steps": 1}))
    path = tmp_path / "data" / "train.jsonl"
    path.write_text(path.read_text() + '{"text": "a grey box", "label": "grey"}\n')
    with pytest.raises(DataError) as caught:
        evaluate(tmp_path / "run")
    assert str(caught.value) == (
        f"the data of {tmp_path / 'data'} have the labels blue, green, grey, red, but the prompt was trained for blue, "
        "green, red: they have changed since. Restore them, or give others with --data."
    )


def test_a_prompt_on_its_own_scores_the_rows_that_its_training_held_out(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(tiny_data("classification") / "train.jsonl", tmp_path / "data")
    settings = {"data.path": str(tmp_path / "data"), "data.development_fraction": 0.3, "training.seed": 5}
    result = train(tiny_run(tmp_path / "run", **settings))
    saved = read_prompt(tmp_path / "run")
    assert saved.task is not None
    task = {**saved.task, "held_out": {"seed": 5, "development_fraction": 0.3}}
    save_prompt(tmp_path / "alone", replace(saved, task=task))
    alone = evaluate(tmp_path / "alone", data=tmp_path / "data")
    assert (alone.num_rows, alone.metrics) == (7, result.metrics)
    assert alone.notes == evaluate(tmp_path / "run").notes
    assert evaluate(tmp_path / "alone", data=tmp_path / "data", split="train").num_rows == 17
    # Where the prompt does not say it, it is said that nobody knows.
    del task["held_out"]
    save_prompt(tmp_path / "alone", replace(saved, task=task))
    unknown = evaluate(tmp_path / "alone", data=tmp_path / "data")
    assert unknown.num_rows == 2
    assert unknown.notes[-1] == (
        "The prompt does not say which rows its training held out, so it may have learned from some of these. "
        "Give a directory with a validation file to be sure."
    )


@pytest.mark.parametrize("inside", ["run", "prompt"])
def test_a_run_is_evaluated_from_inside(inside: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "prompt" if inside == "prompt" else run)
    assert evaluate(".").metrics == read_prompt(run).metrics


def test_data_that_had_a_relative_path_are_found_from_elsewhere(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_data("classification"), tmp_path / "data" / "colours")
    result = train(tiny_run(Path("runs/colours"), **{"data.path": "data/colours"}))
    monkeypatch.chdir(tmp_path / "runs" / "colours")
    assert evaluate(".").metrics == result.metrics


def test_the_prompt_is_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes, names = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: (names.append(path.name), read_bytes(path))[1])
    evaluate(run)
    assert names.count("prompts.safetensors") == 1


def test_the_device_is_that_of_loading(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*arguments: Any, **options: Any) -> Any:
        asked.append(options["device"])
        return own(*arguments, **options)

    own = evaluation.load
    monkeypatch.setattr(evaluation, "load", load)
    evaluate(run)
    evaluate(run, device="cpu")
    with pytest.raises(ConfigError, match="the device is 'warp', which this machine does not have"):
        evaluate(run, device="warp")
    assert asked == [None, "cpu", "warp"]


def test_a_run_that_chose_by_development_rows_is_scored_on_the_validation_rows(
    tiny_run: TinyRun, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    settings = {"data.selection": "development", "data.development_fraction": 0.25}
    result = train(tiny_run(tmp_path / "run", **settings))
    found = evaluate(tmp_path / "run")
    assert (found.split, found.num_rows) == ("validation", 12)
    assert found.notes[0].startswith("selection: development: 6 of 24 train rows (development_fraction 0.25, seed 11)")
    assert evaluate(tmp_path / "run", split="train").num_rows == 18
    saved = read_prompt(tmp_path / "run")
    assert saved.metrics == result.metrics
    assert saved.metrics_from == "of rows held out of train to choose by (data.selection: development)"
    assert (saved.task or {})["held_out"] == {"seed": 11, "development_fraction": 0.25, "selection": "development"}

    shutil.copytree(tmp_path / "run" / "prompt", tmp_path / "alone")  # the prompt knows what was held out
    data = tiny_data("classification")
    assert evaluate(tmp_path / "alone", data=data).metrics == found.metrics
    assert evaluate(tmp_path / "alone", data=data, split="train").num_rows == 18


def test_a_run_that_chose_by_development_rows_goes_on(tiny_run: TinyRun, tmp_path: Path) -> None:
    settings = tiny_run(tmp_path / "run", **{"data.selection": "development"})
    assert train(settings).metrics == train(load_config(tmp_path / "run" / "config.yaml"), resume=True).metrics
