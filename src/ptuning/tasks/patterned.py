"""A kind of task with a pattern and label words: the one place that says which kinds can have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptuning.errors import ConfigError
from ptuning.tasks.classification import Classification
from ptuning.tasks.cloze import Cloze
from ptuning.tasks.kind import TaskKind
from ptuning.tasks.multiple_choice import WORD_NAMES, MultipleChoice
from ptuning.tasks.patterns import resolve_pattern


def with_pattern(
    kind: TaskKind, pattern: str | None, words: Mapping[str, str] | None, *, prompt_length: int
) -> TaskKind:
    """Returns the kind with a pattern around its texts, and with label words where it is for a verbalizer head.

    Args:
        kind: with its labels.
        pattern: of `data.pattern` or the preset; None to read texts as they are.
        words: label -> its word or words, for choices of `right` and `wrong`; None for a head that needs none. Empty is
            an error where the words are missing; not for choices whose pattern has no {choice}, nor for entities, which
            are the answers themselves.
        prompt_length: virtual tokens that stand in the pattern; 0 for methods that put none there.

    Raises:
        ConfigError: the kind has no use for a pattern, the pattern is wrong, or words are missing or too many.
    """
    if pattern is None and words is None:
        return kind
    if not isinstance(kind, Classification | MultipleChoice | Cloze) or (isinstance(kind, Cloze) and words is None):
        setting = "head.kind is verbalizer" if words is not None else f"data.pattern is {pattern!r}"
        raise ConfigError(
            f"{setting}, but the task is {kind.name}. Label words in a pattern answer classification and "
            "multiple_choice, and on a GLM cloze, alone: leave data.pattern out, and use a method with head.kind "
            "linear."
        )
    if words is not None and pattern is None:
        example = "{passage} {query}" if isinstance(kind, Cloze) else "{text} It was {mask}."
        raise ConfigError(
            "head.kind is verbalizer, but there is no pattern, at whose mask label words are asked for. Set "
            f"data.pattern, such as `{example}`, or head.kind to linear."
        )
    return dataclasses.replace(
        kind,
        pattern=None if pattern is None else resolve_pattern(pattern, prompt_length),
        words=None if words is None else _in_order(words, _asked(kind, pattern or "")),
    )


def _asked(kind: Classification | MultipleChoice | Cloze, pattern: str) -> tuple[str, ...]:
    """What there are words for: the labels, or right and wrong; nothing where rows have their own answers."""
    if isinstance(kind, Classification):
        return kind.label_names
    return WORD_NAMES if isinstance(kind, MultipleChoice) and "{choice" in pattern else ()


def _in_order(words: Mapping[str, str], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The words of each label, in label order."""
    missing = [label for label in labels if label not in words]
    unknown = [label for label in words if label not in labels]
    if missing or unknown:
        said = [f"no words for {', '.join(missing)}"] * bool(missing)
        said += [f"words for {', '.join(unknown)}, which is no label"] * bool(unknown)
        expected = f"words for each of {', '.join(labels)}" if labels else "none: the answers are those of the rows"
        advice = (
            f"Set head.words, such as `{labels[0]}: some word`."
            if labels
            else ("Leave head.words out, or put {choice} into data.pattern.")
        )
        raise ConfigError(f"head.words has {' and '.join(said)}, expected {expected}. {advice}")
    return tuple(words[label] for label in labels)


def label_word_ids(kind: TaskKind, tokenizer: Any) -> list[list[int]]:
    """Returns the token ids that a verbalizer head asks for: of each label, or of right and of wrong.

    Returns:
        None of them where the answers are those of the rows.

    Raises:
        ConfigError: the kind has no label words, or the tokenizer cannot tell them apart.
    """
    if answers_itself(kind):
        return []
    ids = kind.word_ids(tokenizer) if isinstance(kind, Classification | MultipleChoice) else None
    if ids is None:
        raise ConfigError(
            f"head.kind is verbalizer, but {kind.name} has no label words here. Set data.pattern and head.words, or "
            "head.kind to linear."
        )
    return ids


def answers_itself(kind: TaskKind) -> bool:
    """Whether what fills the blank are the choices or entities of each row, and not words that stand for labels."""
    return isinstance(kind, MultipleChoice | Cloze) and kind.fills_blanks
