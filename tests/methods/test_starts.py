from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from ptuning.backbones.loading import load_backbone
from ptuning.methods.starts import from_labels, ordinary_ids
from ptuning.training.assembly import assemble_model
from ptuning.training.run import prepare_task


@pytest.fixture
def tokenizer(tiny_backbone: Path) -> Any:
    """That of the tiny backbone, with tokens that are kept free and a special one of a user's."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    tokenizer.add_tokens(["[unused0]", "[unused17]", "madeupword0001", "parrot"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<own>"]})
    return tokenizer


def test_tokens_that_stand_for_no_text_are_left_out(tokenizer: Any) -> None:
    ids = ordinary_ids(tokenizer, len(tokenizer) + 8)  # embeddings are often padded to a round number of rows
    words = set(tokenizer.convert_ids_to_tokens(ids.tolist()))
    gone = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<own>", "[unused0]", "[unused17]", "madeupword0001"}
    assert words == set(tokenizer.get_vocab()) - gone
    assert "parrot" in words and len(ids) == len(tokenizer) - len(gone)
    assert ordinary_ids(tokenizer, 20).max() == 19  # no row that is not there


def test_labels_are_followed_by_ordinary_tokens_alone() -> None:
    weight = torch.arange(20.0)[:, None].expand(20, 3)
    ordinary = torch.tensor([4, 7, 11])
    made = from_labels(weight, [[1, 3], [2]], ordinary, 5, torch.Generator().manual_seed(0))
    assert made[:2, 0].tolist() == [2.0, 2.0] and sorted(made[2:, 0].tolist()) == [4.0, 7.0, 11.0]


@pytest.mark.parametrize("init_std", [1.0, 0.25])
def test_the_normal_start_is_as_wide_as_the_vocabulary(
    init_std: float, tiny_run: Callable[..., Any], tiny_backbone: Path, tmp_path: Path
) -> None:
    """`prompts.init_std` is in units of the deviation of the embeddings; with a network it is the network's input."""
    backbone = load_backbone(tiny_backbone)
    deviation = float(backbone.model.get_input_embeddings().weight.std())
    assert not 0.5 < deviation < 2.0, "else this would say nothing"
    settings = {"method": "prompt-tuning", "prompts.init": "normal", "prompts.prompt_length": 40}
    for how, scale in (("none", deviation), ("mlp", 1.0)):
        own = {**settings, "prompts.init_std": init_std, "prompts.reparameterization": how}
        config = tiny_run(tmp_path / "run", **own, **{"data.max_length": 20})
        prepared = prepare_task(config, backbone)
        model = assemble_model(config, backbone, prepared.kind, prepared.train)
        model.detach()
        started: Any = model.adaptation
        assert float(started.prompts.embeddings.detach().std()) == pytest.approx(init_std * scale, rel=0.08)
