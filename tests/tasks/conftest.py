from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ptuning.backbones.embedded import minilm_directory
from ptuning.data.batching import Batch, Example, collate
from ptuning.tasks import TaskKind

_SURE = 20.0


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of the embedded backbone (WordPiece, lower case)."""
    return AutoTokenizer.from_pretrained(minilm_directory())


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """A byte-level tokenizer as RoBERTa's, without merges: a token a byte, no token types, no space put in front."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def t5_like_tokenizer() -> Any:
    """A tokenizer as T5's: no CLS, `</s>` behind each text, and the blank before a word counted to the word."""
    words = "▁where ▁is ▁the ▁blue ▁lamp ? ▁The ▁stands ▁on ▁a ▁desk .".split()
    vocabulary = {token: index for index, token in enumerate(["</s>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", unk_token="<unk>", model_input_names=["input_ids", "attention_mask"]
    )


@pytest.fixture(scope="session")
def perfect_logits() -> Callable[[TaskKind, Sequence[Example]], list[Tensor]]:
    """Logits that say what the labels of examples say."""

    def one(kind: TaskKind, example: Example) -> Tensor:
        label, seq_len = example.label, len(example.sequences[0])
        if kind.head_kind == "span":
            assert isinstance(label, tuple)
            logits = torch.zeros(seq_len, 2)
            logits[0] = 1.0  # windows without the answer: less sure than the one with it
            logits[label[0], 0] = logits[label[1], 1] = _SURE if label != (0, 0) else 2.0
            return logits
        if kind.head_kind == "token":
            assert isinstance(label, list)
            logits = torch.randn(seq_len, kind.num_outputs, generator=torch.Generator().manual_seed(3))
            for position, index in enumerate(label):
                if index >= 0:
                    logits[position, index] = _SURE
            return logits
        assert isinstance(label, int)
        logits = torch.zeros(len(example.sequences) if kind.head_kind == "choice" else kind.num_outputs)
        logits[label] = _SURE
        return logits

    return lambda kind, examples: [one(kind, example) for example in examples]


@pytest.fixture(scope="session")
def batch_loss() -> Callable[[TaskKind, Sequence[Tensor], Sequence[Example]], float]:
    """The loss of examples with one tensor of logits each, padded with numbers that must not count."""

    def loss(kind: TaskKind, logits: Sequence[Tensor], examples: Sequence[Example]) -> float:
        batch: Batch = collate(examples, pad_token_id=0)
        if kind.head_kind == "choice":
            return float(kind.loss(torch.cat(list(logits)), batch))
        if kind.head_kind == "sequence":
            return float(kind.loss(torch.stack(list(logits)), batch))
        return float(kind.loss(pad_sequence(list(logits), batch_first=True, padding_value=7.0), batch))

    return loss
