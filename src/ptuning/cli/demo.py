"""`ptuning demo`: one frozen backbone learns three tasks, then answers a mixed batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from ptuning.allocation import imports_for_good

if TYPE_CHECKING:
    from ptuning.demo import DemoReport
    from ptuning.tasks.kind import Prediction

EXAMPLES = """Examples:

    ptuning demo

    ptuning demo --quick --output /tmp/demo
"""


def command(
    output: Annotated[Path, typer.Option(help="The runs go below this directory; earlier ones are replaced.")] = Path(
        "runs/demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A few rows and one epoch: does everything run?")] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 11,
) -> None:
    """Learn three help-desk tasks on one frozen backbone, then answer a batch in which they are mixed."""
    started = time.monotonic()
    with imports_for_good():
        from ptuning.cli.quiet import quiet_libraries
        from ptuning.demo import run_demo
        from ptuning.training.reporting import Terminal

    quiet_libraries()
    report = run_demo(output, quick=quick, seed=seed, report_for=Terminal)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    _print_table(report)
    _print_answers(console, report)
    console.print(f"{time.monotonic() - started:.0f} s in all. The prompts are in {output}.", markup=False)
    if quick:
        console.print("This was --quick: too few rows and epochs to learn anything, so no floor is checked.")
        return
    missed = report.missed()
    for sentence in missed:
        typer.echo(f"missed: {sentence}", err=True)
    if missed:
        raise typer.Exit(1)
    floors = ", ".join(
        f"{t.task.preset} {t.task.floor:.0%}" + (f" and {t.task.times_probe:g} x probe" if t.task.times_probe else "")
        for t in report.tasks
    )
    console.print(f"All floors met: {floors}.", markup=False)


def _print_table(report: DemoReport) -> None:
    from ptuning.cli.tables import print_table, shown_share

    rows = []
    for task in report.tasks:
        counts = task.result.counts
        rows.append(
            [
                task.task.preset,
                task.result.metric,
                f"{task.score:.1%}",
                f"{task.probe[1]:.1%} ({task.probe[0]})",
                f"{counts['prompts']:,} + {counts['head']:,}",
                shown_share(counts["prompts"], counts["backbone"]),
                f"{task.file_bytes / 1e6:.2f} MB",
                f"{task.result.seconds:.0f}",
            ]
        )
    description = report.backbone.description
    print_table(
        ["task", "metric", "score", "linear probe", "prompts + head", "prompts / backbone", "file", "seconds"],
        rows,
        title=f"one frozen {report.backbone.name} ({description.num_parameters:,} parameters)",
    )


def _print_answers(console: Console, report: DemoReport) -> None:
    console.print("One batch, three tasks, each row with its own prompts:\n", style="bold")
    for task, row, prediction in report.answers:
        line = {"tickets": _ticket, "entities": _entities, "questions": _answer}[task]
        console.print(line(row, prediction))
        console.print()


def _ticket(row: dict[str, str], prediction: Prediction) -> Text:
    return Text.assemble(
        ("route   ", "bold"),
        row["text"],
        "\n        -> ",
        (prediction["label"], "green"),
        f" {prediction['score']:.0%}",
    )


def _entities(row: dict[str, str], prediction: Prediction) -> Text:
    line, last = Text.assemble(("find    ", "bold")), 0
    for entity in prediction["entities"]:
        line.append(row["text"][last : entity["start"]])
        line.append(f"[{entity['text']}]", "reverse").append(f"{entity['type']}", "cyan")
        last = entity["end"]
    return line.append(row["text"][last:])


def _answer(row: dict[str, str], prediction: Prediction) -> Text:
    line = Text.assemble(("answer  ", "bold"), row["question"], "\n        -> ")
    if prediction["start"] is None:
        return line.append("the article does not say", "yellow").append(f" {prediction['score']:.0%}")
    context, start, end = row["context"], prediction["start"], prediction["end"]
    line.append(f"…{context[max(0, start - 40) : start]}")
    line.append(f"[{context[start:end]}]", "reverse").append(f"{context[end : end + 40]}…")
    return line.append(f" {prediction['score']:.0%}")
