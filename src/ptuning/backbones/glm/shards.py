"""Joining the model-parallel shards of the original training code: `mp_rank_00_model_states.pt`, `mp_rank_01_…`.

Each rank holds some of the heads, some of the inner width of the feed-forward and some of the vocabulary.

Source: THUDM/GLM, `mpu/transformer.py`, `mpu/layers.py` and `change_mp.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ptuning.errors import BackboneError

_NAME = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_FUSED = (".query_key_value.weight", ".query_key_value.bias")  # of each rank: its q, its k, its v
_BY_ROWS = ("word_embeddings.weight", ".mlp.dense_h_to_4h.weight", ".mlp.dense_h_to_4h.bias")
_BY_COLUMNS = (".attention.dense.weight", ".mlp.dense_4h_to_h.weight")


def find_shards(directory: Path) -> list[Path]:
    """Returns the shards in a directory, in the order of their ranks; none where there are none.

    Raises:
        BackboneError: a rank is missing.
    """
    found = {int(match.group(1)): path for path in directory.glob("mp_rank_*") if (match := _NAME.fullmatch(path.name))}
    missing = sorted(set(range(max(found, default=-1) + 1)) - set(found))
    if missing:
        raise BackboneError(
            f"{directory} has shards of the ranks {', '.join(map(str, sorted(found)))}, but none of "
            f"{', '.join(map(str, missing))}. Put all mp_rank_XX_model_states.pt of one checkpoint there."
        )
    return [found[rank] for rank in sorted(found)]


def directories_of_shards(directory: Path) -> list[Path]:
    """Returns the directories below one that have shards: DeepSpeed saves each step in its own, beside `latest`."""
    return sorted({path.parent for path in directory.glob("*/mp_rank_*") if _NAME.fullmatch(path.name)})


def check_shards(shards: Sequence[Mapping[str, Tensor]], sizes: Sequence[int | None], directory: Path) -> None:
    """Makes sure that shards are those of one checkpoint.

    Args:
        shards: the weights of each rank, by name.
        sizes: how many ranks each file says that there are; None where it says nothing.
        directory: where they are, for messages.

    Raises:
        BackboneError: another number of ranks, other names or other shapes.
    """
    for rank, size in enumerate(sizes):
        if size is not None and size != len(shards):
            raise BackboneError(
                f"the shard of rank {rank} in {directory} is one of {size}, but there are {len(shards)}. "
                "Put all mp_rank_XX_model_states.pt of one checkpoint there, and no others."
            )
    for rank, shard in enumerate(shards[1:], 1):
        differing = sorted(shards[0].keys() ^ shard.keys())
        differing += sorted(
            f"{name} {tuple(shards[0][name].shape)} against {tuple(shard[name].shape)}"
            for name in shards[0].keys() & shard.keys()
            if shards[0][name].shape != shard[name].shape
        )
        if differing:
            raise BackboneError(
                f"the shards of ranks 0 and {rank} in {directory} are not of one checkpoint: they differ in "
                f"{', '.join(differing[:4])}. Put all mp_rank_XX_model_states.pt of one checkpoint there."
            )


def joined_shape(name: str, shape: Sequence[int], num_shards: int) -> tuple[int, ...]:
    """The shape of a whole weight, from that of one shard's."""
    whole = list(shape)
    if name.endswith((*_FUSED, *_BY_ROWS)):
        whole[0] *= num_shards
    elif name.endswith(_BY_COLUMNS):
        whole[1] *= num_shards
    return tuple(whole)


def join(name: str, parts: Sequence[Tensor], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Makes a whole weight of its parts, in a dtype and on a device, without a second copy of it.

    Args:
        name: of the weight, as published.
        parts: of each rank, in order.
        dtype: of the whole.
        device: where it is made.
    """
    if len(parts) == 1 or joined_shape(name, parts[0].shape, len(parts)) == tuple(parts[0].shape):
        return parts[0].to(device=device, dtype=dtype)  # the same on every rank
    whole = torch.empty(joined_shape(name, parts[0].shape, len(parts)), dtype=dtype, device=device)
    if name.endswith(_BY_COLUMNS):
        places, pieces = whole.chunk(len(parts), dim=1), list(parts)
    elif name.endswith(_FUSED):
        # rows of the whole: q of all ranks, k of all ranks, v of all ranks
        places = whole.chunk(3 * len(parts))
        thirds = [part.chunk(3) for part in parts]
        pieces = [third[kind] for kind in range(3) for third in thirds]
    else:
        places, pieces = whole.chunk(len(parts)), list(parts)
    for place, piece in zip(places, pieces, strict=True):
        place.copy_(piece)
    return whole
