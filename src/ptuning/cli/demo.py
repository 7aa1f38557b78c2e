"""`ptuning demo`: one frozen backbone learns three tasks, then answers a mixed batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

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
    from rich.console import Console

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
        trained = counts["prompts"] + counts["head"]
        rows.append(
            [
                task.task.preset,
                task.result.metric,
                f"{task.score:.1%}",
                f"{task.probe[1]:.1%} ({task.probe[0]})",
                f"{trained:,}",
                shown_share(trained, counts["backbone"]),
                f"{task.file_bytes / 1e6:.2f} MB",
                f"{task.result.seconds:.0f}",
            ]
        )
    description = report.backbone.description
    print_table(
        ["task", "metric", "prompts", "linear probe", "trained", "of backbone", "file", "seconds"],
        rows,
        title=f"one frozen {report.backbone.name} ({description.num_parameters:,} parameters), three prompts",
    )


def _print_answers(console: Console, report: DemoReport) -> None:
    console.print("One batch, three tasks, each row with its own prompts:\n", style="bold")
    for task, row, prediction in report.answers:
        line = {"tickets": _ticket, "entities": _entities, "questions": _answer}[task]
        console.print(line(row, prediction), soft_wrap=False)
        console.print()


def _ticket(row: dict[str, str], prediction: Prediction) -> str:
    from rich.markup import escape

    return (
        f"[bold]route[/]   {escape(row['text'])}\n        -> [green]{prediction['label']}[/] {prediction['score']:.0%}"
    )


def _entities(row: dict[str, str], prediction: Prediction) -> str:
    from rich.markup import escape

    text, shown, last = row["text"], "", 0
    for entity in prediction["entities"]:
        shown += escape(text[last : entity["start"]])
        shown += f"[reverse]{escape(entity['text'])}[/] [cyan]{entity['type']}[/]"
        last = entity["end"]
    return f"[bold]find[/]    {shown}{escape(text[last:])}"


def _answer(row: dict[str, str], prediction: Prediction) -> str:
    from rich.markup import escape

    context = row["context"]
    if prediction["start"] is None:
        return f"[bold]answer[/]  {escape(row['question'])}\n        -> [yellow]the article does not say[/]"
    start, end = prediction["start"], prediction["end"]
    before, after = context[max(0, start - 60) : start], context[end : end + 40]
    return (
        f"[bold]answer[/]  {escape(row['question'])}\n"
        f"        -> …{escape(before)}[reverse]{escape(context[start:end])}[/]{escape(after)}… "
        f"{prediction['score']:.0%}"
    )
