"""A BERT of any size with random weights, and rows with the lengths of RTE: what is needed to time a step, and no more.

Weights and words make no difference to the time, so nothing is downloaded.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
"""The sizes of BERT-large."""

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

RTE_LENGTHS = (13, 29, 33, 37, 40, 43, 45, 47, 50, 53, 56, 59, 62, 67, 72, 85, 103, 120, 135, 157, 289)
"""Every twentieth of the lengths of RTE's 2,490 training rows, shortest to longest, in BERT's uncased word pieces."""

_VOCABULARY = 30_522  # as BERT's
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_backbone(directory: Path, sizes: dict[str, int]) -> None:
    """Writes a random BERT and a tokenizer with a token a word, in hub layout."""
    BertModel(BertConfig(vocab_size=_VOCABULARY, **sizes)).save_pretrained(directory)
    words = [*_SPECIAL, *(f"w{number}" for number in range(_VOCABULARY - len(_SPECIAL)))]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(directory)


def write_rows(directory: Path, count: int, *, longest: int) -> None:
    """Writes a classification set whose rows have lengths drawn as RTE's are distributed.

    Args:
        directory: where to.
        count: training rows; there are a few validation rows.
        longest: tokens a row at most.
    """
    draw = random.Random("rows of RTE's lengths")
    directory.mkdir()
    for split, rows in (("train", count), ("validation", 8)):
        with (directory / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(rows):
                place = draw.random() * (len(RTE_LENGTHS) - 1)
                low, high = RTE_LENGTHS[int(place)], RTE_LENGTHS[int(place) + 1]
                length = min(round(low + (place % 1) * (high - low)), longest)
                words = draw.choices(range(_VOCABULARY - len(_SPECIAL)), k=length - 2)  # [CLS] and [SEP] come with it
                row = {"text": " ".join(f"w{word}" for word in words), "label": ("no", "yes")[number % 2]}
                file.write(json.dumps(row) + "\n")
