"""The bank: prompts of many tasks (or candidates), and for each row of a batch the entry that it uses.

    rows: (batch_size,)  ->  keys and values of every prompted layer for every row

Entries may differ in prompt length, in their set of layers and in position mode. Shorter ones are padded to the
longest in the batch and the padding is masked, so a row gets the result it would get alone. Letters in shape
comments: L layers prompted by any entry in the batch, U distinct entries in the batch, B rows, H key/value heads,
P longest prompt in the batch, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning.errors import ConfigError, PromptError
from ptuning.prompts.deep_prompts import DeepPrompts, GivenPrompts
from ptuning.prompts.layers import resolve_layers

Positions = Literal["unshifted", "shifted"]


@dataclass(frozen=True)
class GatheredPrompts:
    """What one forward needs from the bank.

    Attributes:
        layers: the L layer numbers that have a block, ascending.
        prompts: (L, 2, batch_size or 1, num_kv_heads, prompt_length, head_dim). Axis 1 is key, then value; size 1 for
            the batch means the same for every row. None where there are no layers.
        mask: (num_layers, batch_size, prompt_length) bool, True where a row has a real virtual token at that layer.
            None when every row has all of them at every layer in `layers`.
        shift: (batch_size,) int64, what is added to each row's learned absolute positions. None when nothing is.
        longest_shift: the largest of `shift`.
    """

    layers: tuple[int, ...]
    prompts: Tensor | None
    mask: Tensor | None
    shift: Tensor | None
    longest_shift: int


@dataclass(frozen=True)
class Entry:
    """Where one entry's prompts go.

    Attributes:
        layers: layer numbers, ascending, one for each block of the prompts.
        positions: `unshifted` leaves real tokens where they are, `shifted` moves them by the prompt length.
    """

    layers: tuple[int, ...]
    positions: Positions


class PromptBank(nn.Module):
    """An ordered collection of prompts over one backbone.

    Args:
        num_layers: layers of the backbone.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.prompts = nn.ModuleList()
        self.entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self.entries)

    def add(
        self,
        prompts: DeepPrompts | GivenPrompts,
        *,
        layers: str | int | Sequence[int] = "all",
        positions: Positions = "unshifted",
    ) -> int:
        """Adds an entry and returns its index, by which rows refer to it.

        Raises:
            PromptError: the prompts have another number of layers than `layers` names, or other heads than the
                entries already here.
            ConfigError: `layers` or `positions` cannot be read.
        """
        chosen = resolve_layers(layers, self.num_layers)
        if positions not in ("unshifted", "shifted"):
            raise ConfigError(f"prompts.positions is {positions!r}, expected `unshifted` or `shifted`.")
        if prompts.shape[0] != len(chosen):
            raise PromptError(
                f"the prompts have {prompts.shape[0]} layers, but layers={layers!r} names {len(chosen)} of the "
                f"backbone's {self.num_layers}. Give prompts and layers of the same number."
            )
        if self.entries:
            first = cast(DeepPrompts, self.prompts[0]).shape
            if (prompts.shape[2], prompts.shape[4]) != (first[2], first[4]):
                raise PromptError(
                    f"the prompts have num_kv_heads={prompts.shape[2]} and head_dim={prompts.shape[4]}, but this bank "
                    f"holds prompts with {first[2]} and {first[4]}. One bank serves one backbone."
                )
        self.prompts.append(prompts)
        self.entries.append(Entry(chosen, positions))
        return len(self.entries) - 1

    def longest_shift(self) -> int:
        """The largest number that any entry adds to positions."""
        return max(self.shifts(), default=0)

    def lowest_layer(self) -> int:
        """The lowest layer of any entry with virtual tokens; where no entry has any, the lowest of all."""
        lowest = [(self._length(i) == 0, entry.layers[0]) for i, entry in enumerate(self.entries)]
        return min(lowest)[1]

    def prompted_layers(self) -> set[int]:
        """All layers at which some entry has virtual tokens."""
        return {layer for i, entry in enumerate(self.entries) if self._length(i) for layer in entry.layers}

    def shifts(self) -> set[int]:
        """All numbers that entries add to positions."""
        return {self._length(i) if entry.positions == "shifted" else 0 for i, entry in enumerate(self.entries)}

    def forward(self, rows: Tensor | None, batch_size: int) -> GatheredPrompts:
        """Gathers every row's prompts.

        Args:
            rows: (batch_size,) integer entry indexes, or None for entry 0 everywhere (a bank of one entry only).
            batch_size: rows of the batch.

        Raises:
            PromptError: rows are missing though there are several entries, have the wrong shape, or are out of range.
        """
        if rows is None:
            if len(self.entries) != 1:
                raise PromptError(
                    f"the bank has {len(self.entries)} entries, so each row must say which one it uses. "
                    "Run the model inside `with attached.rows(rows):`, rows of shape (batch_size,)."
                )
            return self._single(0, batch_size)
        used, inverse = self._used_entries(rows, batch_size)
        return self._single(used[0], batch_size) if len(used) == 1 else self._several(used, inverse)

    def _length(self, index: int) -> int:
        return cast(DeepPrompts, self.prompts[index]).prompt_length

    def _used_entries(self, rows: Tensor, batch_size: int) -> tuple[list[int], Tensor]:
        """The U distinct entries of a batch, ascending, and for each row its index among them, on the CPU."""
        if tuple(rows.shape) != (batch_size,) or rows.is_floating_point() or rows.dtype == torch.bool:
            raise PromptError(
                f"rows has shape {tuple(rows.shape)} and dtype {rows.dtype}, expected (batch_size,) = ({batch_size},) "
                "integers. Give one entry index for each sequence that the backbone sees."
            )
        if not batch_size:
            return [0], rows.cpu()
        used, inverse = torch.unique(rows.cpu(), return_inverse=True)
        if int(used[0]) < 0 or int(used[-1]) >= len(self.entries):
            wrong = int(used[0]) if int(used[0]) < 0 else int(used[-1])
            raise PromptError(
                f"rows names entry {wrong}, but the bank has {len(self.entries)} entries. "
                f"Use indexes from 0 to {len(self.entries) - 1}."
            )
        return used.tolist(), inverse

    def _single(self, index: int, batch_size: int) -> GatheredPrompts:
        """Every row uses the same entry: nothing is copied, and nothing needs a mask."""
        module, entry, length = cast(DeepPrompts, self.prompts[index]), self.entries[index], self._length(index)
        if length == 0:
            return GatheredPrompts((), None, None, None, 0)
        prompts = module().unsqueeze(2)  # (L, 2, 1, H, P, D)
        if module.training and module.dropout > 0.0:
            prompts = functional.dropout(prompts.expand(-1, -1, batch_size, -1, -1, -1), module.dropout)
        if entry.positions == "unshifted":
            return GatheredPrompts(entry.layers, prompts, None, None, 0)
        shift = torch.full((batch_size,), length, device=prompts.device)
        return GatheredPrompts(entry.layers, prompts, None, shift, length)

    def _several(self, used: list[int], inverse: Tensor) -> GatheredPrompts:
        modules = [cast(DeepPrompts, self.prompts[index]) for index in used]
        produced = [module() for module in modules]
        device = produced[0].device
        plan = _plan(
            tuple(self.entries[index] for index in used),
            tuple(module.prompt_length for module in modules),
            self.num_layers,
            device,
        )
        inverse = _to(inverse, device)
        shift = None if plan.shifts is None else plan.shifts[inverse]
        if not plan.layers:
            return GatheredPrompts((), None, None, shift, 0)
        stacked = torch.stack([plan.padded(i, prompts) for i, prompts in enumerate(produced)], dim=2)  # (L, 2, U, …)
        prompts = stacked.index_select(2, inverse)  # (L, 2, B, H, P, D)
        rates = [module.dropout if module.training else 0.0 for module in modules]
        if any(rates):
            keep = 1.0 - _to(torch.tensor(rates), device)[inverse].view(1, 1, -1, 1, 1, 1)
            prompts = prompts * torch.bernoulli(keep.expand_as(prompts)) / keep
        mask = None if plan.mask is None else plan.mask[:, inverse]
        return GatheredPrompts(plan.layers, prompts, mask, shift, plan.longest_shift)


