from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ptuning.errors import ConfigError, PromptError
from ptuning.prompts import DeepPrompts, GatheredPrompts, GivenPrompts, PromptBank
from ptuning.prompts.bank import _plan

LAYERS, HEADS, DIM = 4, 2, 3


def _given(layers: int, length: int, value: float) -> GivenPrompts:
    """Keys of `value`, values of its negative."""
    prompts = torch.full((layers, 2, HEADS, length, DIM), value)
    prompts[:, 1] *= -1
    return GivenPrompts(prompts)


def _bank(*entries: tuple[int, str | Sequence[int], Any]) -> PromptBank:
    bank = PromptBank(LAYERS)
    for i, (length, layers, positions) in enumerate(entries):
        count = LAYERS if layers == "all" else len(layers)
        index = bank.add(_given(count, length, float(i + 1)), layers=layers, positions=positions)
        assert index == i
    return bank


def _prompts(gathered: GatheredPrompts) -> torch.Tensor:
    """(L, 2, B or 1, H, P, D)."""
    assert gathered.prompts is not None
    return gathered.prompts


def test_one_entry_is_shared_by_all_rows_without_a_copy() -> None:
    bank = _bank((5, "all", "unshifted"))
    gathered = bank(None, 7)
    assert gathered.layers == (0, 1, 2, 3)
    assert tuple(_prompts(gathered).shape) == (LAYERS, 2, 1, HEADS, 5, DIM)
    own = bank.prompts[0]()  # type: ignore[operator]
    assert _prompts(gathered).data_ptr() == own.data_ptr()
    assert gathered.mask is None and gathered.shift is None and gathered.longest_shift == 0


def test_rows_of_one_entry_among_several_need_no_mask_either() -> None:
    bank = _bank((5, "all", "unshifted"), (2, [1], "shifted"))
    gathered = bank(torch.tensor([1, 1]), 2)
    assert gathered.layers == (1,) and gathered.mask is None
    assert tuple(_prompts(gathered).shape) == (1, 2, 1, HEADS, 2, DIM)
    assert gathered.shift is not None and gathered.shift.tolist() == [2, 2] and gathered.longest_shift == 2


def test_unequal_lengths_layers_and_positions_are_padded_and_masked() -> None:
    bank = _bank((1, [0, 2], "unshifted"), (3, [2, 3], "shifted"), (0, "all", "shifted"))
    gathered = bank(torch.tensor([1, 0, 2, 1]), 4)
    assert gathered.layers == (0, 2, 3)
    assert tuple(_prompts(gathered).shape) == (3, 2, 4, HEADS, 3, DIM)
    assert gathered.mask is not None and tuple(gathered.mask.shape) == (LAYERS, 4, 3)
    none, one, three = [False] * 3, [True, False, False], [True] * 3
    assert gathered.mask.tolist() == [
        [none, one, none, none],
        [none, none, none, none],
        [three, one, none, three],
        [three, none, none, three],
    ]
    for layer, (key, value) in zip(gathered.layers, _prompts(gathered), strict=True):
        for row, entry in enumerate([2.0, 1.0, 3.0, 2.0]):
            real = gathered.mask[layer, row].view(1, 3, 1).expand(HEADS, 3, DIM)
            assert torch.equal(key[row], torch.where(real, entry, 0.0))
            assert torch.equal(value[row], -key[row])
    assert gathered.shift is not None and gathered.shift.tolist() == [3, 0, 0, 3]
    assert gathered.longest_shift == 3 and bank.longest_shift() == 3


def test_entries_of_one_shape_need_no_mask() -> None:
    bank = _bank((2, [0, 1], "unshifted"), (2, [0, 1], "unshifted"))
    gathered = bank(torch.tensor([0, 1]), 2)
    assert gathered.mask is None
    assert _prompts(gathered)[:, 0].mean((-3, -2, -1)).tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_prompts_of_length_0_are_no_prompts() -> None:
    for bank, rows in (
        (_bank((0, "all", "shifted")), None),
        (_bank((0, "all", "shifted"), (0, [1], "unshifted")), torch.tensor([0, 1])),
    ):
        gathered = bank(rows, 2)
        assert gathered.layers == () and gathered.prompts is None and gathered.mask is None and gathered.shift is None


def test_gradients_reach_the_entries_of_the_rows_in_use() -> None:
    bank = PromptBank(LAYERS)
    modules = [
        DeepPrompts(num_prompted_layers=LAYERS, num_kv_heads=HEADS, prompt_length=length, head_dim=DIM)
        for length in (2, 3, 4)
    ]
    for module in modules:
        bank.add(module)
    gathered = bank(torch.tensor([2, 0, 2]), 3)
    _prompts(gathered)[:, 0].sum().backward()
    gradients = [None if m.prompts is None or m.prompts.grad is None else m.prompts.grad for m in modules]
    assert gradients[1] is None and gradients[0] is not None and gradients[2] is not None
    assert (gradients[0][:, 0] == 1).all() and (gradients[2][:, 0] == 2).all(), "one row, and two"
    assert not gradients[0][:, 1].any()


