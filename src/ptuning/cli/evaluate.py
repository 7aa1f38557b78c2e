"""`ptuning evaluate`: a saved prompt scored on labelled rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ptuning.allocation import imports_for_good

EXAMPLES = """Examples:

    ptuning evaluate runs/tickets

    ptuning evaluate runs/tickets/prompt --data my_dir --split test --json
"""


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or its prompt/.")],
    data: Annotated[
        str | None, typer.Option(help="Directory or data set. Default: what the run was trained on.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which rows: train, validation, test, or another that `ptuning tasks` names.")
    ] = "validation",
    backbone: Annotated[str | None, typer.Option(help="Default: the one the prompt was trained on.")] = None,
    fit_threshold: Annotated[
        bool,
        typer.Option(
            "--fit-threshold", help="Question answering: keep the no-answer threshold that is best on these rows."
        ),
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps. Default: the best there is.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="Of the backbone's weights: none, int8, nf4. Default: as in training.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a saved prompt on labelled rows."""
    with imports_for_good():
        from ptuning.backbones.quantization import as_quantization
        from ptuning.cli.quiet import quiet_libraries
        from ptuning.evaluation import evaluate

    quiet_libraries()
    result = evaluate(
        directory,
        data=data,
        split=split,
        backbone=backbone,
        fit_threshold=fit_threshold,
        device=device,
        quantization=None if quantization is None else as_quantization(quantization),
    )
    for note in result.notes:
        typer.echo(note, err=True)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
        return
    typer.echo(f"{result.split}, {result.num_rows} rows")
    for name, value in result.metrics.items():
        typer.echo(f"  {name:<24} {value:.4f}")
