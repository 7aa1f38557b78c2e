"""`ptuning tasks`: what `--task` takes, one of them in full, and rows as the model will see them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptuning.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptuning.inspection import Inspection, ShownRow, ShownSequence, ShownToken
    from ptuning.tasks.presets import Task

EXAMPLES = """Examples:

    ptuning tasks

    ptuning tasks super_glue/wic

    ptuning tasks super_glue/wic --show 3 --data my_dir --template 1

    ptuning tasks token_classification --show 1 --data my_dir --backbone roberta-base --max-length 64
"""

_WIDTH = 100
_LONGEST_VALUE = 300
_LONG, _AROUND, _HEAD, _TAIL = 120, 10, 40, 15  # tokens: what is shown of a longer sequence


def command(
    name: Annotated[str | None, typer.Argument(help="A preset or kind. Default: a table of all.")] = None,
    show: Annotated[
        int | None, typer.Option(metavar="N", help="Show the first rows as the model will see them.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Whose tokens to show. Default: minilm.")] = None,
    data: Annotated[str | None, typer.Option(help="Directory or data set. Default: the preset's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Which rows. Default: train.")] = None,
    template: Annotated[int | None, typer.Option(metavar="N", help="Which input format of the preset.")] = None,
    max_length: Annotated[int | None, typer.Option(metavar="N", help="Tokens a sequence at most.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting of a run.")
    ] = None,
) -> None:
    """List the presets and kinds of task; with NAME say all of one; with --show print rows of it."""
    flags: dict[str, Any] = {
        "backbone": backbone,
        "data.path": data,
        "data.template": template,
        "data.max_length": max_length,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    if show is None and (given or split is not None or setting):
        raise ConfigError(
            "--backbone, --data, --split, --template, --max-length and --set say how rows are shown, and --show is "
            "missing. Add --show 3."
        )
    if name is None:
        if show is not None:
            raise ConfigError("--show was given without the task. Name it: ptuning tasks super_glue/wic --show 3")
        _print_all()
    elif show is None:
        from ptuning.tasks.presets import get_task

        _print_task(get_task(name))
    else:
        _print_rows(name, show, split or "train", given, setting or [])


def _print_all() -> None:
    from ptuning.cli.tables import print_table
    from ptuning.data.columns import KIND_ROLES
    from ptuning.tasks.presets import KINDS, PRESETS

    families: dict[str, list[Task]] = {}
    for task in PRESETS.values():
        families.setdefault(family_of(task), []).append(task)
    rows = []
    for number, (family, tasks) in enumerate(families.items()):
        rows += [[""] * 6] * (number > 0) + [[family.upper(), "", "", "", "", ""]]
        for t in tasks:
            rows.append(
                [
                    t.name,
                    t.kind,
                    t.metric or "-",
                    source_of(t).split("@")[0],
                    _verified(t),
                    str(len(recipes_of(t.name)) or "-"),
                ]
            )
    print_table(["preset", "kind", "metric", "data", "verified", "recipes"], rows)
    kinds = [[name, ", ".join(KIND_ROLES[name]), what] for name, what in KINDS.items()]
    print_table(["kind (bring your own data)", "columns", "what it is"], kinds)
    typer.echo("Columns, labels, input formats and how to get the data of a preset: ptuning tasks NAME")


_FAMILIES = {
    "token_classification": "entities",
    "semantic_role_labeling": "semantic roles",
    "question_answering": "questions",
    "classification": "sentences",
}


def family_of(task: Task) -> str:
    """The benchmark that a preset is of, else what its kind is about."""
    benchmark = task.name.split("/")[0] if "/" in task.name else ""
    names = {"super_glue": "SuperGLUE", "glue": "GLUE", "helpdesk": "helpdesk"}
    return names.get(benchmark) or _FAMILIES.get(task.kind, task.kind)


def source_of(task: Task) -> str:
    """Where a preset's data are, in a few words."""
    if task.source is None:
        return "bring your own"
    return "shipped" if str(task.source).startswith("package:") else str(task.source)


