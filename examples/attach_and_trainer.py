"""Prompts on a transformers model of your own, trained by transformers.Trainer.

    python examples/attach_and_trainer.py            # --rows 96 --epochs 3 by default

Two teams of the help desk are told apart. A sequence classifier is made on the embedded backbone, `ptuning.attach`
shows its layers trained virtual tokens, and Trainer trains those and the classifier's head; the backbone stays as it
was. Needs the extra `minilm`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed
from transformers.utils import logging

import ptuning

TEAMS = ("account", "delivery")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=96, help="tickets to learn from")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--output", type=Path, help="save the prompts here; by default they are not kept")
    arguments = parser.parse_args()
    set_seed(11)
    logging.set_verbosity_error()  # or transformers notes that the new head is not in the checkpoint

    # A model of one's own: any transformers model of a supported family.
    backbone = ptuning.load_backbone("minilm")
    train, validation = _tickets("train")[: arguments.rows], _tickets("validation")
    model = AutoModelForSequenceClassification.from_pretrained(backbone.source, num_labels=len(TEAMS))
    before = {name: value.clone() for name, value in model.base_model.state_dict().items()}

    sizes = backbone.description
    prompts = ptuning.DeepPrompts(
        num_prompted_layers=sizes.num_layers,
        num_kv_heads=sizes.num_kv_heads,
        prompt_length=10,
        head_dim=sizes.head_dim,
        init_std=1.0,
    )
    attached = ptuning.attach(model, prompts)  # freezes model.base_model, leaves the head alone

    def encoded(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        texts = backbone.tokenizer([row["text"] for row in rows], truncation=True, max_length=64)["input_ids"]
        return [{"input_ids": ids, "labels": TEAMS.index(row["label"])} for ids, row in zip(texts, rows, strict=True)]

    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            model,
            TrainingArguments(
                directory,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=8,
                learning_rate=5e-3,
                save_strategy="no",
                report_to="none",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=encoded(train),  # type: ignore[arg-type]
            eval_dataset=encoded(validation),  # type: ignore[arg-type]
            processing_class=backbone.tokenizer,
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
        )
        trainer.train()
        print(f"accuracy on {len(validation)} validation tickets: {trainer.evaluate()['eval_accuracy']:.3f}")

    if arguments.output:
        attached.save(arguments.output)
        print(f"the prompts are in {arguments.output}")
    attached.detach()  # no hooks and no prompts are left on the model
    assert all(torch.equal(value, before[name]) for name, value in model.base_model.state_dict().items())
    print("the backbone is bit for bit what it was")


def _tickets(split: str) -> list[dict[str, str]]:
    """Two teams' rows of the help-desk tickets that come with the package."""
    text = (files("ptuning") / "helpdesk" / "tickets" / f"{split}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["label"] in TEAMS]


if __name__ == "__main__":
    main()
