from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ptuning.backbones.loading import load_backbone
from ptuning.compare import identity
from ptuning.compare.identity import ADDED, VERSION, _hidden_size, cell_key, data_digest, portable_settings
from ptuning.config import METHODS, RunConfig, load_config
from ptuning.config.settings import group_names, setting_names
from ptuning.errors import DataError
from ptuning.tasks.glm_patterns import GlmPattern

TinyRun = Callable[..., Any]


@pytest.fixture
def config(tiny_run: TinyRun, tmp_path: Path) -> RunConfig:
    made: RunConfig = tiny_run(tmp_path / "run")
    return made


def _with(config: RunConfig, key: str, value: Any) -> RunConfig:
    return load_config(None, {**config.model_dump(), key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.seed", 12),
        ("training.epochs", 3),
        ("training.learning_rate", 0.5),
        ("prompts.layers", "last:1"),
        ("data.selection", "development"),
        ("data.max_train_rows", 5),
        ("method", "prefix-tuning"),
        ("head.dropout", 0.0),
        ("training.precision", "bf16"),
        ("training.attention", "eager"),
        ("attention_direction", "bidirectional"),
    ],
)
def test_another_setting_is_another_cell(key: str, value: Any, config: RunConfig) -> None:
    assert cell_key(_with(config, key, value), "validation") != cell_key(config, "validation")


def test_sdpa_is_what_it_is_by_default(config: RunConfig) -> None:
    assert cell_key(_with(config, "training.attention", "sdpa"), "validation") == cell_key(config, "validation")


def test_another_split_is_another_cell(config: RunConfig) -> None:
    assert cell_key(config, "test") != cell_key(config, "validation")


def test_what_is_the_methods_own_default_is_the_same_cell(config: RunConfig) -> None:
    rate = METHODS["p-tuning-v2"].learning_rate
    key = cell_key(config, "validation")
    for setting, value in {"training.learning_rate": rate, "prompts.reparameterization": "none"}.items():
        assert cell_key(_with(config, setting, value), "validation") == key


def test_a_rate_that_follows_from_a_width_is_known_from_the_backbone(config: RunConfig, tmp_path: Path) -> None:
    """The same cell as with the rate given, where the width is known, and never one with another rate."""
    own = METHODS["p-tuning-v2"].learning_rate
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "config.json").write_text('{"model_type": "bert", "hidden_size": 1024}')

    def key(backbone: str, rate: float | None = None) -> str:
        return cell_key(_with(_with(config, "backbone", backbone), "training.learning_rate", rate), "validation")

    assert key("minilm") == key("minilm", own)
    assert key(str(wide)) == key(str(wide), 0.015) != key(str(wide), own)
    assert len({key("owner/name"), key("owner/name", own), key("owner/name", 0.015)}) == 3


def test_a_probe_is_around_the_usual_rate_which_is_in_the_key(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = _with(config, "training.learning_rate_probe", True)
    before = cell_key(probed, "validation")
    own = METHODS["p-tuning-v2"]
    monkeypatch.setattr(identity, "METHODS", {**METHODS, own.name: replace(own, learning_rate=0.5)})
    assert cell_key(probed, "validation") != before


@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_the_width_is_that_of_the_loaded_backbone(name: str, tiny_backbone: Path) -> None:
    backbone = "minilm" if name == "minilm" else str(tiny_backbone)
    assert _hidden_size(backbone) == load_backbone(backbone).description.hidden_size


def test_places_do_not_matter(config: RunConfig, tiny_backbone: Path, tmp_path: Path) -> None:
    shutil.copytree(str(config.data.path), tmp_path / "elsewhere")
    shutil.copytree(tiny_backbone, tmp_path / "copy")
    moved = _with(_with(config, "data.path", str(tmp_path / "elsewhere")), "output", str(tmp_path / "other"))
    moved = _with(moved, "backbone", str(tmp_path / "copy"))
    assert cell_key(moved, "validation") == cell_key(config, "validation")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_rows_are_another_cell(split: str, config: RunConfig, tmp_path: Path) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(str(config.data.path), copy)
    with (copy / f"{split}.jsonl").open("a") as file:
        file.write(json.dumps({"text": "a red lamp", "label": "red"}) + "\n")
    assert cell_key(_with(config, "data.path", str(copy)), "validation") != cell_key(config, "validation")


def test_files_that_are_not_read_do_not_matter(config: RunConfig, tmp_path: Path) -> None:
    copy = tmp_path / "more"
    shutil.copytree(str(config.data.path), copy)
    (copy / "notes.txt").write_text("mine")
    assert data_digest(_with(config, "data.path", str(copy))) == data_digest(config)


def test_another_backbone_is_another_cell(config: RunConfig, tiny_backbone: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_backbone, tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert cell_key(_with(config, "backbone", str(tmp_path / "other")), "validation") != cell_key(config, "validation")


def test_another_pattern_for_glm_is_another_cell_on_a_glm_alone(
    tiny_backbone: Path, glm_with_words: Path, tiny_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"task": "super_glue/rte", "head.kind": "verbalizer", "data.path": str(tiny_data("classification"))}
    configs = [load_config(None, {**settings, "backbone": str(one)}) for one in (tiny_backbone, glm_with_words)]
    before = [cell_key(config, "validation") for config in configs]
    monkeypatch.setattr("ptuning.compare.identity.GLM_PATTERNS", {"super_glue/rte": GlmPattern("{text} {mask}")})
    after = [cell_key(config, "validation") for config in configs]
    assert before[0] == after[0] and before[1] != after[1]


def test_shipped_data_and_data_of_the_hub_are_known_without_loading_them() -> None:
    assert len(data_digest(load_config(None, {"task": "helpdesk/tickets"}))) == 64
    glue = load_config(None, {"task": "glue/rte"})
    assert data_digest(glue).startswith("nyu-mll/glue:rte")
    assert data_digest(_with(glue, "data.path", "someone/set@abc")) == "someone/set@abc"


def test_a_directory_that_is_not_there_is_said(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no directory, expected one with a train file"):
        cell_key(_with(config, "data.path", str(tmp_path / "nowhere")), "validation")


def test_settings_for_others_have_no_paths(config: RunConfig, tmp_path: Path) -> None:
    values = portable_settings(_with(config, "prompts.init", str(tmp_path / "start")))
    assert "output" not in values and str(tmp_path) not in json.dumps(values)
    assert values["data"]["path"] == "classification" and values["backbone"] == "tiny-bert"
    assert values["prompts"]["init"] == "start"


def test_a_key_says_what_the_cell_is(config: RunConfig) -> None:
    assert cell_key(config, "validation").startswith("p-tuning-v2-classification-11-")


def test_settings_that_came_later_leave_old_cells_as_they_are(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = cell_key(config, "validation")
    lacking = dict.fromkeys(("training.compile",), config.training.compile)
    monkeypatch.setattr("ptuning.compare.identity.ADDED", lacking)
    without = cell_key(config, "validation")
    assert without != key
    assert cell_key(_with(config, "training.compile", True), "validation") not in (key, without)


def test_every_setting_is_in_old_cells_or_has_a_value_that_changes_nothing() -> None:
    of_version = Path(__file__).with_name(f"settings_of_version_{VERSION}.txt").read_text(encoding="utf-8").split()
    names = {name for name in setting_names() if name not in group_names()}
    assert names == {*of_version, *ADDED}, (
        "a new setting would make all finished cells run again. Add it to ptuning.compare.identity.ADDED with the "
        "value that leaves a run as it was, or raise VERSION and list the settings of that version beside this test."
    )
