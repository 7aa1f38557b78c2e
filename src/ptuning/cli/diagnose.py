"""`ptuning diagnose`: what trained prompts do, as figures and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptuning.allocation import imports_for_good

if TYPE_CHECKING:
    from ptuning.diagnostics import TaskDiagnosis

EXAMPLES = """Examples:

    ptuning diagnose runs/tickets

    ptuning diagnose runs/tickets runs/entities --output figures --rows 200
"""


def command(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs, or their prompt/.")],
    data: Annotated[
        str | None, typer.Option(help="Directory or data set. Default: what each run was trained on.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Whose rows: train, validation, test, or another that `ptuning tasks` names.")
    ] = "validation",
    rows: Annotated[int, typer.Option(min=1, help="Rows to run at most, spread over the split.")] = 64,
    output: Annotated[
        Path | None, typer.Option(help="Where figures go. Default: diagnostics/ in a single run, else here.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Default: the one the prompts were trained on.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps. Default: the best there is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as one JSON object.")] = False,
) -> None:
    """Look at trained prompts: attention on virtual tokens, norms over training, similarity. Draws figures."""
    with imports_for_good():
        from ptuning.cli.quiet import quiet_libraries
        from ptuning.diagnostics import diagnose
        from ptuning.diagnostics.diagnosis import usual_output

    quiet_libraries()
    found = diagnose(
        directories,
        data=data,
        split=split,
        rows=rows,
        output=output or usual_output(directories),
        backbone=backbone,
        device=device,
    )
    for note in found.notes:
        typer.echo(note, err=True)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    for task in found.tasks:
        _print_task(task, found.split)
    typer.echo("\n".join(map(str, found.files)))


def _print_task(task: TaskDiagnosis, split: str) -> None:
    from ptuning.cli.tables import print_table

    rows = []
    for layer, heads in enumerate(task.attention):
        place = task.layers.index(layer) if layer in task.layers else None
        virtual = ["-", "-"] if place is None else [f"{task.keys[place]:.2f}", f"{task.values[place]:.2f}"]
        rows.append(
            [
                str(layer),
                f"{sum(heads) / len(heads):.1%}",
                f"{max(heads):.1%} (head {heads.index(max(heads))})" if place is not None else "-",
                f"{virtual[0]} / {task.real_keys[layer]:.2f}",
                f"{virtual[1]} / {task.real_values[layer]:.2f}",
            ]
        )
    title = (
        f"{task.name}: {task.method}, {task.prompt_length} virtual tokens, {task.num_rows} {split} rows "
        f"({task.num_tokens:,} tokens)"
    )
    columns = ["layer", "attention on virtual tokens", "most", "norm of keys, virtual / real", "of values"]
    print_table(columns, rows, title=title)
