from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ptuning
from ptuning.backbones.loading import load_backbone
from ptuning.checkpoint import read_prompt, save_prompt
from ptuning.diagnostics import diagnose
from ptuning.diagnostics.diagnosis import usual_output
from ptuning.errors import BackboneMismatchError, CheckpointError, ConfigError, DataError, MissingDependencyError
from ptuning.reports import style

Tasks = tuple[Path, Path]


def test_one_run_is_diagnosed_and_drawn(tasks: Tasks, tmp_path: Path) -> None:
    found = diagnose(tasks[0], output=tmp_path / "seen")
    (task,) = found.tasks
    assert (task.name, task.method, task.prompt_length, task.layers) == ("colours", "p-tuning-v2", 4, (0, 1))
    assert (found.split, task.num_rows, found.notes) == ("validation", 12, ())
    assert len(task.attention) == 2 and all(len(heads) == 4 for heads in task.attention)
    assert all(0.0 < share < 1.0 for heads in task.attention for share in heads)
    names = ["attention-colours", "norms-colours", "similarity"]
    written = [f"{name}.{suffix}" for name in names for suffix in ("svg", "png")] + ["diagnostics.json"]
    assert [path.name for path in found.files] == written
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == sorted(written)
    numbers = json.loads((tmp_path / "seen" / "diagnostics.json").read_text())
    assert numbers == json.loads(json.dumps(found.to_dict()))
    assert numbers["tasks"][0]["attention"] == [list(heads) for heads in task.attention]
    assert numbers["similarity"]["between"] == "layers" and numbers["similarity"]["pairs"] == [["0", "1"]]


def test_norms_over_training_end_with_those_of_the_saved_prompt(tasks: Tasks) -> None:
    task = diagnose(tasks[0]).tasks[0]
    assert [point.epoch for point in task.training] == [1, 2] and task.training[-1].step == 6
    best = [point for point in task.training if point.is_best][-1]
    assert (best.layers, best.keys, best.values) == (task.layers, task.keys, task.values)
    saved = read_prompt(tasks[0]).prompts
    assert task.keys == pytest.approx(saved[:, 0].norm(dim=-1).mean((1, 2)).tolist(), abs=1e-4)
    assert len({point.keys for point in task.training}) == 2


def test_several_runs_are_compared_where_both_have_prompts(tasks: Tasks, tmp_path: Path) -> None:
    found = diagnose(tasks, rows=5, output=tmp_path)
    colours, tags = found.tasks
    assert [colours.num_rows, tags.num_rows] == [5, 5]
    assert tags.layers == (1,) and tags.attention[0] == (0.0,) * 4 and min(tags.attention[1]) > 0.0
    assert found.similarity is not None
    assert (found.similarity.between, found.similarity.layers) == ("tasks", (1,))
    assert found.similarity.pairs == (("colours", "tags"),)
    assert (tmp_path / "attention-tags.svg").is_file() and (tmp_path / "norms-colours.png").is_file()
    alone = diagnose(tasks[1], rows=5).tasks[0]
    assert alone == tags, "others in the bank change nothing"


def test_runs_that_began_as_the_same_numbers_are_told_of_it(tasks: Tasks, tmp_path: Path) -> None:
    shutil.copytree(tasks[0], tmp_path / "again")
    assert "drawn from one seed and began as the same numbers" in diagnose([tasks[0], tmp_path / "again"]).notes[-1]
    assert diagnose(tasks).notes == (), "of other lengths and layers"


