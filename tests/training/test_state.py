from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ptuning.errors import CheckpointError
from ptuning.training.state import Progress, Standing, load_state, save_state

ORIGIN = {"data": "d" * 8, "backbone": "b" * 8}


def _model(seed: int = 0) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        "bank.prompts.0.prompts": nn.Parameter(torch.randn(2, 3, generator=generator)),
        "heads.0.linear.bias": nn.Parameter(torch.randn(3, generator=generator)),
    }
    return parameters, torch.optim.AdamW(parameters.values(), lr=0.1)


def _step(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parameters, optimizer = _model()
    _step(parameters, optimizer)
    save_state(tmp_path / "last", Progress(epoch=1, step=1), parameters, optimizer, ORIGIN)
    return tmp_path / "last"


def test_a_saved_state_goes_on_exactly(tmp_path: Path) -> None:
    parameters, optimizer = _model()
    _step(parameters, optimizer)
    progress = Progress(3, 2, 17, [Standing(0.1 + 0.2, 1 / 3, 2, 0.3, 1), Standing(is_over=True)], 3, 1.5, False)
    save_state(tmp_path / "last", progress, parameters, optimizer, ORIGIN)
    _step(parameters, optimizer)

    others, other_optimizer = _model(seed=1)
    torch.rand(5)
    assert load_state(tmp_path / "last", others, other_optimizer, ORIGIN) == progress
    _step(others, other_optimizer)  # draws its gradients from the random state that was kept
    for name, parameter in parameters.items():
        assert torch.equal(others[name], parameter)
        moments, expected = other_optimizer.state[others[name]], optimizer.state[parameter]
        assert moments.keys() == expected.keys()
        assert all(torch.equal(moments[key], expected[key]) for key in expected)


def test_it_is_safetensors_and_json_only(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["state.json", "tensors.safetensors"]
    assert json.loads((saved / "state.json").read_text())["origin"] == ORIGIN


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load_state(tmp_path / "last", *_model(), ORIGIN) is None


def test_a_checkpoint_that_a_dead_process_moved_aside_comes_back(saved: Path) -> None:
    saved.rename(saved.parent / ".last.old")
    assert load_state(saved, *_model(), ORIGIN) == Progress(epoch=1, step=1)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"data": "x"}, "the data are not those the run was started with"),
        (
            {"backbone": "x"},
            "the backbone's weights are not those the run was started with, so it cannot go on exactly",
        ),
    ],
)
def test_other_data_or_another_backbone_is_refused_and_named(saved: Path, origin: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_state(saved, *_model(), ORIGIN | origin)


def test_other_parameters_are_refused_and_named(saved: Path) -> None:
    parameters, optimizer = _model()
    del parameters["heads.0.linear.bias"]
    with pytest.raises(
        CheckpointError, match=r"has trained parameters \[.*bias'\], expected \['bank.prompts.0.prompts'\]"
    ):
        load_state(saved, parameters, optimizer, ORIGIN)


def test_parameters_of_another_shape_are_refused_and_named(saved: Path) -> None:
    parameters, optimizer = _model()
    parameters["heads.0.linear.bias"] = nn.Parameter(torch.zeros(4))
    with pytest.raises(CheckpointError, match=r"heads.0.linear.bias of shape \(3,\), expected \(4,\)"):
        load_state(saved, parameters, optimizer, ORIGIN)


def test_tensors_that_were_cut_off_are_refused(saved: Path) -> None:
    path = saved / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match="tensors.safetensors was altered or cut off. Start again with --overwrite"
    ):
        load_state(saved, *_model(), ORIGIN)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"epoch": 1}', '{"sha256": 1, "origin": 3}'])
def test_a_damaged_state_is_refused(saved: Path, content: str) -> None:
    (saved / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match="Start again with --overwrite"):
        load_state(saved, *_model(), ORIGIN)


@pytest.mark.parametrize("change", [{"epoch": "two"}, {"more": 1}, {"step": None}])
def test_a_state_with_other_fields_is_refused(saved: Path, change: dict[str, Any]) -> None:
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | change))
    with pytest.raises(CheckpointError, match="is damaged.*Start again with --overwrite"):
        load_state(saved, *_model(), ORIGIN)


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_a_missing_file_is_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"is damaged.*{name}.*Start again with --overwrite"):
        load_state(saved, *_model(), ORIGIN)


def test_a_write_that_fails_leaves_the_checkpoint_before(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (saved / "state.json").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptuning.training.state.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(saved, Progress(epoch=2), *_model(), ORIGIN)
    assert (saved / "state.json").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


def test_averages_are_kept_and_put_back_in_place(tmp_path: Path) -> None:
    averages = {"heads.0.linear.bias": torch.rand(3), "steps.0": torch.tensor(17)}
    save_state(tmp_path / "last", Progress(), *_model(), ORIGIN, averages)
    others = {name: torch.zeros_like(tensor) for name, tensor in averages.items()}
    load_state(tmp_path / "last", *_model(), ORIGIN, others)
    assert all(torch.equal(others[name], tensor) for name, tensor in averages.items())


def test_other_averages_are_refused_and_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has averages of \[\], expected \['steps.0'\]. Resume with the set"):
        load_state(saved, *_model(), ORIGIN, {"steps.0": torch.tensor(0)})
