from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ptuning as package
from ptuning.backbones.loading import load_backbone

Ptuning = Callable[..., Any]


def test_people_get_task_sizes_and_backbone(ptuning: Ptuning, trained: Path, tiny_backbone: Path) -> None:
    result = ptuning("info", trained)
    assert (result.status, result.err) == (0, "")
    for said in (
        "classification (classification)",
        "blue, green, red",
        "text: text, label: label",
        "4 virtual tokens, unshifted positions",
        "512 prompts (2.59% of the backbone, 3.65% of its transformer)",
        "99 head",
        str(trained / "prompt"),
    ):
        assert said in result.out


def test_json_is_the_prompts_config(ptuning: Ptuning, trained: Path) -> None:
    result = ptuning("info", trained, "--json")
    assert json.loads(result.out) == json.loads((trained / "prompt" / "config.json").read_text())


def test_the_prompt_is_read_once(ptuning: Ptuning, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes, names = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: (names.append(path.name), read_bytes(path))[1])
    assert ptuning("info", trained).status == 0
    assert names.count("prompts.safetensors") == 1


def test_bare_prompts_have_no_task(ptuning: Ptuning, tiny_backbone: Path, tmp_path: Path) -> None:
    model = load_backbone(tiny_backbone).model
    package.attach(model, torch.zeros(2, 2, 4, 3, 8)).save(tmp_path / "bare")
    result = ptuning("info", tmp_path / "bare")
    assert result.status == 0 and "none: prompts only" in result.out


def test_damage_is_one_line_and_1(ptuning: Ptuning, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "prompt", tmp_path / "prompt")
    path = tmp_path / "prompt" / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    for arguments in ([tmp_path / "prompt"], [tmp_path / "prompt", "--json"]):
        result = ptuning("info", *arguments)
        assert (result.status, result.out) == (1, "")
        assert "it was cut off or altered" in result.err and result.err.count("\n") == 1