def test_rows_are_spread_over_the_split(tasks: Tasks, tiny_data: Any, tmp_path: Path) -> None:
    lines = (tiny_data("classification") / "validation.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "validation.jsonl").write_text("".join(lines[::4]))
    some = diagnose(tasks[0], rows=3).tasks[0]
    same = diagnose(tasks[0], rows=3, data=tmp_path / "third").tasks[0]
    assert (some.num_rows, some.attention) == (3, same.attention)


def test_other_data_and_rows_without_labels_do(tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "the red lamp is late"}\n')
    found = diagnose(tasks[0], data=tmp_path, split="test")
    assert (found.split, found.tasks[0].num_rows) == ("test", 1)


def test_a_prompt_alone_and_a_run_of_an_older_version_have_no_history(
    tasks: Tasks, tiny_data: Any, tmp_path: Path
) -> None:
    shutil.copytree(tasks[0] / "prompt", tmp_path / "colours")
    with pytest.raises(ConfigError, match="does not say which data it was trained on. Give a directory or a data set"):
        diagnose(tmp_path / "colours")
    found = diagnose(tmp_path / "colours", data=tiny_data("classification"), output=tmp_path / "seen")
    assert found.tasks[0].training == () and found.tasks[0].keys == diagnose(tasks[0]).tasks[0].keys
    assert found.notes == (
        "The norms of colours over training are not known, since its prompt is in no run, or in one of a ptuning that "
        "did not write them: only those of the saved prompt are shown.",
    )
    assert (tmp_path / "seen" / "norms-colours.svg").is_file()
    shutil.copytree(tasks[0], tmp_path / "old")
    lines = [json.loads(line) for line in (tmp_path / "old" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["prompt_norms"]
    (tmp_path / "old" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert diagnose(tmp_path / "old").tasks[0].training == ()


def test_prompts_at_one_layer_alone_have_nothing_to_compare(tasks: Tasks, tmp_path: Path) -> None:
    found = diagnose(tasks[1], output=tmp_path)
    assert found.similarity is None and not (tmp_path / "similarity.svg").exists()
    assert "no two layers to compare" in found.notes[-1]


def test_the_backbone_that_is_given_is_used_and_left_as_it_was(tasks: Tasks, tiny_backbone: Path) -> None:
    backbone = load_backbone(tiny_backbone, device="cpu", dtype=torch.float32)
    assert diagnose(tasks[0], backbone=backbone).tasks == diagnose(tasks[0]).tasks
    ptuning.load(tasks[0], backbone=backbone).close()  # nothing is attached any more


def test_two_runs_of_one_name_have_files_of_their_own(tasks: Tasks, tmp_path: Path) -> None:
    for place in ("a", "b"):
        shutil.copytree(tasks[1], tmp_path / place / "tags")
    found = diagnose([tmp_path / "a" / "tags", tmp_path / "b" / "tags"], output=tmp_path / "seen")
    assert len({path.name for path in found.files}) == len(found.files) == 11
    assert found.similarity is not None and found.similarity.keys == ((pytest.approx(1.0),),)


def test_it_is_written_into_a_single_run_and_else_here(tasks: Tasks, tmp_path: Path) -> None:
    assert usual_output([tasks[0]]) == usual_output([tasks[0] / "prompt"]) == tasks[0].resolve() / "diagnostics"
    shutil.copytree(tasks[0] / "prompt", tmp_path / "colours")
    assert usual_output([tmp_path / "colours"]) == usual_output(tasks) == Path("diagnostics")


def test_what_is_no_run_is_named(tasks: Tasks, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is neither a prompt nor a finished run"):
        diagnose([tasks[0], tmp_path])
    with pytest.raises(CheckpointError, match="does not exist, expected a run directory or its prompt/"):
        diagnose(tmp_path / "nowhere")


def test_prompts_of_different_backbones_are_refused_before_one_is_loaded(tasks: Tasks, tmp_path: Path) -> None:
    saved = read_prompt(tasks[0])
    other = replace(saved.backbone, name="other-bert", fingerprint="0" * 64)
    save_prompt(tmp_path / "other", replace(saved, backbone=other))
    with pytest.raises(BackboneMismatchError, match="other was trained on other-bert and .* expected prompts of one"):
        diagnose([tasks[0], tmp_path / "other"])


def test_methods_without_prompts_at_the_layers_have_nothing_to_diagnose(tasks: Tasks, tmp_path: Path) -> None:
    saved = read_prompt(tasks[0])
    save_prompt(tmp_path / "bits", replace(saved, method="bitfit"))
    with pytest.raises(
        ConfigError, match=r"with bitfit and has no prompts at the layers.*one of p-tuning-v2, prefix-tu"
    ):
        diagnose(tmp_path / "bits")
    save_prompt(tmp_path / "none", replace(saved, prompts=saved.prompts[:, :, :, :0]))
    with pytest.raises(ConfigError, match="so there is nothing to diagnose.*prompt_length of 1 or more. Leave it out"):
        diagnose(tmp_path / "none")


def test_rows_splits_and_prompts_that_cannot_be_are_refused(tasks: Tasks) -> None:
    with pytest.raises(ConfigError, match="rows is 0, expected at least 1"):
        diagnose(tasks[0], rows=0)
    with pytest.raises(ConfigError, match="is given twice, expected each prompt once"):
        diagnose([tasks[0], tasks[0] / "prompt"])
    with pytest.raises(DataError, match="has no test split"):
        diagnose(tasks[0], split="test")


def test_a_file_where_figures_are_to_go_is_said_before_anything_is_loaded(
    tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(ptuning.diagnostics.diagnosis, "load", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ConfigError, match="output is .*file, a file, expected a directory for the figures"):
        diagnose(tasks[0], output=tmp_path / "file")


def test_matplotlib_is_asked_for_before_anything_is_computed(
    tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError("figures are drawn by matplotlib")

    for module in (style, ptuning.diagnostics.diagnosis):
        monkeypatch.setattr(module, "require_matplotlib", missing)
    monkeypatch.setattr(ptuning.diagnostics.diagnosis, "load", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(MissingDependencyError):
        diagnose(tasks[0], output=tmp_path)


def test_numbers_need_no_matplotlib(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptuning.diagnostics.diagnosis, "require_matplotlib", lambda: pytest.fail("not needed"))
    assert diagnose(tasks[0]).files == ()


def test_a_population_shows_the_course_of_its_best_candidate(tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    candidates = [{"prompts.prompt_length": 2}, {"prompts.prompt_length": 5, "training.learning_rate": 0.02}]
    result = ptuning.train_population(tiny_run(tmp_path / "many"), candidates)
    lines = [json.loads(line) for line in (tmp_path / "many" / "metrics.jsonl").read_text().splitlines()]
    for number in (0, 1):
        task = diagnose(tmp_path / "many" / "candidates" / str(number)).tasks[0]
        own = [line for line in lines if line["candidate"] == number]
        assert [list(point.keys) for point in task.training] == [line["prompt_norms"]["keys"] for line in own]
        assert task.keys == [point for point in task.training if point.is_best][-1].keys
    best = diagnose(tmp_path / "many").tasks[0]
    assert best.prompt_length == (2, 5)[result.best] and len(best.training) == 2
