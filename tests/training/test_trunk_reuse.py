"""Training from recorded lower layers is training, only faster."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ptuning.backbones.late_start import LateStart
from ptuning.errors import ConfigError, TrainingError
from ptuning.training import execution, trunk_reuse
from ptuning.training.reporting import Silent
from ptuning.training.run import train

TinyRun = Callable[..., Any]
KINDS = ("classification", "multiple_choice", "token_classification", "question_answering", "cloze")
UPPER = {"prompts.layers": "last:1", "training.backbone_dropout": "off", "training.precision": "fp32"}
# The highest that are taken.
TOO_HIGH = {"training.learning_rate": 1e30, "training.weight_decay": 1e6, "training.max_grad_norm": 1e30}


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def _saved(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "prompt" / "prompts.safetensors")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each call of the lower layers got."""
    calls: list[int] = []
    record = LateStart.record

    def counted(self: LateStart, inputs: dict[str, Tensor]) -> Tensor:
        calls.append(len(inputs["input_ids"]))
        return record(self, inputs)

    monkeypatch.setattr(LateStart, "record", counted)
    return calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_reuses_the_trunk_ends_as_one_that_does_not(
    kind: str, precision: str, tiny_run: TinyRun, tmp_path: Path, recorded: list[int]
) -> None:
    runs = {}
    for reuse in ("off", "on"):
        overrides = {**UPPER, "training.trunk_reuse": reuse, "training.precision": precision}
        runs[reuse] = train(tiny_run(tmp_path / reuse, kind, **overrides))
        assert bool(recorded) == (reuse == "on")
    tolerance = 1e-5 if precision == "fp32" else 2e-2  # other batch mates: other roundings
    for name, tensor in _saved(tmp_path / "off").items():
        if name == "head.linear.bias" and kind in ("multiple_choice", "question_answering", "cloze"):
            continue  # what is added to all choices or tokens changes nothing: its gradient is rounding alone
        torch.testing.assert_close(_saved(tmp_path / "on")[name], tensor, rtol=0, atol=tolerance)
    assert runs["on"].metrics == pytest.approx(runs["off"].metrics, abs=1e-6 if precision == "fp32" else 0.2)


def test_every_sequence_goes_through_the_lower_layers_once(
    tiny_run: TinyRun, tmp_path: Path, recorded: list[int]
) -> None:
    told = Told()
    config = tiny_run(tmp_path / "run", "multiple_choice", **UPPER, **{"training.epochs": 3})
    train(config, report=told)
    data = Path(config.data.path)
    rows = [
        json.loads(line)
        for name in ("train", "validation")
        for line in (data / f"{name}.jsonl").read_text().splitlines()
    ]
    different = {choice for row in rows for choice in row["choices"]}  # the question is the same in all
    assert sum(recorded) - 1 == len(different)  # and two tokens to see the form of the layers
    (note,) = [note for note in told.notes if "below the prompts" in note]
    assert note.startswith(
        f"running the 1 layers below the prompts once for {len(different)} sequences, without dropout there"
    )


def test_the_file_goes_when_the_run_is_finished(tiny_run: TinyRun, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "run", **UPPER))
    assert not (tmp_path / "run" / "trunk").exists()


def _stopped(
    tiny_run: TinyRun, directory: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any] = UPPER
) -> None:
    """Leaves a run that was stopped after its first epoch."""
    save = execution.save_state

    def stop(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(execution, "save_state", stop)
        train(tiny_run(directory, **settings))


@pytest.mark.parametrize("damage", ["none", "short", "other", "no index"])
def test_a_run_that_goes_on_reads_a_whole_file_and_makes_a_damaged_one_again(
    damage: str, tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: list[int]
) -> None:
    train(tiny_run(tmp_path / "whole", **UPPER))
    _stopped(tiny_run, tmp_path / "run", monkeypatch)
    trunk = tmp_path / "run" / "trunk"
    assert sorted(path.name for path in trunk.iterdir()) == ["index.json", "states.bin"]
    index = json.loads((trunk / "index.json").read_text())
    assert (trunk / "states.bin").stat().st_size == index["num_bytes"] == index["num_tokens"] * 32 * 4
    if damage == "short":
        (trunk / "states.bin").write_bytes((trunk / "states.bin").read_bytes()[:-1])
    elif damage == "other":
        (trunk / "index.json").write_text(json.dumps({**index, "data": "other"}))
    elif damage == "no index":
        (trunk / "index.json").unlink()
    recorded.clear()
    train(tiny_run(tmp_path / "run", **UPPER), resume=True)
    assert (len(recorded) == 1) == (damage == "none")  # the two tokens alone
    for name, tensor in _saved(tmp_path / "whole").items():
        assert torch.equal(_saved(tmp_path / "run")[name], tensor)
    assert not trunk.exists()


def test_an_interrupted_write_leaves_nothing(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trunk_reuse, "collate", interrupted)
        train(tiny_run(tmp_path / "run", **UPPER))
    assert not list((tmp_path / "run").rglob("*states*"))
    train(tiny_run(tmp_path / "run", **UPPER), overwrite=True)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            {"prompts.layers": "all"},
            r"the prompts begin at layer 0 \(prompts.layers\), which leaves no layer.*\. Change that,",
        ),
        (
            {"free": 10_000},
            r"the output of the layers below the prompts takes \d\.\d MB, and .*on has 0\.0 MB free\. Make room",
        ),
    ],
)
def test_where_it_cannot_be_auto_goes_without_and_on_is_refused(
    overrides: dict[str, Any],
    reason: str,
    tiny_run: TinyRun,
    tmp_path: Path,
    recorded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**UPPER, **overrides}
    if "free" in settings:
        usage = namedtuple("usage", "total used free")(10**9, 10**9, settings.pop("free"))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    told = Told()
    train(tiny_run(tmp_path / "run", **settings), report=told)
    assert not recorded
    assert any("run in every epoch, since the output" in note for note in told.notes) == ("free" in overrides)
    with pytest.raises(ConfigError, match=rf"trunk_reuse is on, but {reason}.*or set training.trunk_reuse to off"):
        train(tiny_run(tmp_path / "on", **settings, **{"training.trunk_reuse": "on"}))


