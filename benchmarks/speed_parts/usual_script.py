"""The usual script of the alternatives: transformers' Trainer with dynamic padding, one step a turn.

    python -m speed_parts.usual_script settings.json

Run by `speed.py`, never by hand. Settings: `method` (`peft`, `adapters`, `full`), `model` (directory of the backbone),
`rows` (JSON of `train` and `validation` rows with `input_ids`, `token_type_ids`, `label`), `num_labels`,
`prompt_length`, `batch_size`, `learning_rate`, `epochs`, `in_order` (rows are shuffled already), `precision` (`fp32`,
or `bf16` under autocast), `evaluate_steps` (or null), `mode` (`train`, `predict`), `device`, `threads`, `seed`.

Everything that is not named there is a default of the library: positions shifted and the backbone's dropout on in
PEFT, AdamW, a linear schedule, gradients clipped to 1. Adapters' prefix tuning has no MLP (`flat=True`), as PEFT's.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from speed_parts.turns import Turns


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    turns = Turns(settings["device"])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(settings["threads"])
    set_seed(settings["seed"])
    rows = json.loads(Path(settings["rows"]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(settings, rows, directory)
        if settings["mode"] == "predict":
            while True:
                trainer.predict(rows["validation"])
                turns.end_turn("predicted")
        trainer.add_callback(_Evaluations(turns))
        turns.hold_steps()
        trainer.train()
    turns.say("end")


def make_trainer(settings: dict[str, Any], rows: dict[str, Any], directory: str) -> Trainer:
    """The Trainer as its documentation has it."""
    evaluate_steps = settings["evaluate_steps"]
    arguments = TrainingArguments(
        output_dir=directory,
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        num_train_epochs=settings["epochs"],
        bf16=settings["precision"] == "bf16",
        eval_strategy="steps" if evaluate_steps else "no",
        eval_steps=evaluate_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=settings["device"] == "cpu",
        dataloader_pin_memory=settings["device"] != "cpu",
        seed=settings["seed"],
    )
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = AutoModelForSequenceClassification.from_pretrained(settings["model"], num_labels=settings["num_labels"])
    kind: Any = Trainer
    if settings["method"] == "peft":
        from peft import PrefixTuningConfig, TaskType, get_peft_model

        _show_past_key_values(model.base_model)
        prefix = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=settings["prompt_length"])
        model = get_peft_model(model, prefix)
    elif settings["method"] == "adapters":
        import adapters

        adapters.init(model)
        prefix = adapters.PrefixTuningConfig(flat=True, prefix_length=settings["prompt_length"])
        model.add_adapter("task", config=prefix)
        model.train_adapter("task")
        kind = adapters.AdapterTrainer
    if settings["in_order"]:
        kind = _in_order(kind)
    return kind(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
    )


def _show_past_key_values(encoder: Any) -> None:
    """Gives an encoder's forward the parameter by which PEFT 0.21 sees that prefixes can be passed.

    transformers 5.24 calls it `cache` and takes the old name too, but PEFT looks for the old name in the signature, and
    refuses the model without it.
    """
    forward = encoder.forward

    def with_old_name(input_ids: Any = None, past_key_values: Any = None, **more: Any) -> Any:
        return forward(input_ids, past_key_values=past_key_values, **more)

    if "past_key_values" not in inspect.signature(forward).parameters:
        encoder.forward = with_old_name


def _in_order(kind: Any) -> Any:
    """A Trainer that takes rows as they come: they are shuffled already, so that which batches come is known."""

    class InOrder(kind):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
            return SequentialSampler(self.train_dataset)

    return InOrder


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}


class _Evaluations(TrainerCallback):
    """Tells of each evaluation, whose time does not count: it comes between two steps."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **more: Any) -> None:
        self._turns.say("evaluated", score=metrics["eval_accuracy"])
        self._turns.restart()


if __name__ == "__main__":
    main()
