"""A packed batch gives what the padded one gives: forward on the CPU, gradients where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ptuning.attachment import attach_bank_or_prompts
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.packing import PackedBatch, pack_batch
from ptuning.errors import BackboneError, PromptError

LENGTHS = (11, 8, 1, 15, 7, 12)  # together more than the 40 positions; some longer than ModernBERT's window
NAMES = [
    *sorted(name for name, family in FAMILIES.items() if "flex" in family.attention),
    "albert-groups",
    "gemma2-bidirectional",
    "gemma3_text-bidirectional",
    "gemma3_text-trained-both-ways",
    "llama-bidirectional",
    "mistral-bidirectional",
]
CASES = [(name, layers, length, "unshifted") for name in NAMES for layers, length in (("all", 5), ("subset", 5))] + [
    (name, "all", 5, "shifted")
    for name in NAMES
    if name == "albert-groups" or (name in FAMILIES and FAMILIES[name].takes_shifted_positions)
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention has no backward on a CPU")


def _attach(model: Any, layers: str, prompt_length: int, positions: Any) -> Tensor:
    description = describe_trunk(*find_trunk(model))
    chosen = list(range(description.num_layers)) if layers == "all" else [0, description.num_layers - 1]
    shape = (len(chosen), 2, description.num_kv_heads, prompt_length, description.head_dim)
    prompts = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(model.device).requires_grad_()
    attach_bank_or_prompts(model, prompts, layers=chosen, positions=positions, freeze=True, check=False, eager=False)
    return prompts


def _pack(model: Any, batch: dict[str, Tensor]) -> PackedBatch:
    trunk, family = find_trunk(model)
    return pack_batch(family, trunk.config, batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))


def _run_packed(model: Any, batch: dict[str, Tensor]) -> Tensor:
    packed = _pack(model, batch)
    return packed.unpack(model(**packed.inputs())[0])


@pytest.fixture
def both(tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]) -> Callable[..., Any]:
    """Hidden states of real tokens and the prompts, padded with sdpa and packed with flex attention."""

    def run(
        name: str,
        *,
        layers: str = "all",
        prompt_length: int = 5,
        positions: str = "unshifted",
        lengths: tuple[int, ...] = LENGTHS,
        with_types: bool = False,
        device: str = "cpu",
        **sizes: Any,
    ) -> list[tuple[Tensor, Tensor]]:
        results = []
        for attention, forward in (("sdpa", lambda model, batch: model(**batch)[0]), ("flex_attention", _run_packed)):
            model = tiny_model(name, attention=attention, **sizes).to(device)
            batch = {key: tensor.to(device) for key, tensor in ragged_batch(model.config, lengths).items()}
            if with_types:
                draw = torch.Generator().manual_seed(3)
                batch["token_type_ids"] = torch.randint(0, 2, batch["input_ids"].shape, generator=draw).to(device)
            prompts = _attach(model, layers, prompt_length, positions)
            results.append((forward(model, batch)[batch["attention_mask"].bool()], prompts))
        return results

    return run


@torch.no_grad()
@pytest.mark.parametrize(("name", "layers", "prompt_length", "positions"), CASES)
def test_packed_equals_padded(name: str, layers: str, prompt_length: int, positions: str, both: Any) -> None:
    (padded, _), (packed, _) = both(name, layers=layers, prompt_length=prompt_length, positions=positions)
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "modernbert", "roberta"])
def test_packed_equals_padded_without_prompts(name: str, both: Any) -> None:
    (padded, _), (packed, _) = both(name, prompt_length=0)
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["albert", "bert", "electra", "ernie"])
def test_token_types_go_with_their_tokens(name: str, both: Any) -> None:
    (padded, _), (packed, _) = both(name, with_types=True)
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    (without, _), _ = both(name)
    assert (without - padded).abs().max() > 1e-2, "types must matter"


@torch.no_grad()
def test_documents_and_windows_that_cross_the_blocks_of_flex_attention(both: Any) -> None:
    """More than 128 tokens a document and a row, and prompts of more than a block."""
    (padded, _), (packed, _) = both(
        "modernbert", lengths=(70, 150, 3, 90), prompt_length=140, max_position_embeddings=160, local_attention=32
    )
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "llama", "mistral", "modernbert"])
def test_a_document_sees_no_other(
    name: str, tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model(name, attention="flex_attention")
    batch = ragged_batch(model.config, LENGTHS)
    _attach(model, "all", 5, "unshifted")
    before = _run_packed(model, batch)
    batch["input_ids"][3, 2:9] = 7
    after = _run_packed(model, batch)
    others = [0, 1, 2, 4, 5]
    assert torch.equal(before[others], after[others])
    assert (before[3] - after[3]).abs().max() > 1e-2


def test_packing_and_unpacking_gives_back_every_real_token() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    states = torch.randn(3, 4, 8)
    packed = pack_batch(FAMILIES["distilbert"], None, torch.arange(12).view(3, 4), mask, None)
    assert packed.input_ids.shape == (1, 16), "a multiple of 16"
    assert packed.input_ids[0, :8].tolist() == [0, 1, 2, 4, 8, 9, 10, 11]
    assert packed.position_ids[0, :8].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert torch.equal(packed.unpack(packed.pack(states)), states * mask.unsqueeze(2))
    assert packed.starts.tolist() == [0, 3, 4]


def test_positions_behind_the_padding_index_begin_anew_in_each_document(
    tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model("roberta")
    packed = _pack(model, ragged_batch(model.config, (3, 2)))
    start = model.config.pad_token_id + 1
    assert packed.position_ids[0, :5].tolist() == [start, start + 1, start + 2, start, start + 1]


@pytest.mark.parametrize("first_tokens_only", [False, True])
@pytest.mark.parametrize(("num_virtual", "window"), [(0, None), (5, None), (5, 16), (130, None), (256, 40)])
def test_no_block_that_is_seen_is_left_out(num_virtual: int, window: int | None, first_tokens_only: bool) -> None:
    lengths = torch.tensor([40, 300, 1, 120, 128, 51])
    mask = (torch.arange(300) < lengths[:, None]).long()
    packed = pack_batch(FAMILIES["distilbert"], None, torch.ones_like(mask), mask, None)
    ours = packed.block_mask(num_virtual, window, first_tokens_only=first_tokens_only)
    num_queries, num_keys = ours.shape[-2:]
    assert num_queries == (6 if first_tokens_only else 640)
    torchs = create_block_mask(ours.mask_mod, 1, None, num_queries, num_keys, device="cpu")
    seen, needed = ours.to_dense().bool(), torchs.to_dense().bool()
    assert bool((seen >= needed).all())
    assert window is not None or torch.equal(seen, needed), "without windows no block is looked at in vain"
    whole, torchs_whole = (_whole_blocks(blocks) for blocks in (ours, torchs))
    assert whole <= torchs_whole, "blocks that are not looked into hold nothing hidden"
    assert first_tokens_only or window is not None or whole, "and there are some"


@pytest.mark.parametrize("num_virtual", [0, 5, 130, 256])
@pytest.mark.parametrize(
    ("name", "window"), [("llama", None), ("mistral", 40), ("mistral-bidirectional", 40), ("gemma2", 130)]
)
def test_blocks_show_each_token_of_a_decoder_what_its_direction_and_window_let_it_see(
    name: str, window: int | None, num_virtual: int, tiny_model: Callable[..., Any]
) -> None:
    """Over several blocks of 128, of rows that end within one; expected is what the definition says, token by token."""
    lengths = torch.tensor([40, 300, 1, 120, 128, 50])
    mask = (torch.arange(300) < lengths[:, None]).long()
    config = tiny_model(name, **({} if window is None else {"sliding_window": window})).config
    packed = pack_batch(FAMILIES[config.model_type], config, torch.ones_like(mask), mask, None)
    num_tokens = packed.input_ids.shape[1]
    tail = num_tokens - int(lengths.sum())
    assert tail == 1
    document = torch.repeat_interleave(torch.arange(7), torch.tensor([*lengths.tolist(), tail]))
    ahead = torch.arange(num_tokens)[None] - torch.arange(num_tokens)[:, None]  # (T, T), key minus query
    is_causal = not name.endswith("-bidirectional")
    for limit in {None, window}:
        own = document[None] == document[:, None]
        if is_causal:
            own &= ahead <= 0
        if limit is not None:  # as transformers counts: a causal window with the token itself, one both ways without
            own &= ahead.abs() <= (limit - 1 if is_causal else limit)
        reach = limit - 1 if limit is not None and packed.window_counts_itself else limit
        blocks = packed.block_mask(num_virtual, reach)
        assert torch.equal(_seen(blocks), torch.cat([torch.ones(num_tokens, num_virtual, dtype=torch.bool), own], 1))


def _seen(blocks: Any) -> Tensor:
    """(queries, keys), what a block mask shows: its partial blocks as its function says, its whole ones altogether."""
    num_queries, num_keys = blocks.seq_lengths
    seen = torch.zeros(num_queries, num_keys, dtype=torch.bool)
    for is_whole, counts, indices in (
        (False, blocks.kv_num_blocks, blocks.kv_indices),
        (True, blocks.full_kv_num_blocks, blocks.full_kv_indices),
    ):
        for row, count in enumerate(counts[0, 0].tolist()):
            queries = torch.arange(row * 128, min(row * 128 + 128, num_queries))[:, None]
            for column in indices[0, 0, row, :count].tolist():
                keys = torch.arange(column * 128, min(column * 128 + 128, num_keys))[None]
                seen[queries, keys] = True if is_whole else blocks.mask_mod(0, 0, queries, keys)
    return seen


def _whole_blocks(blocks: Any) -> set[tuple[int, int]]:
    counts, indices = blocks.full_kv_num_blocks[0, 0], blocks.full_kv_indices[0, 0]
    return {(row, int(column)) for row in range(len(counts)) for column in indices[row, : counts[row]]}


@torch.no_grad()
def test_lengths_and_prompts_of_all_sizes_share_few_compilations() -> None:
    counter = CompileCounter()
    compiled = torch.compile(flex_attention, dynamic=True, backend=counter)
    for num_virtual in (5, 20, 0, 128, 7):
        for longest, window in ((3, None), (20, None), (130, 8), (90, None)):
            mask = (torch.arange(longest) < torch.tensor([longest, 1, longest // 2])[:, None]).long()
            packed = pack_batch(FAMILIES["distilbert"], None, torch.ones_like(mask), mask, None)
            num_tokens = packed.input_ids.shape[1]
            query, key = torch.randn(1, 2, num_tokens, 8), torch.randn(1, 2, num_virtual + num_tokens, 8)
            compiled(query, key, key, block_mask=packed.block_mask(num_virtual, window), enable_gqa=True)
    assert counter.frame_count <= 4, "torch stops compiling after eight"


@torch.no_grad()
def test_each_document_must_fit_the_positions(
    tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model("bert", attention="flex_attention")
    _attach(model, "all", 5, "shifted")
    with pytest.raises(PromptError, match="36 tokens shifted by prompt_length 5, but the backbone has 40 positions"):
        _run_packed(model, ragged_batch(model.config, (36, 2)))
    _run_packed(model, ragged_batch(model.config, (35, 35)))


@torch.no_grad()
def test_dropout_of_attention_weights_is_refused(
    tiny_model: Callable[..., Any], ragged_batch: Callable[..., dict[str, Tensor]]
) -> None:
    model = tiny_model("bert", attention="flex_attention", attention_probs_dropout_prob=0.1).train()
    _attach(model, "all", 5, "unshifted")
    with pytest.raises(BackboneError, match=r"probability 0\.1, which flex attention cannot.*backbone_dropout to off"):
        _run_packed(model, ragged_batch(model.config, LENGTHS))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("layers", ["all", "subset"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "eurobert", "modernbert", "roberta"])
def test_gradients_of_packed_prompts_equal_those_of_padded_ones(name: str, layers: str, both: Any) -> None:
    sizes = {"eurobert": {"head_dim": 16}, "distilbert": {"dim": 64}}.get(name, {"hidden_size": 64})  # heads of 16
    gradients = []
    for lengths in (LENGTHS, (30, 2, 9)):  # the second without compiling anew
        for hidden_states, prompts in both(name, layers=layers, lengths=lengths, device="cuda", **sizes):
            weights = torch.randn(hidden_states.shape, generator=torch.Generator().manual_seed(8)).cuda()
            (gradient,) = torch.autograd.grad((hidden_states * weights).sum(), prompts)
            gradients.append(gradient / gradient.abs().max())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(gradients[3], gradients[2], rtol=0, atol=1e-4)
