"""`ptuning tasks`: what `--task` takes."""

from __future__ import annotations

EXAMPLES = """Examples:

    ptuning tasks
"""


def command() -> None:
    """List the presets and kinds of task, from the code's own tables."""
    from ptuning.cli.tables import print_table
    from ptuning.data.columns import KIND_ROLES
    from ptuning.tasks.presets import KINDS, PRESETS

    presets = [[t.name, t.kind, t.metric or "-", _source(t.source), t.description] for t in PRESETS.values()]
    print_table(["preset", "kind", "metric", "data", "what it is"], presets)
    kinds = [[name, ", ".join(KIND_ROLES[name]), what] for name, what in KINDS.items()]
    print_table(["kind (bring your own data)", "columns", "what it is"], kinds)


def _source(source: str | None) -> str:
    return "bring your own" if source is None else "shipped" if source.startswith("package:") else source
