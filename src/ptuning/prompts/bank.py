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
        keys: one tensor a prompted layer, (batch_size or 1, num_kv_heads, prompt_length, head_dim). Size 1 in front
            means the same for every row.
        values: as `keys`.
        mask: (num_layers, batch_size, prompt_length) bool, True where a row has a real virtual token at that layer.
            None when every row has all of them at every layer in `layers`.
        shift: (batch_size,) int64, what is added to each row's learned absolute positions. None when nothing is.
        longest_shift: the largest of `shift`.
    """

    layers: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None
    shift: Tensor | None
    longest_shift: int

    def mask_of(self, layer: int) -> Tensor | None:
        """Returns the mask of one layer, (batch_size, prompt_length) bool, or None when all its tokens are real."""
        return None if self.mask is None else self.mask[layer]


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
        lengths = [self._length(i) for i, entry in enumerate(self.entries) if entry.positions == "shifted"]
        return max(lengths, default=0)

    def forward(self, rows: Tensor | None, batch_size: int) -> GatheredPrompts:
        """Gathers every row's prompts.

        Args:
            rows: (batch_size,) integer entry indexes, or None for entry 0 everywhere (a bank of one entry only).
            batch_size: rows of the batch.

        Raises:
            PromptError: rows are missing though there are several entries, have the wrong shape, or are out of range.
        """
        used, inverse = self._used_entries(rows, batch_size)
        gathered = self._single(used[0], batch_size) if len(used) == 1 else self._several(used, inverse)
        return gathered

    def _length(self, index: int) -> int:
        return cast(DeepPrompts, self.prompts[index]).prompt_length

    def _used_entries(self, rows: Tensor | None, batch_size: int) -> tuple[list[int], Tensor]:
        if rows is None:
            if len(self.entries) != 1:
                raise PromptError(
                    f"the bank has {len(self.entries)} entries, so each row must say which one it uses. "
                    "Run the model inside `with attached.rows(rows):`, rows of shape (batch_size,)."
                )
            return [0], torch.zeros(batch_size, dtype=torch.long)
        if tuple(rows.shape) != (batch_size,) or rows.is_floating_point() or rows.dtype == torch.bool:
            raise PromptError(
                f"rows has shape {tuple(rows.shape)} and dtype {rows.dtype}, expected (batch_size,) = ({batch_size},) "
                "integers. Give one entry index for each sequence that the backbone sees."
            )
        used, inverse = torch.unique(rows.cpu(), return_inverse=True)
        if batch_size and (int(used[0]) < 0 or int(used[-1]) >= len(self.entries)):
            wrong = int(used[0]) if int(used[0]) < 0 else int(used[-1])
            raise PromptError(
                f"rows names entry {wrong}, but the bank has {len(self.entries)} entries. "
                f"Use indexes from 0 to {len(self.entries) - 1}."
            )
        return [int(index) for index in used], inverse

    def _single(self, index: int, batch_size: int) -> GatheredPrompts:
        """Every row uses the same entry: nothing is copied, and nothing needs a mask."""
        module, entry, length = cast(DeepPrompts, self.prompts[index]), self.entries[index], self._length(index)
        if length == 0:
            return GatheredPrompts((), (), (), None, None, 0)
        prompts = module().unsqueeze(2)  # (L, 2, 1, H, P, D)
        if module.training and module.dropout > 0.0:
            prompts = functional.dropout(prompts.expand(-1, -1, batch_size, -1, -1, -1), module.dropout)
        keys, values = prompts.unbind(1)
        shift = torch.full((batch_size,), length, device=prompts.device) if entry.positions == "shifted" else None
        return GatheredPrompts(
            entry.layers, keys.unbind(0), values.unbind(0), None, shift, 0 if shift is None else length
        )

    def _several(self, used: list[int], inverse: Tensor) -> GatheredPrompts:
        entries = [self.entries[index] for index in used]
        modules = [cast(DeepPrompts, self.prompts[index]) for index in used]
        lengths = [module.prompt_length for module in modules]
        longest = max(lengths)
        layers = tuple(
            sorted({layer for e, length in zip(entries, lengths, strict=True) if length for layer in e.layers})
        )
        produced = [module() for module in modules]
        device = produced[0].device
        inverse = inverse.to(device)
        shifts = [length if e.positions == "shifted" else 0 for e, length in zip(entries, lengths, strict=True)]
        shift = torch.tensor(shifts, device=device)[inverse] if any(shifts) else None
        if not layers:
            return GatheredPrompts((), (), (), None, shift, 0)
        stacked = torch.stack(
            [self._padded(prompts, e.layers, layers, longest) for prompts, e in zip(produced, entries, strict=True)],
            dim=2,
        )  # (L, 2, U, H, P, D)
        prompts = stacked.index_select(2, inverse)  # (L, 2, B, H, P, D)
        rates = [module.dropout if module.training else 0.0 for module in modules]
        if any(rates):
            keep = 1.0 - torch.tensor(rates, device=device)[inverse].view(1, 1, -1, 1, 1, 1)
            prompts = prompts * torch.bernoulli(keep.expand_as(prompts)) / keep
        mask = torch.zeros(self.num_layers, len(used), longest, dtype=torch.bool, device=device)
        for position, (entry, length) in enumerate(zip(entries, lengths, strict=True)):
            mask[list(entry.layers), position, :length] = True
        row_mask = None if bool(mask[list(layers)].all()) else mask[:, inverse]
        keys, values = prompts.unbind(1)
        return GatheredPrompts(layers, keys.unbind(0), values.unbind(0), row_mask, shift, max(shifts))

    @staticmethod
    def _padded(prompts: Tensor, own: tuple[int, ...], layers: tuple[int, ...], longest: int) -> Tensor:
        """Zeros where this entry has no layer or no virtual token: (len(layers), 2, H, longest, D)."""
        prompts = functional.pad(prompts, (0, 0, 0, longest - prompts.shape[3]))
        if own == layers or longest == 0:
            return prompts
        kept = [(i, layers.index(layer)) for i, layer in enumerate(own) if layer in layers]
        placed = prompts.new_zeros(len(layers), *prompts.shape[1:])
        if not kept:
            return placed
        source, target = (torch.tensor(column, device=prompts.device) for column in zip(*kept, strict=True))
        return placed.index_copy(0, target, prompts.index_select(0, source))
