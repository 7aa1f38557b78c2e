"""Named tasks, as a table. No torch here: `ptuning tasks` prints it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ptuning.errors import ConfigError

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "classification": "one label for a text or a pair of texts",
        "regression": "a number for a text or a pair of texts",
        "multiple_choice": "the best of several continuations or answers",
        "token_classification": "entities in a text, as a BIO tag for each word",
        "question_answering": "the answer to a question as a piece of a context, or none",
    }
)
"""Kind of task -> what it is, in one line."""


@dataclass(frozen=True)
class Task:
    """A task by name: a preset with its own data, or a kind that the caller brings data for.

    Attributes:
        name: what `--task` takes.
        kind: one of `KINDS`.
        columns: role -> column, where the columns are not found by their names alone.
        label_names: labels or tags in index order; None to read them from the data.
        metric: what picks the best epoch; None for the kind's own default.
        source: where the data are; `package:PATH` is a directory inside the installed package. None: bring your own.
        description: one line for people.
    """

    name: str
    kind: str
    columns: Mapping[str, str] = field(default_factory=dict)
    label_names: tuple[str, ...] | None = None
    metric: str | None = None
    source: str | None = None
    description: str = ""


def _bio_tags(*types: str) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


PRESETS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                name="helpdesk/tickets",
                kind="classification",
                label_names=(
                    "billing",
                    "delivery",
                    "returns",
                    "account",
                    "technical",
                    "warranty",
                    "order_change",
                    "product_question",
                ),
                metric="accuracy",
                source="package:helpdesk/tickets",
                description="route a help-desk ticket to one of 8 teams",
            ),
            Task(
                name="helpdesk/entities",
                kind="token_classification",
                label_names=_bio_tags("PRODUCT", "ORDER", "DATE", "PERSON", "PLACE", "ERROR"),
                metric="f1",
                source="package:helpdesk/entities",
                description="find products, order numbers, dates, persons, places and error codes in a ticket",
            ),
            Task(
                name="helpdesk/questions",
                kind="question_answering",
                metric="f1",
                source="package:helpdesk/questions",
                description="answer a question from a help article, or say that it does not answer it",
            ),
        )
    }
)
"""Name -> task."""


def get_task(name: str) -> Task:
    """Return the preset of this name, or a bare task of the kind of this name.

    Raises:
        ConfigError: there is neither.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name in KINDS:
        return Task(name=name, kind=name, description=KINDS[name])
    known = [*PRESETS, *KINDS]
    wanted = name.lower().replace("-", "_")
    nearest = difflib.get_close_matches(wanted, known, n=3)
    nearest += [other for other in known if wanted and wanted in other and other not in nearest]
    hint = f" Did you mean {' or '.join(repr(other) for other in nearest)}?" if nearest else ""
    raise ConfigError(
        f"there is no task {name!r}, expected a preset or a kind of task.{hint} For all: see `ptuning tasks`."
    )
