"""`head.init`: a head that starts as a saved one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ptuning.backbones.loading import load_backbone
from ptuning.checkpoint import read_prompt, save_prompt
from ptuning.errors import ConfigError
from ptuning.training import execution
from ptuning.training.run import train

TinyRun = Callable[..., Any]


def test_a_head_starts_as_the_saved_one_and_goes_on_without_it(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_run(tmp_path / "first"))
    starts: list[dict[str, torch.Tensor]] = []
    assemble = execution.assemble_model

    def spy(*args: Any, **more: Any) -> Any:
        model = assemble(*args, **more)
        starts.append({name: tensor.clone() for name, tensor in model.heads[0].state_dict().items()})
        return model

    monkeypatch.setattr(execution, "assemble_model", spy)
    settings = {"head.init": str(tmp_path / "first")}
    result = train(tiny_run(tmp_path / "second", **settings))
    saved = read_prompt(tmp_path / "first").head_tensors
    assert starts[0].keys() == saved.keys() and all(torch.equal(starts[0][name], saved[name]) for name in saved)
    (tmp_path / "first").rename(tmp_path / "gone")  # a checkpoint has all values: the start is not needed any more
    assert train(tiny_run(tmp_path / "second", **settings), resume=True).metrics == result.metrics


def test_a_head_for_other_labels_is_refused(tiny_run: TinyRun, tiny_backbone: Path, tmp_path: Path) -> None:
    train(tiny_run(tmp_path / "tags", "token_classification", **{"training.max_steps": 1}))
    bare = read_prompt(tmp_path / "tags")
    bare = type(bare)(prompts=bare.prompts, layers=bare.layers, positions=bare.positions, backbone=bare.backbone)
    save_prompt(tmp_path / "bare", bare)
    train(tiny_run(tmp_path / "other", **{"training.max_steps": 1, "data.labels": ["blue", "red", "green"]}))
    backbone = load_backbone(tiny_backbone)
    for name, found in (
        ("tags", "a head for token_classification with the labels O, B-COLOUR"),
        ("bare", "no head"),
        ("other", "a head for classification with the labels blue, red, green"),
    ):
        with pytest.raises(ConfigError, match=f"which has {found}.*, expected one for classification with the labels"):
            train(tiny_run(tmp_path / "run", **{"head.init": str(tmp_path / name)}), backbone=backbone)
    with pytest.raises(ConfigError, match="head.init is '.*nowhere', expected normal or the path of a saved prompt"):
        train(tiny_run(tmp_path / "run", **{"head.init": str(tmp_path / "nowhere")}), backbone=backbone)
    assert not (tmp_path / "run").exists()
