"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table: the first column to the left, numbers to the right, `-` for what was not measured."""
    cells = [list(columns), *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        first, *others = row
        print("  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return str(value)


def print_epochs(name: str, result: Mapping[str, Any]) -> None:
    """Prints the sides of `compare_epochs`, with the floor of each."""
    rows = []
    for side, measured in result["epochs"].items():
        mark = "~" if measured["is_extrapolated"] else " "
        rows.append(
            [
                side,
                measured["precision"],
                f"{measured['steps_measured']}/{measured['steps_of_epoch']}",
                measured["step_ms"],
                f"{mark}{measured['epoch_seconds']:.1f}",
                measured["tokens_per_second"],
                100 * measured["padding_share"],
                measured["peak_mb"],
                measured["floor_seconds"],
                measured["share_of_floor"],
            ]
        )
    print_table(
        f"{name}: an epoch of {result['rows']} rows, {result['tokens']} tokens (~: extrapolated from some steps)",
        ["side", "precision", "steps", "step ms", "epoch s", "tokens/s", "padding %", "peak MB", "floor s", "share"],
        rows,
    )


def print_equal(name: str, result: Mapping[str, Any]) -> None:
    """Prints the modes of `compare_equal_steps`."""
    rows = [
        [mode, one["batches"], one["ptuning_epoch_seconds"], one["peft_epoch_seconds"], one["ratio"]]
        for mode, one in result.items()
    ]
    title = f"{name}: equal batches, products in bf16 on both sides, seconds an epoch"
    print_table(title, ["backbone dropout", "batches", "ptuning", "peft", "ratio"], rows)


def print_learning(name: str, result: Mapping[str, Any]) -> None:
    """Prints the sides of `train_to_score`."""
    rows = []
    for side, one in result.items():
        epochs = one.get("epoch_seconds")
        shown = " ".join(f"{seconds:.1f}" for seconds in epochs) if epochs else None
        rows.append([side, one["steps"], shown, one["best_score"], one["seconds_to_target"], one["peak_mb"]])
    target = next(iter(result.values()))["target"]
    columns = ["side", "steps", "epochs s", "best score", f"s to {target:g}", "peak MB"]
    print_table(f"{name}: trained to a score, evaluations left out", columns, rows)


def print_inference(name: str, result: Mapping[str, Any]) -> None:
    """Prints the sides of `compare_inference`."""
    rows = [[side, one["seconds"], one["rows_per_second"], one["peak_mb"]] for side, one in result.items()]
    print_table(f"{name}: the validation rows, without gradients", ["side", "seconds", "rows/s", "peak MB"], rows)


def print_search(result: Mapping[str, Any]) -> None:
    """Prints what `compare_search` measured."""
    count = len(result["learning_rates"])
    separate = max(result["separate_scores"])
    reused = result["separate_reuse_seconds"]
    mark = "~" if result["is_separate_reuse_extrapolated"] else ""
    rows: list[list[Any]] = [
        [f"{count} processes, no trunk reuse", f"{result['separate_seconds']:.1f}", None, None, separate, None],
        [f"{count} processes, trunk reuse", reused and f"{mark}{reused:.1f}", None, None, None, None],
    ]
    for name, key in (("population", "population"), ("with halving", "halving")):
        one, ratio = result[key], "population_ratio" if key == "population" else "population_halving_ratio"
        best = one["scores"][one["best"]]
        ratios = [result[ratio], result[f"{ratio}_with_reuse"]]
        rows.append([name, f"{one['seconds']:.1f}", *ratios, best, one["peak_mb"]])
    title = f"search over {count} learning rates: {result['rows']} rows, {result['epochs']} epochs, {result['layers']}"
    print_table(title, ["way", "seconds", "ratio", "ratio to reuse", "best score", "peak MB"], rows)