@dataclass(frozen=True)
class _Plan:
    """How a set of U entries goes into one batch; nothing of it depends on the prompts' values or on the rows.

    Attributes:
        layers: the L layers of any entry that has virtual tokens, ascending.
        longest: the largest prompt length.
        places: for each entry None where it has just these layers, else which of its own blocks go to which of
            `layers`: two of (num_blocks,) int64.
        mask: (num_layers, U, longest) bool, or None where every entry has all tokens at all of `layers`.
        shifts: (U,) int64, or None where nothing is shifted.
        longest_shift: the largest of `shifts`.
    """

    layers: tuple[int, ...]
    longest: int
    places: tuple[tuple[Tensor, Tensor] | None, ...]
    mask: Tensor | None
    shifts: Tensor | None
    longest_shift: int

    def padded(self, index: int, prompts: Tensor) -> Tensor:
        """An entry's prompts with zeros where it has no layer or no virtual token: (L, 2, H, longest, D)."""
        prompts = functional.pad(prompts, (0, 0, 0, self.longest - prompts.shape[3]))
        places = self.places[index]
        if places is None:
            return prompts
        placed = prompts.new_zeros(len(self.layers), *prompts.shape[1:])
        return placed.index_copy(0, places[1], prompts.index_select(0, places[0]))


# Kept for the sets of entries seen last: what is made here on an accelerator would be waited for in every forward.
@lru_cache(maxsize=256)
def _plan(entries: tuple[Entry, ...], lengths: tuple[int, ...], num_layers: int, device: torch.device) -> _Plan:
    layers = tuple(sorted({layer for e, length in zip(entries, lengths, strict=True) if length for layer in e.layers}))
    longest = max(lengths)
    shifts = [length if e.positions == "shifted" else 0 for e, length in zip(entries, lengths, strict=True)]
    is_full = all(e.layers == layers and length == longest for e, length in zip(entries, lengths, strict=True))
    with torch.inference_mode(False):  # also used in training, whatever asks first
        mask = torch.zeros(num_layers, len(entries), longest, dtype=torch.bool)
        places: list[tuple[Tensor, Tensor] | None] = []
        for position, (entry, length) in enumerate(zip(entries, lengths, strict=True)):
            mask[list(entry.layers), position, :length] = True
            kept = [(i, layers.index(layer)) for i, layer in enumerate(entry.layers) if layer in layers]
            own, target = torch.tensor(kept, dtype=torch.long).view(-1, 2).to(device).unbind(1)
            places.append(None if entry.layers == layers else (own, target))
        return _Plan(
            layers,
            longest,
            tuple(places),
            None if is_full else mask.to(device),
            torch.tensor(shifts).to(device) if any(shifts) else None,
            max(shifts),
        )


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a small tensor from the CPU without waiting for what the device is doing."""
    return tensor.to(device, non_blocking=device.type == "cuda")
