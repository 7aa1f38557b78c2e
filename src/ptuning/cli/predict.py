"""`ptuning predict`: predictions in input order, as JSON lines or as a benchmark's grader takes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptuning.allocation import imports_for_good
from ptuning.errors import ConfigError

if TYPE_CHECKING:
    from ptuning.submission import Format, Submission

EXAMPLES = """Examples:

    ptuning predict runs/tickets new_tickets.jsonl > answers.jsonl

    echo '{"text": "where is my parcel?"}' | ptuning predict runs/tickets -

    ptuning predict runs/rte --split test --format super_glue --output submission/
"""

_ROWS_AT_ONCE = 2000


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or its prompt/.")],
    file: Annotated[
        Path | None, typer.Argument(help="Rows to predict for; - or nothing reads JSON lines from stdin.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Directory or data set with the split, instead of FILE. Default: the run's own.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Rows of a split, instead of FILE: test, or another. Labels need not be there."),
    ] = None,
    format_name: Annotated[
        str, typer.Option("--format", help="json, super_glue, glue, squad or conll: what the grader takes.")
    ] = "json",
    output: Annotated[
        str | None, typer.Option(metavar="PATH", help="A file, or a directory/ for the usual name. Default: stdout.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    backbone: Annotated[str | None, typer.Option(help="Default: the one the prompt was trained on.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps. Default: the best there is.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="Of the backbone's weights: none, int8, nf4. Default: as in training.")
    ] = None,
) -> None:
    """Predict rows: one JSON object a row on stdout, in input order, or the file that a benchmark's grader takes."""
    if file is not None and (data is not None or split is not None):
        raise ConfigError(
            f"FILE is {file}, and --data or --split was given too, expected one source of rows. Leave one out."
        )
    with imports_for_good():
        from ptuning.backbones.quantization import as_quantization
        from ptuning.cli.quiet import quiet_libraries
        from ptuning.predictor import load, read_task
        from ptuning.submission import (
            check_is_free,
            get_format,
            json_lines,
            paths_of,
            read_file,
            read_split,
            write_files,
        )

    # Whatever can be wrong with what was asked is said before the backbone is loaded, which takes the longest.
    form = get_format(format_name)
    quiet_libraries()
    task = read_task(directory)
    form.check_task(task)
    if data is not None or split is not None:
        asked = read_split(task, data, split or "test")
    else:
        asked = read_file(sys.stdin if file is None or str(file) == "-" else file, task)
    submission = form.prepare(task, asked)
    paths = [] if output is None else paths_of(submission.outputs, output)
    check_is_free(paths, overwrite=overwrite)
    predictor = load(
        directory, backbone, device=device, quantization=None if quantization is None else as_quantization(quantization)
    )
    predictions = []
    for start in range(0, len(asked.rows), _ROWS_AT_ONCE):
        some = predictor.predict_rows(asked.rows[start : start + _ROWS_AT_ONCE])
        if form.name == "json" and output is None:
            typer.echo(json_lines(some), nl=False)  # as they come
        else:
            predictions += some
    if form.name == "json" and output is None:
        return
    texts = submission.texts(predictions)
    if output is None:
        typer.echo(texts[0], nl=False)
    else:
        write_files(texts, paths, overwrite=overwrite)
    _say(form, submission, paths)


def _say(form: Format, submission: Submission, paths: list[Path]) -> None:
    """Says on stderr where files are, and what the grader wants to know them by."""
    first, *others = submission.outputs
    if not paths:
        for more in others:
            typer.echo(f"{more.name}, {more.what}, is written with --output alone.", err=True)
        return
    typer.echo(f"wrote {', '.join(map(str, paths))}", err=True)
    if form.is_named and paths[0].name != first.name:
        typer.echo(f"The benchmark takes it by the name {first.name}.", err=True)
