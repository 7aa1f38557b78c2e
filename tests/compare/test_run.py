from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ptuning import evaluation
from ptuning.compare.run import compare_methods
from ptuning.compare.settings import CompareConfig
from ptuning.errors import BackboneError, CheckpointError, ConfigError, DataError
from ptuning.evaluation import Evaluation, evaluate
from ptuning.reports.outcomes import Comparison, Result, read_results

Make = Callable[..., CompareConfig]
COSTS = ("seconds", "cpu_seconds", "peak_memory_bytes", "machine")  # what may differ from one run of a cell to another
TWO = {"p-tuning-v2": {}, "short": {"method": "p-tuning-v2", "prompts.prompt_length": 1}}


def _results(comparison: Comparison) -> list[dict[str, Any]]:
    assert all(outcome.result is not None for outcome in comparison.outcomes), comparison.failed
    return [outcome.result.model_dump(exclude=set(COSTS)) for outcome in comparison.outcomes if outcome.result]


def _changed(data: Path, to: Path, split: str, change: Callable[[list[dict[str, Any]]], None]) -> str:
    shutil.copytree(data, to)
    rows = [json.loads(line) for line in (to / f"{split}.jsonl").read_text().splitlines()]
    change(rows)
    (to / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(to)


def test_a_cell_is_a_run_with_its_held_out_part_scored(
    settings: Make, in_this_process: list[str], tmp_path: Path
) -> None:
    comparison = compare_methods(settings(tmp_path, run={"data.development_fraction": 0.25}, keep=True))
    (outcome,) = comparison.outcomes
    result = outcome.result
    assert isinstance(result, Result) and comparison.missing == 0
    run = tmp_path / "cells" / outcome.key / "run"
    assert (result.split, result.num_rows, result.metric) == ("validation", 12, "accuracy")
    data = Path(settings(tmp_path).tasks["colours"]["data.path"])
    labels = [json.loads(line)["label"] for line in (data / "validation.jsonl").read_text().splitlines()]
    assert result.majority_score == pytest.approx(max(map(labels.count, labels)) / 12)
    assert result.score == result.metrics["accuracy"] == evaluate(run).metrics["accuracy"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [point.score for point in result.curve] == [line["validation"]["accuracy"] for line in lines]
    assert result.development_score == max(line["validation"]["accuracy"] for line in lines)
    assert result.counts["trained"] == result.counts["prompts"] + result.counts["head"]
    assert result.trained_share == result.counts["prompts"] / result.counts["backbone"]
    assert result.file_bytes == (run / "prompt" / "prompts.safetensors").stat().st_size
    assert result.peak_memory_bytes and result.seconds > 0 and result.versions["torch"]
    assert result.cpu_seconds and result.cpu_seconds > 0
    assert str(tmp_path) not in (tmp_path / "results.json").read_text()
    assert (tmp_path / "table.md").is_file() and (tmp_path / "table.csv").is_file()


def test_the_papers_way_reports_the_best_epoch_on_the_rows_that_choose(
    settings: Make, in_this_process: list[str], tmp_path: Path
) -> None:
    comparison = compare_methods(settings(tmp_path, selection="paper"))
    (result,) = [outcome.result for outcome in comparison.outcomes]
    assert result is not None and result.num_rows == 12
    assert result.score == result.development_score == max(point.score or 0 for point in result.curve)
    assert "The paper's way" in (tmp_path / "table.md").read_text()


def test_held_out_labels_choose_nothing(
    settings: Make, in_this_process: list[str], tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    def rotate(rows: list[dict[str, Any]]) -> None:
        labels = [row["label"] for row in rows]
        for row, label in zip(rows, [*labels[1:], labels[0]], strict=True):
            row["label"] = {"red": "blue", "blue": "green", "green": "red"}[label]

    search = {"p-tuning-v2": {"training.learning_rate": [1e-3, 3e-2]}}
    data = tiny_data("classification")
    found = []
    for name, path in (("as-it-is", str(data)), ("rotated", _changed(data, tmp_path / "data", "validation", rotate))):
        tasks = {"colours": {"task": "classification", "data.path": path, "data.development_fraction": 0.5}}
        found.append(compare_methods(settings(tmp_path / name, tasks=tasks, search=search, seeds=[11, 12])))
    chosen = [[one.result.settings["training"]["learning_rate"] for one in f.part("main") if one.result] for f in found]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 2
    for one, other in zip(found[0].outcomes, found[1].outcomes, strict=True):
        assert one.result is not None and other.result is not None
        assert one.key != other.key  # other data, so nothing of one counts for the other
        assert one.result.best_epoch == other.result.best_epoch
        assert (one.result.curve, one.result.development_score) == (other.result.curve, other.result.development_score)
    assert [one.result.score for one in found[0].outcomes if one.result] != [
        one.result.score for one in found[1].outcomes if one.result
    ]


def test_the_best_try_is_the_cell_of_the_first_seed(settings: Make, in_this_process: list[str], tmp_path: Path) -> None:
    search = {"p-tuning-v2": {"training.learning_rate": [1e-3, 3e-2]}}
    comparison = compare_methods(settings(tmp_path, search=search))
    assert len(in_this_process) == 2
    (main,) = comparison.part("main")
    tried = {one.key: one.result.development_score for one in comparison.part("try") if one.result is not None}
    assert main.num_tries == 2 and tried[main.key] == max(tried.values())


def test_finished_cells_are_not_run_again(settings: Make, in_this_process: list[str], tmp_path: Path) -> None:
    first = compare_methods(settings(tmp_path, seeds=[11]))
    assert compare_methods(settings(tmp_path, seeds=[11])).outcomes == first.outcomes
    assert len(in_this_process) == 1
    more = compare_methods(settings(tmp_path, seeds=[11, 12]))
    assert more.outcomes[:1] == first.outcomes and len(in_this_process) == 2
    compare_methods(settings(tmp_path, seeds=[11], run={"head.dropout": 0.3}))
    assert len(in_this_process) == 3


def test_results_alone_are_enough_to_go_on_and_old_ones_come_back(
    settings: Make, in_this_process: list[str], tmp_path: Path
) -> None:
    first = compare_methods(settings(tmp_path, seeds=[11, 12]))
    shutil.rmtree(tmp_path / "cells")
    fewer = compare_methods(settings(tmp_path, seeds=[12]))
    assert [one.seed for one in fewer.outcomes] == [12] and [one.seed for one in fewer.kept] == [11]
    shutil.rmtree(tmp_path / "cells", ignore_errors=True)
    assert compare_methods(settings(tmp_path, seeds=[11, 12])).outcomes == first.outcomes
    assert len(in_this_process) == 2


def test_heavy_files_go_unless_they_are_kept(settings: Make, in_this_process: list[str], tmp_path: Path) -> None:
    for keep in (False, True):
        output = tmp_path / str(keep)
        methods = {"p-tuning-v2": {}, "fine-tuning": {}}
        comparison = compare_methods(settings(output, methods=methods, keep=keep))
        prompts, tuned = [output / "cells" / one.key / "run" for one in comparison.outcomes]
        assert (prompts / "prompt" / "prompts.safetensors").is_file()
        assert (prompts / "checkpoints").exists() == keep == (tuned / "checkpoints").exists()
        assert (tuned / "prompt" / "model.safetensors").exists() == keep


def test_a_cell_that_fails_leaves_the_others_and_is_tried_again(
    settings: Make, in_this_process: list[str], tmp_path: Path
) -> None:
    methods = {
        **TWO,
        "too long": {"method": "p-tuning-v2", "prompts.prompt_length": 60, "prompts.positions": "shifted"},
    }
    methods = {key: methods[key] for key in ("too long", "p-tuning-v2")}
    comparison = compare_methods(settings(tmp_path, methods=methods))
    (failed,) = comparison.failed
    assert failed.method == "too long" and "position" in str(failed.error)
    assert [one.result is None for one in comparison.outcomes] == [True, False]
    assert "| too long | 1 | failed |" in (tmp_path / "table.md").read_text()
    assert read_results(tmp_path) == comparison
    compare_methods(settings(tmp_path, methods=methods))
    assert [name.split(",")[0] for name in in_this_process] == ["too long", "p-tuning-v2", "too long"]


def test_only_tables_are_made_where_that_is_asked(settings: Make, in_this_process: list[str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no finished cells of these settings, so there is nothing to make"):
        compare_methods(settings(tmp_path), tables_only=True)
    compare_methods(settings(tmp_path))
    before = (tmp_path / "table.md").read_text()
    (tmp_path / "table.md").unlink()
    part = compare_methods(settings(tmp_path, seeds=[11, 12]), tables_only=True)
    assert (len(part.outcomes), part.missing, len(in_this_process)) == (1, 1, 1)
    assert "1 cells have not run yet" in (tmp_path / "table.md").read_text()
    compare_methods(settings(tmp_path), tables_only=True)
    assert (tmp_path / "table.md").read_text() == before


def test_tables_alone_find_what_a_search_came_to_in_its_cells(
    settings: Make, in_this_process: list[str], tmp_path: Path
) -> None:
    search = {"p-tuning-v2": {"training.learning_rate": [1e-2, 1e-3]}}
    whole = compare_methods(settings(tmp_path, search=search))
    (tmp_path / "results.json").unlink()
    assert compare_methods(settings(tmp_path, search=search), tables_only=True).outcomes == whole.outcomes


def test_a_score_that_is_no_number_is_a_failure(
    settings: Make, in_this_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: Evaluation("validation", 12, {"accuracy": math.nan}))
    (failed,) = compare_methods(settings(tmp_path)).failed
    assert "accuracy is nan on the validation rows, expected a finite number" in str(failed.error)
    assert not list(tmp_path.glob("cells/*/result.json"))


def test_rows_without_labels_are_said_before_anything_is_trained(
    settings: Make, in_this_process: list[str], tmp_path: Path
) -> None:
    def without_labels(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            del row["label"]

    own = settings(tmp_path).tasks["colours"]
    shutil.copytree(own["data.path"], tmp_path / "first")
    shutil.copy(tmp_path / "first" / "validation.jsonl", tmp_path / "first" / "test.jsonl")
    data = _changed(tmp_path / "first", tmp_path / "second", "test", without_labels)
    tasks = {"colours": {**own, "data.path": data, "split": "test"}}
    comparison = compare_methods(settings(tmp_path / "out", tasks=tasks))
    (failed,) = comparison.failed
    assert "the test rows of" in str(failed.error) and "have no labels" in str(failed.error)
    assert not list((tmp_path / "out" / "cells").glob("*/run"))


def test_data_that_are_not_there_are_said_before_anything_runs(settings: Make, tmp_path: Path) -> None:
    tasks = {"colours": {"task": "classification", "data.path": str(tmp_path / "nowhere")}}
    with pytest.raises(DataError, match="^p-tuning-v2, colours, tiny: .*nowhere is no directory"):
        compare_methods(settings(tmp_path / "out", tasks=tasks))
    assert not (tmp_path / "out").exists()


def test_a_backbone_that_is_not_there_is_said_before_anything_runs(settings: Make, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="^p-tuning-v2, colours, tiny: .*nowhere' was not found: there is no such"):
        compare_methods(settings(tmp_path / "out", backbones={"tiny": {"backbone": str(tmp_path / "nowhere")}}))
    assert not (tmp_path / "out").exists()


def test_two_comparisons_in_one_directory_are_refused(settings: Make, tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    with FileLock(tmp_path / ".compare.lock"), pytest.raises(ConfigError, match="another process is comparing in"):
        compare_methods(settings(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_comparison_ends_as_one_that_was_not(
    settings: Make, in_this_process: list[str], tmp_path: Path
) -> None:
    def config(output: Path) -> CompareConfig:
        # The second is long enough to be killed in the middle.
        methods = {"first": {"method": "p-tuning-v2"}, "second": {"method": "p-tuning-v2", "training.epochs": 40}}
        return settings(output, methods=methods)

    killed = config(tmp_path / "killed")
    (tmp_path / "c.yaml").write_text(killed.to_yaml())
    command = [sys.executable, "-c", "from ptuning.cli import main; main()", "compare", str(tmp_path / "c.yaml")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    end = time.monotonic() + 120
    while not (lines := _lines_of_a_second_run(tmp_path / "killed")) or lines < 3:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cells = tmp_path / "killed" / "cells"
    (first,) = cells.glob("*/result.json")
    (second,) = [path for path in cells.iterdir() if path != first.parent]
    written = first.stat().st_mtime_ns
    with FileLock(second / ".lock", timeout=60):  # the worker ends by itself when nobody waits for it any more
        assert not (second / "result.json").exists()
    done_before = len((second / "run" / "metrics.jsonl").read_text().splitlines())

    found = compare_methods(killed)
    assert first.stat().st_mtime_ns == written and len(in_this_process) == 1
    assert done_before >= 3 and "starting again" not in (second / "log.txt").read_text()
    whole = compare_methods(config(tmp_path / "whole"))
    for one, other in zip(_results(found), _results(whole), strict=True):
        assert [point["epoch"] for point in one["curve"]] == [point["epoch"] for point in other["curve"]]
        assert [point["score"] for point in one["curve"]] == [point["score"] for point in other["curve"]]
        assert (one["score"], one["best_epoch"]) == (other["score"], other["best_epoch"])


def _lines_of_a_second_run(output: Path) -> int | None:
    """Evaluations of the cell that runs while another is finished."""
    if not list(output.glob("cells/*/result.json")):
        return None
    running = [
        path for path in output.glob("cells/*/run/metrics.jsonl") if not (path.parents[1] / "result.json").exists()
    ]
    return len(running[0].read_text().splitlines()) if running else None
