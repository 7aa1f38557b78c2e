"""The commands, and nothing that takes long to import: `--help` answers without torch."""

from __future__ import annotations

from typing import Annotated

import typer

from ptuning.cli import backbones, compare, demo, diagnose, evaluate, info, multitask, predict, tasks, train
from ptuning.launch import require_one
from ptuning.version import __version__

app = typer.Typer(
    name="ptuning",
    help="P-Tuning v2: one frozen pretrained encoder, small trained prompts at every layer and a small head per task.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"ptuning {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Takes the options that stand before a command."""
    if context.invoked_subcommand != "train":
        require_one(context.invoked_subcommand)


for _name, _module in (
    ("demo", demo),
    ("train", train),
    ("multitask", multitask),
    ("compare", compare),
    ("evaluate", evaluate),
    ("predict", predict),
    ("info", info),
    ("diagnose", diagnose),
    ("tasks", tasks),
    ("backbones", backbones),
):
    app.command(_name, epilog=_module.EXAMPLES)(_module.command)