def test_one_epoch_is_not_worth_it(tiny_run: TinyRun, tmp_path: Path, recorded: list[int]) -> None:
    train(tiny_run(tmp_path / "run", **{**UPPER, "training.epochs": 1}))
    assert not recorded


def test_off_is_off(tiny_run: TinyRun, tmp_path: Path, recorded: list[int]) -> None:
    train(tiny_run(tmp_path / "run", **UPPER, **{"training.trunk_reuse": "off"}))
    assert not recorded


def test_a_disk_without_room_is_an_error_before_anything_is_written(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file that only claims its size would end the process at the first block without room."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    told = Told()
    train(tiny_run(tmp_path / "run", **UPPER), report=told)
    assert any(note.endswith("run: No space left on device") for note in told.notes)
    with pytest.raises(ConfigError, match=r"trunk_reuse is on, but .*No space left on device. Make room"):
        train(tiny_run(tmp_path / "on", **UPPER, **{"training.trunk_reuse": "on"}))
    assert not list(tmp_path.rglob("*states*"))


def test_without_fallocate_the_file_is_filled(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_run(tmp_path / "with", **UPPER))
    monkeypatch.delattr(os, "posix_fallocate")
    train(tiny_run(tmp_path / "without", **UPPER))
    for name, tensor in _saved(tmp_path / "with").items():
        assert torch.equal(_saved(tmp_path / "without")[name], tensor)


@pytest.mark.parametrize("reused", [True, False])
def test_a_run_that_goes_on_does_as_when_it_began(
    reused: bool, tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: list[int]
) -> None:
    """Without reuse there is dropout below the prompts, so it must not change on the way."""
    settings = {**UPPER, "training.backbone_dropout": "checkpoint"}
    whole = {**settings, "training.trunk_reuse": "on" if reused else "off"}
    train(tiny_run(tmp_path / "whole", **whole))
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 0)
    with monkeypatch.context() as patch:
        if not reused:
            patch.setattr(shutil, "disk_usage", lambda path: usage)
        _stopped(tiny_run, tmp_path / "run", monkeypatch, settings)
    recorded.clear()
    if reused:
        shutil.rmtree(tmp_path / "run" / "trunk")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage)
            with pytest.raises(ConfigError, match=r"is on \(as when this run began\), but .*MB free. Make room"):
                train(tiny_run(tmp_path / "run", **settings), resume=True)
    train(tiny_run(tmp_path / "run", **settings), resume=True)
    assert bool(recorded) == reused
    for name, tensor in _saved(tmp_path / "whole").items():
        assert torch.equal(_saved(tmp_path / "run")[name], tensor)


def test_dropout_that_was_asked_for_by_number_is_kept(tiny_run: TinyRun, tmp_path: Path, recorded: list[int]) -> None:
    train(tiny_run(tmp_path / "run", **{**UPPER, "training.backbone_dropout": 0.2}))
    assert not recorded
    train(tiny_run(tmp_path / "on", **{**UPPER, "training.backbone_dropout": 0.2, "training.trunk_reuse": "on"}))
    assert recorded


def test_a_run_that_failed_for_good_leaves_no_file(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(tiny_run(tmp_path / "run", **UPPER, **TOO_HIGH))
    assert not (tmp_path / "run" / "trunk").exists()


def test_the_lower_layers_keep_to_the_limit_of_positions(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    record = LateStart.record

    def seen(self: LateStart, inputs: dict[str, Tensor]) -> Tensor:
        shapes.append(tuple(inputs["input_ids"].shape))
        return record(self, inputs)

    monkeypatch.setattr(LateStart, "record", seen)
    train(tiny_run(tmp_path / "run", **UPPER, **{"training.micro_batch_tokens": 40}))
    assert len(shapes) > 3 and all(rows * width <= 40 for rows, width in shapes)
