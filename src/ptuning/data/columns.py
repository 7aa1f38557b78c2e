"""Which column of a file plays which role.

A role is what the rest of the package knows: `text`, `text_pair`, `label`, `tokens`, `tags`, `question`, ... A column
is what the file calls it. Well-known names are found by themselves; where two readings are possible nothing is guessed:
the error lists the columns, and `data.columns` in the config settles it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence

from ptuning.errors import DataError

KIND_ROLES: dict[str, tuple[str, ...]] = {
    "classification": ("text", "text_pair", "group", "keep", "keep_pair", "label"),
    "regression": ("text", "text_pair", "label"),
    "multiple_choice": ("text", "question", "choices", "label"),  # and choice1, choice2, ...
    "token_classification": ("tokens", "text", "tags"),
    "semantic_role_labeling": ("id", "tokens", "predicate_index", "tags"),
    "question_answering": ("id", "question", "context", "answers"),
    "cloze": ("passage", "query", "entities", "answers"),
}
LABEL_ROLES = ("label", "tags", "answers")
NAME_ROLES = ("id", "group")
"""Roles that say which rows are which, and nothing to the model."""

_NEVER_TEXT = ("label", "labels", "idx", "id")
_LONE_TEXTS = ("text", "sentence")
_PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question", "passage"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("text", "text_pair"),
    ("text1", "text2"),
)
_CHOICE_TEXTS = ("text", "premise", "sentence", "context")
_TAG_COLUMNS = ("ner_tags", "tags", "labels")
_SENTENCE_COLUMNS = ("tokens", "words")
_PREDICATE_COLUMNS = ("predicate_index", "verb_index")
_CHOICE_COLUMN = re.compile(r"choice_?(\d+)")


def resolve_columns(
    kind: str,
    available: Sequence[str],
    overrides: Mapping[str, str] | None = None,
    *,
    text_columns: Collection[str] | None = None,
    require_label: bool = True,
    source: str = "the data",
    advice: str | None = None,
) -> dict[str, str]:
    """Find the column of every role that a kind of task needs.

    Args:
        kind: kind of task, a key of `KIND_ROLES`.
        available: the columns, in file order.
        overrides: role -> column, what the config's `data.columns` says; these roles are not searched for. With `text`
            given and `text_pair` not, the task has one text.
        text_columns: those of `available` that hold strings. Without it every column but labels and ids counts.
        require_label: whether a missing label column is an error; it is not when predicting.
        source: how error messages name the data.
        advice: what to do where columns are missing or unclear, if `data.columns` cannot be set.

    Returns:
        role -> column. Choices in columns of their own have the roles `choice1`, `choice2`, ...; `label`, `tags` or
        `answers` is missing when there is no such column and none is required.

    Raises:
        DataError: a role has no column, or more than one could be meant; an override names an unknown role or column.
    """
    search = _Search(kind, available, dict(overrides or {}), text_columns, require_label, source, advice)
    search.check_overrides()
    if kind in ("classification", "regression"):
        search.find_texts()
        search.find_label(("label", "labels"), "label")
    elif kind == "multiple_choice":
        search.find_choices()
        search.find_label(("label", "labels"), "label")
    elif kind == "question_answering":
        for role in ("id", "question", "context"):
            search.find_named(role, required=role != "id")
        search.find_label(("answers",), "answers")
    elif kind == "semantic_role_labeling":
        search.find_named("id", required=False)
        search.find_one_of(_SENTENCE_COLUMNS, "tokens")
        search.find_one_of(_PREDICATE_COLUMNS, "predicate_index")
        search.find_label(_TAG_COLUMNS, "tags")
    elif kind == "cloze":
        for role in ("passage", "query", "entities"):
            search.find_named(role, required=True)
        search.find_label(("answers",), "answers")
    else:
        search.find_words()
        search.find_label(_TAG_COLUMNS, "tags")
    return search.found


class _Search:
    """One run of `resolve_columns`: what is there, and what has been found."""

    def __init__(
        self,
        kind: str,
        available: Sequence[str],
        overrides: dict[str, str],
        text_columns: Collection[str] | None,
        require_label: bool,
        source: str,
        advice: str | None,
    ) -> None:
        if kind not in KIND_ROLES:
            raise DataError(f"kind must be one of {', '.join(KIND_ROLES)}, got {kind!r}. Name one of those.")
        self.kind = kind
        self.available = list(available)
        self.found = overrides
        self.require_label = require_label
        self.source = source
        self.advice = advice
        strings = self.available if text_columns is None else text_columns
        self.text_columns = [name for name in self.available if name in strings and name not in _NEVER_TEXT]

    def error(self, problem: str, example: str) -> DataError:
        columns = ", ".join(self.available) or "none"
        advice = self.advice or f"Name the right ones in data.columns, such as {{{example}}}."
        return DataError(f"{self.source}: {problem} for {self.kind}. The columns are: {columns}. {advice}")

    def check_overrides(self) -> None:
        roles = list(KIND_ROLES[self.kind])
        for role, column in self.found.items():
            is_choice = self.kind == "multiple_choice" and _CHOICE_COLUMN.fullmatch(role)
            if role not in roles and not is_choice:
                nearest = difflib.get_close_matches(role, roles, n=1)
                hint = f" Did you mean {nearest[0]!r}?" if nearest else " Use one of those."
                raise DataError(
                    f"data.columns names the role {role!r}, but {self.kind} has the roles {', '.join(roles)}.{hint}"
                )
            if column not in self.available:
                nearest = difflib.get_close_matches(str(column), self.available, n=1)
                hint = f" Did you mean {nearest[0]!r}?" if nearest else " Name one of those."
                raise DataError(
                    f"{self.source}: data.columns says {role}: {column}, but there is no column {column!r}. "
                    f"The columns are: {', '.join(self.available) or 'none'}.{hint}"
                )
        by_column: dict[str, str] = {}
        for role, column in self.found.items():
            if column in by_column:
                raise DataError(
                    f"data.columns gives the column {column!r} to both {by_column[column]!r} and {role!r}. "
                    "A column has one role; drop one of the two."
                )
            by_column[column] = role

    def unused(self, names: Collection[str]) -> list[str]:
        return [name for name in self.available if name in names and name not in self.found.values()]

    def find_named(self, role: str, *, required: bool) -> None:
        if role in self.found:
            return
        if self.unused([role]):
            self.found[role] = role
        elif required:
            raise self.error(f"no column {role!r}", f"{role}: NAME")

    def find_one_of(self, names: Sequence[str], role: str) -> None:
        if role in self.found:
            return
        candidates = self.unused(names)
        if len(candidates) > 1:
            raise self.error(
                f"more than one column could be the {role}: {', '.join(candidates)}", f"{role}: {candidates[0]}"
            )
        if not candidates:
            raise self.error(f"no {role} column ({' or '.join(names)})", f"{role}: NAME")
        self.found[role] = candidates[0]

    def find_label(self, names: Sequence[str], role: str) -> None:
        if role in self.found:
            return
        candidates = self.unused(names)
        if role == "label":
            # Such as `label_text` beside `label`: read as a second text, it would give the answer away.
            candidates += [name for name in self.unused(self.text_columns) if name.lower().startswith("label")]
        if len(candidates) > 1 and self.require_label:
            raise self.error(
                f"more than one column could be the {role}: {', '.join(candidates)}", f"{role}: {candidates[0]}"
            )
        if len(candidates) == 1:
            self.found[role] = candidates[0]
        elif not candidates and self.require_label:
            raise self.error(f"no {role} column ({' or '.join(names)})", f"{role}: NAME")

    def find_texts(self) -> None:
        if "text" in self.found:
            return
        known = {*_LONE_TEXTS, *(name for pair in _PAIRS for name in pair)}
        texts = [name for name in self.unused({*self.text_columns, *known}) if not name.lower().startswith("label")]
        roles = ("text",) if "text_pair" in self.found else ("text", "text_pair")
        if not texts:
            raise self.error("no text column", "text: NAME, label: NAME")
        if len(texts) > len(roles):
            raise self.error(f"{len(texts)} text columns ({', '.join(texts)})", f"text: {texts[0]}, label: label")
        if len(texts) == 2 and set(texts) & set(_LONE_TEXTS) and not any(set(texts) == set(p) for p in _PAIRS):
            raise self.error(
                f"{texts[0]!r} and {texts[1]!r} could be a pair, or one of them the only text",
                f"text: {texts[0]}, text_pair: {texts[1]}",
            )
        self.found.update(zip(roles, texts, strict=False))

    def find_words(self) -> None:
        if "text" not in self.found:
            tokens = self.unused(["tokens"])
            if "tokens" not in self.found and tokens:
                self.found["tokens"] = "tokens"
        if "tokens" not in self.found and "text" not in self.found:
            texts = [] if self.require_label else self.unused(_LONE_TEXTS)
            if len(texts) != 1:
                raise self.error("no column 'tokens'", "tokens: NAME, tags: NAME")
            self.found["text"] = texts[0]

    def find_choices(self) -> None:
        given = [role for role in self.found if _CHOICE_COLUMN.fullmatch(role)]
        if given and "choices" in self.found:
            raise DataError(
                f"data.columns names 'choices' and {given[0]!r}. Name one column with lists, or one column a choice."
            )
        if not given and "choices" not in self.found:
            numbered = self.unused([name for name in self.available if _CHOICE_COLUMN.fullmatch(name)])
            if self.unused(["choices"]) and numbered:
                raise self.error(f"both 'choices' and {numbered[0]!r}", "choices: choices")
            if self.unused(["choices"]):
                self.found["choices"] = "choices"
            else:
                given = sorted(numbered, key=_choice_number)
                self.found.update({f"choice{place}": name for place, name in enumerate(given, start=1)})
        elif given:
            ordered = {
                f"choice{n}": self.found.pop(role) for n, role in enumerate(sorted(given, key=_choice_number), 1)
            }
            self.found.update(ordered)
        if len(given) < 2 and "choices" not in self.found:
            raise self.error("no column 'choices' and no columns choice1, choice2, ...", "choices: NAME")
        if "text" not in self.found:
            texts = self.unused(_CHOICE_TEXTS) or self.unused(["question"])
            if len(texts) != 1:
                problem = f"{len(texts)} text columns ({', '.join(texts)})" if texts else "no text column"
                raise self.error(problem, "text: NAME")
            self.found["text"] = texts[0]
            self.find_named("question", required=False)


def _choice_number(name: str) -> int:
    match = _CHOICE_COLUMN.fullmatch(name)
    assert match is not None  # only called on names that match
    return int(match.group(1))
