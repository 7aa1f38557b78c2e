"""What of a directory with runs may go, and what stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ptuning.backbones.loading import Backbone
from ptuning.errors import CheckpointError, ConfigError, DataError
from ptuning.multitask import directory
from ptuning.multitask.directory import runs_in
from ptuning.multitask.run import train_multitask
from ptuning.multitask.settings import MultitaskConfig, load_multitask_config
from ptuning.training.directory import claimed
from ptuning.training.run import train

Settings = Callable[..., MultitaskConfig]


def files_of(output: Path) -> dict[str, bytes]:
    """Everything but the empty files that claim a directory."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def names_of_runs(output: Path) -> list[str]:
    return [str(path.relative_to(output)) for path in runs_in(output)]


@pytest.fixture(scope="module")
def finished(tiny_multitask: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short set of runs, to be copied."""
    output = tmp_path_factory.mktemp("finished") / "runs"
    train_multitask(tiny_multitask(output, steps=2))
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A short set of runs, to be spoiled."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def test_an_output_that_is_taken_is_refused_and_replaced_when_asked(
    tiny_multitask: Settings, backbone: Backbone, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    train_multitask(tiny_multitask(output, steps=2, seeds=[11, 12]), backbone=backbone)
    (output / "notes.txt").write_text("mine")
    (output / "seed-12" / "multi" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"has a run already \(config.yaml\). Use --resume to go on"):
        train_multitask(tiny_multitask(output, steps=2), backbone=backbone)
    train_multitask(tiny_multitask(output, steps=3, single=False), overwrite=True, backbone=backbone)
    assert (output / "notes.txt").read_text() == (output / "seed-12" / "multi" / "notes.txt").read_text() == "mine"
    assert names_of_runs(output) == ["seed-11/shared", "seed-11/multi/first", "seed-11/multi/second"]
    assert not (output / "seed-11" / "single" / "first").exists() and not (output / ".overwriting").exists()
    assert load_multitask_config(output / "config.yaml").steps == 3


def test_runs_without_the_config_above_them_are_neither_started_over_nor_deleted(
    output: Path, tiny_multitask: Settings
) -> None:
    (output / "config.yaml").unlink()
    before = files_of(output)
    with pytest.raises(
        ConfigError,
        match=r"has runs already \(seed-11/shared, seed-11/multi/first, seed-11/multi/second, seed-11/single/first and "
        r"1 more\). Use --resume .*, --overwrite to start again, or another --output",
    ):
        train_multitask(tiny_multitask(output, steps=2))
    with pytest.raises(ConfigError, match="seed-11/shared, .* and 1 more, which its config.yaml does not know"):
        train_multitask(tiny_multitask(output, steps=2), overwrite=True)
    assert files_of(output) == before


def test_a_run_that_was_sent_there_by_itself_is_not_deleted(
    tiny_multitask: Settings, tiny_run: Callable[..., Any], backbone: Backbone, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    train(tiny_run(output / "seed-7" / "single" / "mine", **{"training.epochs": 1}), backbone=backbone)
    before = files_of(output)
    with pytest.raises(ConfigError, match=r"has runs already \(seed-7/single/mine\)"):
        train_multitask(tiny_multitask(output, steps=2), backbone=backbone)
    with pytest.raises(ConfigError, match="has seed-7/single/mine, which its config.yaml does not know, so it may be"):
        train_multitask(tiny_multitask(output, steps=2), overwrite=True, backbone=backbone)
    assert files_of(output) == before


def test_a_run_beside_those_of_the_set_is_not_deleted_with_them(
    output: Path, tiny_multitask: Settings, tiny_run: Callable[..., Any], backbone: Backbone
) -> None:
    train(tiny_run(output / "seed-11" / "single" / "mine", **{"training.epochs": 1}), backbone=backbone)
    before = files_of(output)
    with pytest.raises(ConfigError, match="has seed-11/single/mine, which its config.yaml does not know"):
        train_multitask(tiny_multitask(output, steps=2), overwrite=True, backbone=backbone)
    assert files_of(output) == before


def test_files_of_others_are_not_deleted_with_an_old_run(output: Path, tiny_multitask: Settings) -> None:
    (output / "seed-11" / "shared" / "tasks" / "first" / "mine.txt").write_text("mine")
    before = files_of(output)
    with pytest.raises(ConfigError, match="tasks/first holds mine.txt, which no run has written, and would be deleted"):
        train_multitask(tiny_multitask(output, steps=2), overwrite=True)
    assert files_of(output) == before


def test_old_runs_stay_when_the_new_ones_are_refused(output: Path, tiny_multitask: Settings, tmp_path: Path) -> None:
    before = files_of(output)
    for settings in ({"prompts.layers": "first:9"}, {"tasks.first.data.path": str(tmp_path / "nowhere")}):
        with pytest.raises((ConfigError, DataError)):
            train_multitask(tiny_multitask(output, **settings), overwrite=True)
    assert files_of(output) == before


@pytest.mark.parametrize("inside", ["seed-11/shared", "seed-11/multi/first/prompt", "seed-11/shared/tasks/first"])
def test_what_new_prompts_start_from_is_not_deleted_before_it_is_read(
    inside: str, output: Path, tiny_multitask: Settings
) -> None:
    before = files_of(output)
    with pytest.raises(
        ConfigError, match="^prompts.init is .*, which --overwrite would delete before it is read. Copy"
    ):
        train_multitask(tiny_multitask(output, **{"prompts.init": str(output / inside)}), overwrite=True)
    assert files_of(output) == before


def test_data_in_an_old_run_are_not_deleted_before_they_are_read(
    output: Path, tiny_multitask: Settings, tiny_data: Callable[..., Path]
) -> None:
    data = output / "seed-11" / "multi" / "first" / "data"
    shutil.copytree(tiny_data("classification"), data)
    with pytest.raises(ConfigError, match="^tasks.second.data.path is .*/data, which --overwrite would delete"):
        train_multitask(tiny_multitask(output, **{"tasks.second.data.path": str(data)}), overwrite=True)


def test_new_prompts_may_start_from_runs_elsewhere(
    output: Path, finished: Path, tiny_multitask: Settings, backbone: Backbone
) -> None:
    settings = {"prompts.init": str(finished / "seed-11" / "shared"), "steps": 2, "single": False}
    train_multitask(tiny_multitask(output, **settings), overwrite=True, backbone=backbone)
    assert not (output / "seed-11" / "single" / "first").exists()


@pytest.mark.parametrize("held", ["", "seed-11/shared", "seed-11/single/second"])
def test_while_another_process_trains_in_any_of_the_runs_nothing_is_deleted(
    held: str, output: Path, tiny_multitask: Settings, backbone: Backbone
) -> None:
    before = files_of(output)
    with claimed(output / held), pytest.raises(ConfigError, match="another process is training in .*Wait for it"):
        train_multitask(tiny_multitask(output, steps=2), overwrite=True, backbone=backbone)
    assert files_of(output) == before


def test_the_claim_of_a_run_outlives_its_files(output: Path, tiny_multitask: Settings, backbone: Backbone) -> None:
    lock = output / "seed-11" / "single" / ".first.lock"
    with claimed(output / "seed-11" / "single" / "first"):
        pass
    number = os.stat(lock).st_ino
    train_multitask(tiny_multitask(output, steps=2, single=False), overwrite=True, backbone=backbone)
    assert os.stat(lock).st_ino == number


def test_two_processes_do_not_train_the_same_runs(output: Path, tiny_multitask: Settings, backbone: Backbone) -> None:
    before = files_of(output)
    with claimed(output), pytest.raises(ConfigError, match="another process is training in .*/runs. Wait for it"):
        train_multitask(tiny_multitask(output, steps=2), resume=True, backbone=backbone)
    assert files_of(output) == before


class Stopped(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("cleared", [0, 1, 3, 5])
@pytest.mark.parametrize("half", [False, True], ids=["between runs", "within a run"])
def test_a_stop_while_old_runs_go_is_not_resumed_but_can_be_overwritten(
    cleared: int,
    half: bool,
    output: Path,
    tiny_multitask: Settings,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clear, clear_files, count = directory._clear, directory.clear_directory, 0

    def stopping(run: Path) -> None:
        nonlocal count
        if count == cleared:
            if half and (run / "checkpoints").exists():
                shutil.rmtree(run / "checkpoints")
            raise Stopped
        count += 1
        clear(run)

    def stopping_at_the_end(run: Path) -> None:
        clear_files(run)
        if run == output:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(directory, "_clear", stopping)
        patched.setattr(directory, "clear_directory", stopping_at_the_end)
        with pytest.raises(Stopped):
            train_multitask(tiny_multitask(output, steps=3, single=False), overwrite=True, backbone=backbone)
    left = files_of(output)
    with pytest.raises(CheckpointError, match="was being overwritten when the process was .* again with --overwrite"):
        train_multitask(tiny_multitask(output, steps=2), resume=True, backbone=backbone)
    assert files_of(output) == left
    result = train_multitask(tiny_multitask(output, steps=3, single=False), overwrite=True, backbone=backbone)
    assert len(result.runs) == 4 and not (output / ".overwriting").exists()
    assert names_of_runs(output) == ["seed-11/shared", "seed-11/multi/first", "seed-11/multi/second"]


def test_results_of_old_runs_go_with_them(
    output: Path, tiny_multitask: Settings, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*args: Any, **more: Any) -> None:
        raise Stopped

    monkeypatch.setattr(torch.optim.AdamW, "step", stopping)
    with pytest.raises(Stopped):
        train_multitask(tiny_multitask(output, steps=3), overwrite=True, backbone=backbone)
    assert not (output / "results.json").exists() and load_multitask_config(output / "config.yaml").steps == 3


def test_a_run_that_has_lost_its_config_is_not_trained_over(output: Path, tiny_multitask: Settings) -> None:
    (output / "seed-11" / "multi" / "first" / "config.yaml").unlink()
    before = files_of(output)
    with pytest.raises(CheckpointError, match="^seed-11/multi/first has no config.yaml, expected one in every run"):
        train_multitask(tiny_multitask(output, steps=2), resume=True)
    assert files_of(output) == before


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_the_shared_stage_is_no_directory_of_all_runs(how: str, output: Path) -> None:
    stage = output / "seed-11" / "shared"
    before = files_of(output)
    config = load_multitask_config(stage / "config.yaml", {"output": str(stage)})
    with pytest.raises(ConfigError, match=f"is the shared stage of other runs, .* Use --output {output}, or one that"):
        train_multitask(config, **{how: True})
    assert files_of(output) == before


def test_an_ordinary_run_gives_way_when_asked(
    tiny_multitask: Settings, tiny_run: Callable[..., Any], backbone: Backbone, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    train(tiny_run(output, **{"training.epochs": 1}), backbone=backbone)
    with pytest.raises(ConfigError, match="^prompts.init is .*, which --overwrite would delete before it is read"):
        train_multitask(tiny_multitask(output, **{"prompts.init": str(output)}), overwrite=True, backbone=backbone)
    train_multitask(tiny_multitask(output, steps=2, single=False), overwrite=True, backbone=backbone)
    assert not (output / "prompt").exists() and not (output / "metrics.jsonl").exists()
