"""Weights load from every published format, the right ones and no others, and nothing in a file is run."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import ptuning
from ptuning import load_backbone
from ptuning.backbones.glm import Glm2021Model
from ptuning.errors import BackboneError

Weights = dict[str, Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path, published_config: Any, random_weights: Any) -> tuple[Path, Weights]:
    """A directory with a config.json, and the weights that are to be written beside it."""
    config = published_config()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, random_weights(config)


def _prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: weight for name, weight in weights.items()}


def _with_heads(weights: Weights) -> Weights:
    """What classifiers and generators were saved with."""
    extra = {
        "dense.weight": torch.ones(32, 32),
        "out_proj.bias": torch.ones(2),
        "pool_layer.dense.weight": torch.ones(32, 32),
        "multichoice_head.weight": torch.ones(1, 32),
        "prompt_spell.spell_embeddings.weight": torch.ones(4, 32),
        "lm_head.weight": weights["word_embeddings.weight"].clone(),
    }
    return {**weights, **extra}


def _renamed(weights: Weights) -> Weights:
    names = {
        "word_embeddings.weight": "transformer.word_embeddings.weight",
        "transformer.block_position_embeddings.weight": (
            "mixins.block_position_embedding.block_position_embeddings.weight"
        ),
    }
    return {names.get(name, name): weight for name, weight in weights.items()}


def _training_state(module: Weights, num_ranks: int) -> dict[str, Any]:
    """What the original training code saved beside the weights: random states of Python, numpy and torch."""
    return {
        "module": module,
        "optimizer": None,
        "lr_scheduler": {"start_lr": 1e-4, "num_iters": np.float64(7.0)},
        "csr_tensor_module_names": set(),
        "global_steps": 7,
        "mp_world_size": num_ranks,
        "dp_world_size": 64,
        "iteration": np.int64(7),
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.RandomState(3).get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "rng_tracker_states": {"model-parallel-rng": torch.get_rng_state()},
    }


def _shard(weights: Weights, rank: int, num_ranks: int) -> Weights:
    """What a rank holds, written with plain indexes: its heads, its part of the inner width and of the vocabulary."""

    def own(size: int) -> slice:
        return slice(rank * size // num_ranks, (rank + 1) * size // num_ranks)

    parts: Weights = {}
    for name, weight in weights.items():
        if "query_key_value" in name:
            width = weight.shape[0] // 3
            kinds = (weight[:width], weight[width : 2 * width], weight[2 * width :])
            parts[name] = torch.cat([kind[own(width)] for kind in kinds])
        elif name == "word_embeddings.weight" or "dense_h_to_4h" in name:
            parts[name] = weight[own(weight.shape[0])].clone()
        elif name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            parts[name] = weight[:, own(weight.shape[1])].clone()
        else:
            parts[name] = weight
    return parts


def _write_shards(directory: Path, weights: Weights, num_ranks: int) -> list[Path]:
    paths = [directory / f"mp_rank_{rank:02d}_model_states.pt" for rank in range(num_ranks)]
    for rank, path in enumerate(paths):
        torch.save(_training_state(_shard(weights, rank, num_ranks), num_ranks), path)
    return paths


def _in_parts(weights: Weights, directory: Path, name: str, save: Callable[[Weights, Path], None]) -> None:
    """Two files and their index."""
    stem, _, end = name.partition(".")
    files = [f"{stem}-0000{number}-of-00002.{end}" for number in (1, 2)]
    names = list(weights)
    for number, file in enumerate(files):
        save({key: weights[key] for key in names[number::2]}, directory / file)
    places = {key: files[number % 2] for number, key in enumerate(names)}
    (directory / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _save_legacy(weights: Any, path: Path) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def _old_numpy_names(path: Path) -> None:
    """Writes a file again with the names that numpy had before it was 2."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    found = sum(content.count(b"cnumpy._core.multiarray\n") for name, content in entries if name.endswith("data.pkl"))
    assert found, "the file names numpy"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            if name.endswith("data.pkl"):
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            archive.writestr(name, content)


