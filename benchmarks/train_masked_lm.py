"""Trains a small masked language model, to compare heads with verbalizers where no pretrained one is at hand.

    PTUNING_DATA=my_data python benchmarks/train_masked_lm.py --output runs/small-masked-lm
    ptuning train --task glue/sst2 --data $PTUNING_DATA/sst2 --backbone runs/small-masked-lm --set head.kind=verbalizer

It starts from `minilm`, the embedded backbone, which has no language-modeling head: one of BERT's layout is drawn, its
last matrix tied to the word embeddings, and everything is trained on the texts of the TRAINING files of some sets,
without their labels. Masks are BERT's (15% of the tokens; 80% of them masked, 10% another token, 10% as they are). What
comes out is a directory in hub layout. It is a small model that has seen a few megabytes of text: it shows that a
verbalizer works, and not how well it would with a model that was pretrained on billions of words.

The last lines are the share of masked tokens of held-out texts that it finds, of the start too, and where it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM, DataCollatorForLanguageModeling, get_linear_schedule_with_warmup

import ptuning

TEXTS: dict[str, tuple[str, ...]] = {
    "sst2": ("sentence",),
    "rte": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "multirc": ("paragraph",),
    "squad": ("context",),
    "squad_v2": ("context",),
}
"""Directory in `PTUNING_DATA` -> columns of its training file that are read."""

HELD_OUT = 200


def main() -> int:
    arguments = _arguments()
    if "PTUNING_DATA" not in os.environ:
        print("PTUNING_DATA is not set, expected a directory with the sets. Nothing was trained.", file=sys.stderr)
        return 2
    texts = read_texts(Path(os.environ["PTUNING_DATA"]))
    if len(texts) <= HELD_OUT:
        print(f"{len(texts)} texts, expected more than {HELD_OUT}. Add sets: {', '.join(TEXTS)}.", file=sys.stderr)
        return 2
    torch.manual_seed(arguments.seed)
    backbone = ptuning.load_backbone("minilm")
    tokenizer = backbone.tokenizer
    model = with_new_head(backbone.model)
    random.Random(arguments.seed).shuffle(texts)
    rows = [tokenizer(text, truncation=True, max_length=arguments.max_length)["input_ids"] for text in texts]
    held_out, rows = rows[:HELD_OUT], rows[HELD_OUT:]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    print(f"{len(rows):,} texts, {sum(map(len, rows)):,} tokens; {HELD_OUT} texts held out")
    start = share_found(model, collator, held_out)
    _train(model, collator, rows, arguments)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    found = share_found(model, collator, held_out)
    print(f"masked tokens found: {100 * start:.1f}% at the start, {100 * found:.1f}% now")
    print(f"saved to {arguments.output}")
    return 0


def read_texts(data: Path) -> list[str]:
    """Returns the different texts of the training files that are there, in their order."""
    texts: dict[str, None] = {}
    for name, columns in TEXTS.items():
        path = data / name / "train.jsonl"
        if not path.is_file():
            print(f"{path} is not there, so {name} is left out.", file=sys.stderr)
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts.update(dict.fromkeys(row[column] for column in columns))
    return list(texts)


def with_new_head(trunk: nn.Module) -> Any:
    """Returns a BERT for masked language modeling with a trunk's weights, and a head drawn at random."""
    model: Any = BertForMaskedLM(trunk.config)
    own = {name: tensor for name, tensor in trunk.state_dict().items() if not name.startswith("pooler.")}
    model.bert.load_state_dict(own)
    model.tie_weights()
    return model


def masked_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean cross entropy at masked tokens, and how many of them are found; others are not scored."""
    labels = batch["labels"]
    states = model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    is_asked = labels != -100
    logits = model.cls(states[is_asked])
    return nn.functional.cross_entropy(logits, labels[is_asked]), (logits.argmax(-1) == labels[is_asked]).sum()


@torch.no_grad()
def share_found(model: Any, collator: Any, rows: Sequence[list[int]]) -> float:
    """Share of masked tokens whose best-scored token is the right one; masks are drawn from a seed of their own."""
    model.eval()
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    found = asked = 0
    for place in range(0, len(rows), 32):
        batch = collator([{"input_ids": row} for row in rows[place : place + 32]])
        found += int(masked_loss(model, batch)[1])
        asked += int((batch["labels"] != -100).sum())
    torch.random.set_rng_state(state)
    return found / asked


def _train(model: Any, collator: Any, rows: list[list[int]], arguments: argparse.Namespace) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, arguments.steps // 20, arguments.steps)
    batches = _batches(rows, arguments.batch_size, random.Random(arguments.seed))
    model.train()
    losses: list[float] = []
    for step in range(1, arguments.steps + 1):
        batch = collator([{"input_ids": row} for row in next(batches)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = masked_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0 or step == arguments.steps:
            print(f"step {step}, loss {sum(losses) / len(losses):.3f}", flush=True)
            losses = []


def _batches(rows: list[list[int]], batch_size: int, generator: random.Random) -> Iterator[list[list[int]]]:
    """Batches of rows of like length, in an order that is drawn anew for every pass over the rows; without end."""
    in_order = sorted(rows, key=len)
    batches = [in_order[place : place + batch_size] for place in range(0, len(in_order), batch_size)]
    while True:
        yield from generator.sample(batches, len(batches))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/small-masked-lm"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=11)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