@pytest.mark.parametrize("rows", [None, [0, 1, 0, 1, 0, 1]])
def test_dropout_is_drawn_for_each_row_and_in_training_only(rows: list[int] | None) -> None:
    bank = PromptBank(1)
    for _ in range(1 if rows is None else 2):
        ones = torch.ones(1, 2, 4, 50, 8)
        bank.add(
            DeepPrompts(num_prompted_layers=1, num_kv_heads=4, prompt_length=50, head_dim=8, initial=ones, dropout=0.3)
        )
    gathered = bank.train()(None if rows is None else torch.tensor(rows), 6)
    key, value = _prompts(gathered)[0]
    for drawn in (key, value):
        assert drawn.shape[0] == 6
        torch.testing.assert_close(drawn.detach().unique(), torch.tensor([0.0, 1 / 0.7]))
        assert abs(float((drawn == 0).float().mean()) - 0.3) < 0.03
        assert all(not torch.equal(drawn[0], drawn[row]) for row in range(1, 6))
    assert not torch.equal(key, value)
    gathered = bank.eval()(None if rows is None else torch.tensor(rows), 6)
    assert (_prompts(gathered) == 1).all()


def test_dropout_is_each_entrys_own() -> None:
    bank = PromptBank(1)
    for rate in (0.0, 0.5):
        ones = torch.ones(1, 2, 1, 20, 8)
        bank.add(
            DeepPrompts(num_prompted_layers=1, num_kv_heads=1, prompt_length=20, head_dim=8, initial=ones, dropout=rate)
        )
    key = _prompts(bank.train()(torch.tensor([0, 1]), 2))[0, 0]
    assert (key[0] == 1).all() and set(key[1].unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("prompts", "options", "error", "words"),
    [
        (_given(2, 1, 0.0), {}, PromptError, "the prompts have 2 layers, but layers='all' names 4 of the backbone's 4"),
        (_given(2, 1, 0.0), {"layers": "last:3"}, PromptError, "layers='last:3' names 3"),
        (_given(1, 1, 0.0), {"layers": [9]}, ConfigError, "names layer 9"),
        (_given(4, 1, 0.0), {"positions": "moved"}, ConfigError, "prompts.positions is 'moved', expected `unshifted`"),
        (
            GivenPrompts(torch.zeros(4, 2, HEADS, 1, 7)),
            {},
            PromptError,
            "head_dim=7, but this bank holds prompts with 2 and 3",
        ),
    ],
)
def test_entries_that_do_not_fit(
    prompts: GivenPrompts, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    bank = _bank((1, "all", "unshifted"))
    with pytest.raises(error, match=words):
        bank.add(prompts, **options)
    assert len(bank) == 1 and len(bank.prompts) == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, r"the bank has 2 entries, so each row must say which one it uses"),
        (torch.tensor([0]), r"rows has shape \(1,\) and dtype torch.int64, expected \(batch_size,\) = \(2,\) integers"),
        (torch.tensor([], dtype=torch.long), r"rows has shape \(0,\) and dtype torch.int64, expected .* = \(2,\)"),
        (torch.tensor([[0, 1]]), r"rows has shape \(1, 2\)"),
        (torch.tensor([0.0, 1.0]), r"dtype torch.float32"),
        (torch.tensor([True, False]), r"dtype torch.bool"),
        (torch.tensor([0, 2]), "rows names entry 2, but the bank has 2 entries. Use indexes from 0 to 1"),
        (torch.tensor([-1, 0]), "rows names entry -1"),
    ],
)
def test_wrong_rows(rows: torch.Tensor | None, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        _bank((1, "all", "unshifted"), (2, "all", "unshifted"))(rows, 2)


def test_small_integer_rows_are_taken() -> None:
    bank = _bank((1, "all", "unshifted"), (2, "all", "unshifted"))
    for dtype in (torch.int32, torch.uint8):
        assert float(_prompts(bank(torch.tensor([1, 0], dtype=dtype), 2))[0, 0, 0].mean()) == 2.0


def test_an_empty_batch_has_no_rows() -> None:
    bank = _bank((1, "all", "unshifted"), (2, "all", "shifted"))
    assert tuple(_prompts(bank(torch.tensor([], dtype=torch.long), 0)).shape) == (LAYERS, 2, 1, HEADS, 1, DIM)


def test_what_a_set_of_entries_needs_is_made_once_and_for_training_too() -> None:
    bank = PromptBank(LAYERS)
    for length, layers in ((2, [0, 1]), (3, [1, 2])):
        bank.add(
            DeepPrompts(num_prompted_layers=2, num_kv_heads=HEADS, prompt_length=length, head_dim=DIM), layers=layers
        )
    rows = torch.tensor([0, 1, 0])
    with torch.inference_mode():
        first = bank(rows, 3)
    _plan.cache_clear()
    with torch.inference_mode():  # a service may be the first to ask
        bank(rows, 3)
    again = bank(rows.flip(0), 3)
    assert _plan.cache_info().misses == 1
    assert torch.equal(_prompts(again), _prompts(first)), "the same rows from both ends"
    _prompts(again).sum().backward()
    for module, uses in zip(bank.prompts, (2, 1), strict=True):
        assert (module.prompts.grad == uses).all()  # type: ignore[union-attr]


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_one_entry_for_all_rows_makes_no_tensor_but_a_view() -> None:
    bank = _bank((5, "all", "unshifted"))
    with _Operations() as operations:
        bank(None, 7)
    assert operations.names == ["aten.unsqueeze.default"]


def test_gathering_never_waits_for_the_device_of_the_prompts() -> None:
    """On `meta` there are no numbers that could be read."""
    bank = PromptBank(LAYERS)
    for length, layers in ((2, "all"), (3, "last:2")):
        prompts = torch.empty(4 if layers == "all" else 2, 2, HEADS, length, DIM, device="meta")
        bank.add(GivenPrompts(prompts), layers=layers, positions="shifted")
    gathered = bank(torch.tensor([0, 1, 1]), 3)
    assert _prompts(gathered).device.type == "meta" and gathered.mask is not None
    assert tuple(gathered.mask.shape) == (LAYERS, 3, 3) and gathered.longest_shift == 3