FORMATS: dict[str, Callable[[Path, Weights], object]] = {
    "safetensors": lambda path, weights: save_file(weights, path / "model.safetensors"),
    "safetensors in parts": lambda path, weights: _in_parts(weights, path, "model.safetensors", save_file),
    "bin": lambda path, weights: torch.save(weights, path / "pytorch_model.bin"),
    "bin in parts": lambda path, weights: _in_parts(weights, path, "pytorch_model.bin", torch.save),
    "bin of old torch": lambda path, weights: _save_legacy(weights, path / "pytorch_model.bin"),
    "bin as converted": lambda path, weights: torch.save({"module": weights}, path / "pytorch_model.bin"),
    "bin behind module.": lambda path, weights: torch.save(_prefixed(weights, "module."), path / "pytorch_model.bin"),
    "bin behind model.": lambda path, weights: torch.save(_prefixed(weights, "model."), path / "pytorch_model.bin"),
    "safetensors behind glm.": lambda path, weights: save_file(_prefixed(weights, "glm."), path / "model.safetensors"),
    "with heads": lambda path, weights: torch.save(_with_heads(weights), path / "pytorch_model.bin"),
    "with a classifier, behind glm.": lambda path, weights: torch.save(
        {**_prefixed(weights, "glm."), "dense.weight": torch.ones(32, 32), "out_proj.weight": torch.ones(2, 32)},
        path / "pytorch_model.bin",
    ),
    "renamed": lambda path, weights: torch.save({"module": _renamed(weights)}, path / "mp_rank_00_model_states.pt"),
    "one shard": lambda path, weights: _write_shards(path, weights, 1),
    "two shards": lambda path, weights: _write_shards(path, weights, 2),
    "four shards": lambda path, weights: _write_shards(path, weights, 4),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_weights(name: str, checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    FORMATS[name](directory, weights)
    backbone = load_backbone(directory)
    assert type(backbone.model) is Glm2021Model and backbone.description.model_type == "glm2021"
    found = backbone.model.state_dict()
    assert found.keys() == weights.keys()
    for key, weight in weights.items():
        assert torch.equal(found[key], weight), key
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


def test_shards_of_before_numpy_2_load(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    for path in _write_shards(directory, weights, 2):
        _old_numpy_names(path)
    found = load_backbone(directory).model.state_dict()
    assert all(torch.equal(found[key], weight) for key, weight in weights.items())


def test_weights_are_stored_as_asked(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    for name in ("bin", "two shards"):
        FORMATS[name](directory, {key: weight.half() for key, weight in weights.items()})
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            model = load_backbone(directory, dtype=dtype, attention="eager").model
            assert {parameter.dtype for parameter in model.parameters()} == {dtype} and model.dtype == dtype
            assert model.config._attn_implementation == "eager"
            expected = weights["word_embeddings.weight"].half().to(dtype)
            assert torch.equal(model.word_embeddings.weight, expected)
        (directory / "pytorch_model.bin").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["safetensors", "bin", "bin of old torch", "two shards"])
def test_weights_go_straight_to_their_device(
    name: str, checkpoint: tuple[Path, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, weights = checkpoint
    FORMATS[name](directory, weights)
    made: list[set[str]] = []

    def make(config: Any) -> Any:
        model: Any = Glm2021Model(config)
        made.append({parameter.device.type for parameter in model.parameters()})
        return model

    monkeypatch.setattr("ptuning.backbones.glm.checkpoint.Glm2021Model", make)
    model = load_backbone(directory, device="meta").model
    assert made == [{"meta"}], "nothing is made before the weights are there"
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")
@pytest.mark.parametrize("name", ["bin", "safetensors"])
def test_weights_that_are_stored_as_in_the_file_are_the_file(name: str, checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    FORMATS[name](directory, weights)
    (file,) = (path for path in directory.iterdir() if path.suffix in (".bin", ".safetensors"))
    backbone = load_backbone(directory)
    address = next(backbone.model.parameters()).data_ptr()
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    places = [tuple(int(end, 16) for end in line[0].split("-")) for line in mapped]
    assert any(start <= address < end for start, end in places)


def test_the_fingerprint_is_that_of_the_weights_in_any_format(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    FORMATS["two shards"](directory, weights)
    first = load_backbone(directory).identity
    FORMATS["safetensors"](directory, weights)
    first.require(load_backbone(directory, dtype=torch.bfloat16).identity)


def test_what_is_loaded_is_trained_saved_and_checked_against(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    FORMATS["bin"](directory, weights)
    backbone = load_backbone(directory)
    ptuning.attach(backbone.model, torch.zeros(3, 2, 4, 2, 8)).save(directory / "prompt")
    saved = ptuning.read_prompt(directory / "prompt")
    saved.backbone.require(backbone.identity)
    assert saved.backbone.architecture["model_type"] == "glm2021"


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_wrong_weights_are_named(kind: str, checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    broken = dict(weights)
    del broken["transformer.layers.1.mlp.dense_4h_to_h.bias"]
    broken["transformer.layers.3.attention.dense.bias"] = torch.zeros(32)
    broken["transformer.final_layernorm.bias"] = torch.zeros(31)
    FORMATS[kind](directory, broken)
    with pytest.raises(BackboneError) as caught:
        load_backbone(directory)
    text = str(caught.value)
    assert "1 missing: transformer.layers.1.mlp.dense_4h_to_h.bias" in text
    assert "1 unexpected: transformer.layers.3.attention.dense.bias" in text
    assert "1 of another shape: transformer.final_layernorm.bias (31,) instead of (32,)" in text
    assert "a config.json that belong together" in text


def test_many_wrong_weights_are_counted(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    kept = {key: weight for key, weight in weights.items() if ".layers.2." not in key}
    FORMATS["bin"](directory, kept)
    with pytest.raises(BackboneError, match=r"12 missing: transformer.layers.2.*, .* and 6 more"):
        load_backbone(directory)


def test_an_output_matrix_of_its_own_is_refused(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    for other in (weights["word_embeddings.weight"] + 1, torch.zeros(3, 32)):
        FORMATS["bin"](directory, {**weights, "lm_head.weight": other})
        with pytest.raises(BackboneError, match="a lm_head.weight that is not word_embeddings.weight"):
            load_backbone(directory)


def test_a_weight_that_is_there_twice_is_refused(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    name = "transformer.final_layernorm.bias"
    FORMATS["bin"](directory, {**weights, f"module.{name}": weights[name]})
    with pytest.raises(BackboneError, match=f"has {name} twice, once as module.{name}"):
        load_backbone(directory)


def test_only_one_prefix_is_taken_off(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    FORMATS["bin"](directory, _prefixed(weights, "module.model."))
    with pytest.raises(BackboneError, match="unexpected: model.word_embeddings.weight"):
        load_backbone(directory)


class _Runs:
    """Would run a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._target}",)


def test_a_file_that_would_run_something_is_refused_by_its_name(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    target = directory / "was-run"
    torch.save({"module": weights, "more": _Runs(target)}, directory / "pytorch_model.bin")
    with pytest.raises(
        BackboneError, match=r"names posix.system, which is not among .* Use a checkpoint in safetensors"
    ):
        load_backbone(directory)
    assert not target.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_not_known_is_refused_by_its_name(legacy: bool, checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    content = {"module": weights, "args": argparse.Namespace(hidden_size=32)}
    (_save_legacy if legacy else torch.save)(content, directory / "mp_rank_00_model_states.pt")
    with pytest.raises(BackboneError, match=r"mp_rank_00_model_states.pt names argparse.Namespace, which is not among"):
        load_backbone(directory)


def test_arrays_of_objects_are_refused(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    torch.save({"module": weights, "more": np.array([{}, None], dtype=object)}, directory / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"pytorch_model.bin cannot be read: .*ObjectDType"):
        load_backbone(directory)


def test_what_is_allowed_here_is_not_allowed_elsewhere(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    FORMATS["one shard"](directory, weights)
    with torch.serialization.safe_globals([np.ndarray, argparse.Namespace]):
        before = set(torch.serialization.get_safe_globals())
        load_backbone(directory)
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "it holds a list, not a dictionary"),
        ({"module": [1]}, "has a list under `module`"),
        ({"word_embeddings.weight": torch.zeros(2), "step": 3}, "has entries that are no weights: step"),
    ],
)
def test_files_of_another_form_are_refused(content: Any, words: str, checkpoint: tuple[Path, Weights]) -> None:
    directory, _ = checkpoint
    torch.save(content, directory / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=words):
        load_backbone(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "mp_rank_00_model_states.pt"])
def test_damaged_files_are_refused(name: str, checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    (save_file if name.endswith("safetensors") else torch.save)(weights, directory / name)
    whole = (directory / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"garbage" * 100):
        (directory / name).write_bytes(damaged)
        with pytest.raises(BackboneError, match="cannot be read: |do not load: "):
            load_backbone(directory)


def test_no_weights_at_all(checkpoint: tuple[Path, Weights]) -> None:
    with pytest.raises(
        BackboneError, match="has no weights, expected model.safetensors, pytorch_model.bin, one of both"
    ):
        load_backbone(checkpoint[0])


_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, tiny_glm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the hub's cache with a checkpoint, `some/glm`, and no way to the hub itself."""
    place = tmp_path / "hub" / "models--some--glm"
    shutil.copytree(tiny_glm, place / "snapshots" / _COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(_COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return place / "snapshots" / _COMMIT


def test_a_checkpoint_in_the_cache_of_the_hub_loads_by_its_name(hub_cache: Path, tiny_glm: Path) -> None:
    backbone, local = load_backbone("some/glm"), load_backbone(tiny_glm)
    assert backbone.revision == _COMMIT
    assert backbone.tokenizer("the red lamp")["input_ids"] == local.tokenizer("the red lamp")["input_ids"]
    assert torch.equal(backbone.model.word_embeddings.weight, local.model.word_embeddings.weight)


def test_what_the_cache_lacks_may_be_out_of_reach(hub_cache: Path) -> None:
    (hub_cache / "merges.txt").unlink()
    with pytest.raises(BackboneError, match=r"vocab.txt, or .* beside the weights; if they are there on the hub, it"):
        _ = load_backbone("some/glm").tokenizer
    (hub_cache / "pytorch_model.bin").unlink()
    with pytest.raises(BackboneError, match="the repository some/glm has no weights, or the hub was not reachable and"):
        load_backbone("some/glm")


def test_an_index_must_have_its_files_and_they_its_weights(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    FORMATS["bin in parts"](directory, weights)
    second = directory / "pytorch_model-00002-of-00002.bin"
    lost = torch.load(second, weights_only=True)
    name, _ = lost.popitem()
    torch.save(lost, second)
    with pytest.raises(BackboneError, match=f"names 1 weights that its files do not have: {name}"):
        load_backbone(directory)
    second.unlink()
    with pytest.raises(
        BackboneError, match=r"index.json names pytorch_model-00002-of-00002.bin, which is not beside it"
    ):
        load_backbone(directory)
    (directory / "pytorch_model.bin.index.json").write_text("[]")
    with pytest.raises(BackboneError, match="index.json is not an index of weights: TypeError"):
        load_backbone(directory)


@pytest.mark.parametrize("file", [1, "../other.bin", "/etc/hostname", "..", "", None, ["a.bin"]])
def test_an_index_names_files_beside_it(file: Any, checkpoint: tuple[Path, Weights]) -> None:
    directory, _ = checkpoint
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(BackboneError, match="index.json is not an index of weights: (Value|Type)Error"):
        load_backbone(directory)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_weights_in_whole_numbers_are_refused(kind: str, checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    name = "transformer.layers.1.mlp.dense_h_to_4h.weight"
    weights = {**weights, name: weights[name].to(torch.int8), "pool_layer.steps": torch.tensor([3])}
    if kind == "bin":
        torch.save(weights, directory / "pytorch_model.bin")
    else:
        save_file(weights, directory / "model.safetensors")
    with pytest.raises(BackboneError, match=f"has 1 weights that are not of float32, float16.*: {name}. Use the"):
        load_backbone(directory)


def test_sets_of_shards_must_be_whole(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    paths = _write_shards(directory, weights, 4)
    last = paths[3].read_bytes()
    paths[3].unlink()
    with pytest.raises(BackboneError, match="the shard of rank 0 in .* is one of 4, but there are 3"):
        load_backbone(directory)
    paths[3].write_bytes(last)
    paths[1].unlink()
    with pytest.raises(BackboneError, match="has shards of the ranks 0, 2, 3, but none of 1"):
        load_backbone(directory)


def test_shards_of_different_checkpoints_are_refused(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    paths = _write_shards(directory, weights, 2)
    torch.save({"module": _shard(weights, 1, 4)}, paths[1])
    with pytest.raises(BackboneError, match=r"ranks 0 and 1 .* differ in .*dense.weight \(32, 16\) against \(32, 8\)"):
        load_backbone(directory)
    torch.save({"module": {**_shard(weights, 1, 2), "other": torch.zeros(1)}}, paths[1])
    with pytest.raises(BackboneError, match="ranks 0 and 1 .* differ in other"):
        load_backbone(directory)


def test_the_directory_above_shards_names_that_of_the_shards(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    (directory / "300000").mkdir()
    _write_shards(directory / "300000", weights, 2)
    (directory / "latest").write_text("300000")
    words = r"has no weights itself, but mp_rank_XX_model_states.pt in 300000\. Give .*300000 as the backbone, with"
    with pytest.raises(BackboneError, match=words):
        load_backbone(directory)
    (directory / "config.json").rename(directory / "300000" / "config.json")
    with pytest.raises(BackboneError, match=words):
        load_backbone(directory)
    load_backbone(directory / "300000")


def test_shards_without_a_config_say_what_is_needed(checkpoint: tuple[Path, Weights]) -> None:
    directory, weights = checkpoint
    _write_shards(directory, weights, 2)
    (directory / "config.json").unlink()
    with pytest.raises(BackboneError, match=r"mp_rank_XX_model_states.pt, but no config.json, .*\"num_layers\": 36"):
        load_backbone(directory)