def _verified(task: Task) -> str:
    if task.source is None or str(task.source).startswith("package:"):
        return "-"
    return "yes" if task.is_verified else "no"


def recipes_of(name: str) -> list[str]:
    """Names of the shipped recipes of a preset."""
    from ptuning.config import shipped_recipes

    return [recipe for recipe, own in shipped_recipes().items() if own.task == name]


def _print_task(task: Task) -> None:
    from ptuning.cli.tables import print_pairs
    from ptuning.config import shipped_recipes
    from ptuning.data.columns import KIND_ROLES
    from ptuning.data.hub import HubSource
    from ptuning.tasks.glm_patterns import GLM_PATTERNS
    from ptuning.tasks.presets import KINDS
    from ptuning.tasks.templates import TEMPLATES

    pairs = [("what it is", task.description), ("kind", f"{task.kind}: {KINDS[task.kind]}")]
    for number, template in enumerate(TEMPLATES[name] for name in task.templates):
        pairs.append((f"template {number}", template.description))
        optional = f" (and {', '.join(template.optional)} where they are there)" if template.optional else ""
        pairs.append(("", f"reads {', '.join((*template.columns, template.label))}{optional}"))
    if not task.templates:
        pairs.append(("roles", ", ".join(KIND_ROLES[task.kind])))
        for role, columns in task.columns.items():
            pairs.append((f"  {role}", f"is read from {' or '.join(columns)}"))
    pairs.append(("labels", ", ".join(task.label_names or ()) or "those of the data, if the kind has any"))
    if task.pattern is not None:
        pairs.append(("pattern", task.pattern))
        pairs.append(("  label words", ", ".join(f"{label}: {word}" for label, word in (task.words or {}).items())))
    if task.name in GLM_PATTERNS:
        own = GLM_PATTERNS[task.name]
        behind = f" (template {own.template})" if len(task.templates) > 1 else ""
        pairs.append(("pattern for GLM", f"{own.pattern}{behind}"))
        words = ", ".join(f"{label}: {word}" for label, word in own.words.items())
        pairs.append(("  label words", words or "those of the row: its choices or entities"))
    pairs.append(("metric", task.metric or "the kind's own default"))
    pairs.append(("data", source_of(task)))
    if isinstance(task.source, HubSource):
        source = task.source
        pairs.append(("  data set", source.name))
        pairs.append(("  configuration", source.config or "the only one"))
        pairs.append(("  revision", source.revision or "main"))
        pairs += [(f"  {split}", f"is the data set's {own}") for split, own in source.splits.items()]
        pairs.append(("  verified", "yes, loaded by a test" if task.is_verified else "no, not loaded by a test yet"))
    if task.how_to_get:
        pairs.append(("how to get them", task.how_to_get))
    pairs.append(("splits", ", ".join(("train", "validation", "test", *task.more_splits))))
    recipes = [
        f"{recipe} ({shipped_recipes()[recipe].origin}, {shipped_recipes()[recipe].backbone})"
        for recipe in recipes_of(task.name)
    ]
    pairs += [("recipes" if number == 0 else "", recipe) for number, recipe in enumerate(recipes or ["default alone"])]
    print_pairs(task.name, pairs, width=_WIDTH)


def _print_rows(name: str, count: int, split: str, given: dict[str, Any], settings: list[str]) -> None:
    from ptuning.config import load_config, parse_settings
    from ptuning.tasks.presets import get_task

    get_task(name)  # before a backbone is loaded
    config = load_config(None, {"task": name, **given, **parse_settings(settings)})

    from ptuning.cli.quiet import quiet_libraries
    from ptuning.inspection import inspect_task
    from ptuning.training.run import load_backbone_of

    quiet_libraries()
    inspection = inspect_task(config, load_backbone_of(config), count=count, split=split)
    _print_head(inspection)
    for number, row in enumerate(inspection.rows, 1):
        _print_row(number, row)


