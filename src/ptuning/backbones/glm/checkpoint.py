"""Weights of GLM (2021) from the formats that they are published in, strictly: every weight, and no other.

    model.safetensors, pytorch_model.bin, and both in parts with an index     the hub
    mp_rank_XX_model_states.pt                                                the original training code, joined

A name may begin with `module.`, `model.` or `glm.`, and weights may lie under `module`. Heads that classifiers and
generators were saved with are left out. Weights go one by one into the dtype and to the device they are wanted in: the
model has none of its own before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig

from ptuning.backbones.glm.config import Glm2021Config, is_glm_2021
from ptuning.backbones.glm.model import Glm2021Model
from ptuning.backbones.glm.pickles import read_pickle
from ptuning.backbones.glm.shards import check_shards, directories_of_shards, find_shards, join, joined_shape
from ptuning.errors import BackboneError

Find = Callable[[str], str | None]
"""Name of a file -> its path, downloaded where it has to be, or None where there is no such file."""

_PREFIXES = ("module.", "model.", "glm.")
_RENAMED = {  # by SwissArmyTransformer
    "transformer.word_embeddings.weight": "word_embeddings.weight",
    "mixins.block_position_embedding.block_position_embeddings.weight": "transformer.block_position_embeddings.weight",
}
_IGNORED = ("dense.", "out_proj.", "pool_layer.", "multichoice_head.", "prompt_spell.")
_EMBEDDINGS = "word_embeddings.weight"
_TIED = "lm_head.weight"
_MOST_NAMES = 6
_SAFETENSORS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_EXAMPLE = (
    '{"model_type": "glm", "num_layers": 36, "hidden_size": 2048, "num_attention_heads": 32, "vocab_size": 50304, '
    '"max_sequence_length": 1024, "block_position_encoding": true}'
)


class _Weight:
    """A weight that is not read yet: its shape, and how to get it in a dtype (None: as stored) on a device."""

    def __init__(self, shape: Iterable[int], read: Callable[[torch.dtype | None, torch.device], Tensor]) -> None:
        self.shape = tuple(shape)
        self.read = read


def read_config(source: str, revision: str | None = None) -> Glm2021Config | None:
    """Returns the config of a checkpoint where it is a GLM of 2021/22, else None.

    Args:
        source: a local directory in hub layout, or a Hugging Face name.
        revision: commit, branch or tag on the hub.

    Raises:
        OSError: there is no readable `config.json`.
        BackboneError: it asks for what is not implemented.
    """
    values, _ = PretrainedConfig.get_config_dict(source, revision=revision)
    if not is_glm_2021(values):
        return None
    config = Glm2021Config.from_published(values)
    config._commit_hash = values.get("_commit_hash")
    config.name_or_path = source
    return config


def missing_config(source: str) -> BackboneError | None:
    """Returns what to say of a directory with shards of the original training code and no config, else None."""
    directory = Path(source)
    if not directory.is_dir() or (directory / "config.json").exists():
        return None
    if find_shards(directory):
        return BackboneError(
            f"{directory} has mp_rank_XX_model_states.pt, but no config.json, which says what model they are of. Put "
            f"one beside them with the sizes of the model, for GLM-2B for example: {_EXAMPLE}"
        )
    return _shards_below(directory)


def _shards_below(directory: Path) -> BackboneError | None:
    below = directories_of_shards(directory)
    if not below:
        return None
    names = ", ".join(path.name for path in below)
    return BackboneError(
        f"{directory} has no weights itself, but mp_rank_XX_model_states.pt in {names}. "
        f"Give {below[-1]} as the backbone, with config.json and the tokenizer's files in it."
    )


def load_model(
    config: Glm2021Config,
    find: Find,
    *,
    source: str,
    dtype: torch.dtype | None,
    device: torch.device | str | None = None,
    attention: str = "sdpa",
) -> Glm2021Model:
    """Loads a model from a checkpoint in any of the published formats.

    Args:
        config: of the checkpoint.
        find: gives the path of one of its files.
        source: a local directory, or a Hugging Face name; for messages, and for shards of the training code.
        dtype: storage of the weights; None for that of the file.
        device: where to put them; the CPU by default.
        attention: base implementation.

    Raises:
        BackboneError: there are no weights; weights are missing, are too many or have another shape; a pickled file
            names what is not allowed; or shards are not those of one checkpoint.
    """
    config._attn_implementation = attention
    config.dtype = dtype
    with torch.device("meta"):
        model: Any = Glm2021Model(config)
    weights = _by_published_name(_find_weights(find, source), source)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    _check_names(weights, shapes, source)
    _check_tied(weights, source)
    target = torch.device(device or "cpu")
    for name in shapes:
        tensor = weights.pop(name).read(dtype, target)
        parent, _, last = name.rpartition(".")
        module: Any = model.get_submodule(parent)
        setattr(module, last, torch.nn.Parameter(tensor, requires_grad=False))
    loaded: Glm2021Model = model.eval()
    return loaded


def _find_weights(find: Find, source: str) -> dict[str, _Weight]:
    """The weights of the first format that is there, by the names that they have in it."""
    for single, read in (("model.safetensors", _safetensors), ("pytorch_model.bin", _pickled)):
        if path := find(single):
            return dict(read(Path(path)))
        if index := find(f"{single}.index.json"):
            return _in_parts(Path(index), find, read)
    directory = Path(source)
    if directory.is_dir() and (paths := find_shards(directory)):
        return _sharded(paths, directory)
    if refusal := _shards_below(directory):
        raise refusal
    expected = "expected model.safetensors, pytorch_model.bin, one of both in parts with an index"
    if not directory.is_dir():
        raise BackboneError(
            f"the repository {source} has no weights, or the hub was not reachable and they are not in its cache: "
            f"{expected}. Check the connection, or download the checkpoint and give its directory."
        )
    raise BackboneError(
        f"{source} has no weights, {expected}, or mp_rank_XX_model_states.pt. Put the checkpoint's files there."
    )


def _safetensors(path: Path) -> Iterator[tuple[str, _Weight]]:
    file: Any = safe_open(path, framework="pt", device="cpu")
    _check_floating({name: _SAFETENSORS.get(file.get_slice(name).get_dtype()) for name in file.keys()}, path)

    def read(name: str, dtype: torch.dtype | None, device: torch.device) -> Tensor:
        tensor: Tensor = file.get_tensor(name)
        return tensor.to(device=device, dtype=dtype)

    for name in file.keys():
        yield name, _Weight(file.get_slice(name).get_shape(), partial(read, name))


def _pickled(path: Path) -> Iterator[tuple[str, _Weight]]:
    for name, tensor in _tensors(read_pickle(path), path).items():
        yield name, _Weight(tensor.shape, partial(_moved, tensor))


def _check_floating(dtypes: Mapping[str, torch.dtype | None], path: Path) -> None:
    """Refuses whole numbers, which are weights only beside scales that nothing here knows."""
    wrong = [
        name
        for name, dtype in dtypes.items()
        if dtype not in _SAFETENSORS.values() and not _published(name).startswith(_IGNORED)
    ]
    if wrong:
        raise BackboneError(
            f"{path} has {len(wrong)} weights that are not of float32, float16, bfloat16 or float64: {_some(wrong)}. "
            "Use the checkpoint as it was published, and training.quantization to store it in fewer bits."
        )


def _moved(tensor: Tensor, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    return tensor.to(device=device, dtype=dtype)


def _tensors(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint, which lie under `module` in those of DeepSpeed."""
    inner = content.get("module", content)
    if not isinstance(inner, Mapping):
        raise BackboneError(
            f"{path} has a {type(inner).__name__} under `module`, expected the weights by name. Get the file again."
        )
    wrong = [str(name) for name, value in inner.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if wrong:
        raise BackboneError(
            f"{path} has entries that are no weights: {_some(wrong)}. Expected a dictionary of tensors by name, or one "
            "under `module`. Use the checkpoint as it was published."
        )
    _check_floating({name: tensor.dtype for name, tensor in inner.items()}, path)
    return dict(inner)


def _in_parts(index: Path, find: Find, read: Callable[[Path], Iterator[tuple[str, _Weight]]]) -> dict[str, _Weight]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
        wrong = [file for file in files if not (isinstance(file, str) and _is_beside(file))]
        if wrong:
            raise ValueError(f"its weights are in {wrong[0]!r}, which is not the name of a file beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"{index} is not an index of weights: {type(error).__name__} {error}. Expected a `weight_map` from names "
            "to files. Get the file again."
        ) from error
    weights: dict[str, _Weight] = {}
    for file in files:
        path = find(file)
        if path is None:
            raise BackboneError(f"{index} names {file}, which is not beside it. Get the whole checkpoint again.")
        weights.update(read(Path(path)))
    absent = sorted(set(places) - set(weights))
    if absent:
        raise BackboneError(
            f"{index} names {len(absent)} weights that its files do not have: {_some(absent)}. Get the whole "
            "checkpoint again."
        )
    return weights


def _is_beside(name: str) -> bool:
    """Whether a name is that of a file in the same directory."""
    return name not in ("", ".", "..") and not {"/", "\\"} & set(name)


def _sharded(paths: list[Path], directory: Path) -> dict[str, _Weight]:
    contents = [read_pickle(path) for path in paths]
    shards = [
        {_published(name): tensor for name, tensor in _tensors(content, path).items()}
        for content, path in zip(contents, paths, strict=True)
    ]
    sizes = [size if isinstance(size := content.get("mp_world_size"), int) else None for content in contents]
    check_shards(shards, sizes, directory)
    weights: dict[str, _Weight] = {}
    for name, first in shards[0].items():
        parts = [shard[name] for shard in shards]
        weights[name] = _Weight(joined_shape(name, first.shape, len(parts)), partial(_joined, name, parts))
    return weights


def _joined(name: str, parts: list[Tensor], dtype: torch.dtype | None, device: torch.device) -> Tensor:
    return join(name, parts, dtype=dtype or parts[0].dtype, device=device)


def _by_published_name(weights: Mapping[str, _Weight], source: str) -> dict[str, _Weight]:
    """Renames weights, and leaves out those of heads."""
    renamed: dict[str, _Weight] = {}
    for name, weight in weights.items():
        published = _published(name)
        if published.startswith(_IGNORED):
            continue
        if published in renamed:
            raise BackboneError(
                f"the checkpoint {source} has {published} twice, once as {name}. Use one that was saved once."
            )
        renamed[published] = weight
    return renamed


def _published(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return _RENAMED.get(name, name)


def _check_names(weights: Mapping[str, _Weight], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    missing = [name for name in shapes if name not in weights]
    unexpected = [name for name in weights if name not in shapes and name != _TIED]
    wrong = [
        f"{name} {weights[name].shape} instead of {shape}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", wrong)]
    problems = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in found if names)
    if problems:
        raise BackboneError(
            f"the weights of {source} are not those of a GLM (2021) with its config.json: {problems}. "
            "Use a checkpoint and a config.json that belong together."
        )


def _check_tied(weights: dict[str, _Weight], source: str) -> None:
    """Takes a separate output matrix out, which must be the word embeddings."""
    tied = weights.pop(_TIED, None)
    if tied is None:
        return
    embeddings, cpu = weights[_EMBEDDINGS], torch.device("cpu")
    is_same = tied.shape == embeddings.shape and torch.equal(tied.read(None, cpu), embeddings.read(None, cpu))
    if not is_same:
        raise BackboneError(
            f"the weights of {source} have a {_TIED} that is not {_EMBEDDINGS}, but scores of tokens are made with the "
            "word embeddings in a GLM (2021). Use a checkpoint whose output matrix is tied."
        )


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
