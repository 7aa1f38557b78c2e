"""`ptuning predict`: JSON lines out, in input order."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

    ptuning predict runs/tickets new_tickets.jsonl > answers.jsonl

    echo '{"text": "where is my parcel?"}' | ptuning predict runs/tickets -
"""

_ROWS_AT_ONCE = 2000


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or its prompt/.")],
    file: Annotated[Path, typer.Argument(help="Rows to predict for; - reads JSON lines from stdin.")] = Path("-"),
    backbone: Annotated[str | None, typer.Option(help="Default: the one the prompt was trained on.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps. Default: the best there is.")] = None,
) -> None:
    """Predict rows of a file: one JSON object a row on stdout, in input order."""
    from ptuning.cli.quiet import quiet_libraries
    from ptuning.data.unlabelled import load_rows
    from ptuning.predictor import load

    quiet_libraries()
    predictor = load(directory, backbone, device=device)
    task = predictor.tasks[0]
    rows = load_rows(sys.stdin if str(file) == "-" else file, task.kind.name, task.columns, task.template)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        for prediction in predictor.predict_rows(rows[start : start + _ROWS_AT_ONCE]):
            typer.echo(json.dumps(prediction, ensure_ascii=False))