def _print_head(shown: Inspection) -> None:
    from ptuning.cli.tables import print_pairs

    pairs = [
        ("data", f"{shown.source}, {shown.split}, {shown.num_rows} rows"),
        ("columns", ", ".join(f"{role}: {column}" for role, column in shown.columns.items())),
        *([("template", shown.template)] if shown.template is not None else []),
        *([("pattern", pattern)] if (pattern := getattr(shown.kind, "pattern", None)) is not None else []),
        *([("labels", ", ".join(shown.label_names))] if shown.label_names else []),
        ("backbone", f"{shown.backbone}, at most {shown.max_length} tokens a sequence"),
        *[("note", note) for note in shown.notes],
    ]
    print_pairs(f"{shown.task.name} ({shown.kind.name})", pairs, width=_WIDTH)


def _print_row(number: int, shown: ShownRow) -> None:
    from ptuning.cli.tables import print_pairs
    from ptuning.inspection import segments_of

    pairs = [(f"  {column}", _short(value)) for column, value in shown.record.items()]
    pairs += [(f"> {role}", _short(text)) for role, text in segments_of(shown.row)]
    print_pairs(f"row {number}, {shown.place}", pairs, width=_WIDTH)
    for place, sequence in enumerate(shown.sequences):
        _print_sequence(sequence, is_trained=place < shown.seen_in_training)


def _print_sequence(shown: ShownSequence, *, is_trained: bool) -> None:
    said = [
        *([shown.title] if shown.title else []),
        f"{len(shown.tokens)} tokens",
        *([f"label: {shown.label}"] if shown.label else []),
        _cut(shown),
        *([] if is_trained else ["for predictions alone"]),
    ]
    typer.echo(f"  {', '.join(said)}")
    for line in token_lines(shown.tokens, _WIDTH - 4):
        typer.echo(f"    {line}")
    said = [f"left out: {_short(shown.cut, 2 * _WIDTH)}"] * (shown.num_cut > 0 and not shown.is_window)
    for text in (*said, *(f"note: {note}" for note in shown.notes)):
        typer.echo(textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="      "))
    typer.echo("")


def _cut(shown: ShownSequence) -> str:
    if not shown.num_cut:
        return "nothing is cut"
    return f"{shown.num_cut} tokens {'of the row are not in this window' if shown.is_window else 'are cut'}"


def token_lines(tokens: Sequence[ShownToken], width: int) -> list[str]:
    """Lines of tokens, and under each line with any its marks; the middle of long sequences is left out."""
    cells = [(token.text, token.mark) for token in _worth_showing(tokens)]
    lines: list[str] = []
    above = below = ""
    for text, mark in [*cells, ("", "")]:
        size = max(len(text), len(mark))
        if not size or (above and len(above) + size > width):
            lines += [above.rstrip()] + [below.rstrip()] * bool(below.strip())
            above = below = ""
        above += f"{text:<{size}} "
        below += f"{mark:<{size}} "
    return lines


def _worth_showing(tokens: Sequence[ShownToken]) -> list[ShownToken]:
    """The beginning, the end and what is around the marks of a long sequence; all of a short one."""
    from ptuning.inspection import ShownToken

    if len(tokens) <= _LONG:
        return list(tokens)
    marked = [place for place, token in enumerate(tokens) if token.mark not in ("", "O")]
    stays = {*range(_HEAD), *range(len(tokens) - _TAIL, len(tokens))}
    for place in marked:
        stays.update(range(max(0, place - _AROUND), min(len(tokens), place + _AROUND + 1)))
    shown: list[ShownToken] = []
    left_out = 0
    for place, token in enumerate(tokens):
        if place not in stays:
            left_out += 1
            continue
        if left_out:
            shown.append(ShownToken(f"[... {left_out} tokens ...]"))
            left_out = 0
        shown.append(token)
    return shown


def _short(value: object, longest: int = _LONGEST_VALUE) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[:longest]} ... ({len(text)} characters)"
