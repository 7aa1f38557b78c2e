"""Templates of the paper's tasks: the texts that the official implementation makes of a data set's columns.

Source: THUDM/P-tuning-v2 at b1520c9, `tasks/superglue/dataset.py`; for the patterns of `glm_patterns.py` (`wsc/2`,
`copa/1`, `multirc/1`) THUDM/GLM, `tasks/superglue/pvp.py`. Columns are those of the Hugging Face copies. WiC
and WSC depart from it where a text is too long: the words that are asked about are kept (the original cuts the end).
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ptuning.data.template import Record, Template
from ptuning.errors import CheckpointError

_WORD = re.compile(r"\S+")


def _text(record: Record, column: str) -> str:
    value = record[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column!r} is {value!r}, expected text. Correct or remove the row.")
    return value


def _number(record: Record, column: str) -> int:
    value = record[column]
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)  # a CSV cell
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{column!r} is {value!r}, expected a whole number from 0 on. Correct or remove the row.")
    return value


def _occurrence(record: Record, which: str) -> tuple[int, int] | None:
    """Return the characters of WiC's word in sentence1 or sentence2: as the row says, or where it stands as it is."""
    sentence = _text(record, f"sentence{which}")
    if f"start{which}" in record and f"end{which}" in record:
        start, end = _number(record, f"start{which}"), _number(record, f"end{which}")
        if not start < end <= len(sentence):
            raise ValueError(
                f"start{which} and end{which} are {start} and {end}, expected characters of sentence{which}, which has "
                f"{len(sentence)}. Correct the row."
            )
        return start, end
    found = re.search(rf"\b{re.escape(_text(record, 'word'))}", sentence, re.IGNORECASE)
    return found.span() if found else None


def _wic_question(record: Record) -> dict[str, Any]:
    first, second, word = (_text(record, column) for column in ("sentence1", "sentence2", "word"))
    question = f"Does {word} have the same meaning in both sentences?"
    text = f"{first} {second} {question}"
    keep = []
    for which, offset in (("1", 0), ("2", len(first) + 1)):
        place = _occurrence(record, which)
        if place is not None:
            keep.append([offset + place[0], offset + place[1]])
    return {"text": text, "keep": [*keep, [len(text) - len(question), len(text)]]}


def _wic_pair(record: Record) -> dict[str, Any]:
    word = _text(record, "word")
    texts = [f"{word}: {_text(record, column)}" for column in ("sentence1", "sentence2")]
    start = len(word) + 2
    places = [_occurrence(record, which) for which in "12"]
    keep = [[[0, start - 1], *([] if place is None else [[start + place[0], start + place[1]]])] for place in places]
    return {"text": texts[0], "text_pair": texts[1], "keep": keep[0], "keep_pair": keep[1]}


def _span(record: Record, which: str) -> tuple[int, int]:
    """Return the characters of one of WSC's spans, from the number of its first word."""
    text, span = _text(record, "text"), _text(record, f"span{which}_text")
    words = [match.span() for match in _WORD.finditer(text)]
    first = _number(record, f"span{which}_index")
    if first >= len(words):
        raise ValueError(
            f"span{which}_index is {first}, but the text has {len(words)} words, counted from 0. Correct the row."
        )
    last = min(first + len(span.split()), len(words)) - 1
    return words[first][0], words[last][1]


def _wsc_pronoun(record: Record) -> dict[str, Any]:
    before = f"{_text(record, 'span2_text')}: "
    places = [_span(record, which) for which in "12"]
    keep = [[0, len(before) - 1], *([len(before) + start, len(before) + end] for start, end in places)]
    return {"text": before + _text(record, "text"), "text_pair": _text(record, "span1_text"), "keep": keep}


def _wsc_marked(record: Record) -> dict[str, Any]:
    words, marked = _text(record, "text").split(" "), _number(record, "span2_index")
    if marked >= len(words):
        raise ValueError(
            f"span2_index is {marked}, but the text has {len(words)} words, counted from 0. Correct the row."
        )
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word) + 1)
    words[marked] = f"*{words[marked]}*"
    first = _number(record, "span1_index")
    last = min(first + len(_text(record, "span1_text").split()), len(starts) - 1) - 1
    shift = [0 if index <= marked else 2 for index in range(len(starts))]
    keep = [[starts[marked], starts[marked] + len(words[marked])]]
    if first <= last:
        keep.append([starts[first] + shift[first], starts[last + 1] - 1 + shift[last + 1]])
    return {"text": " ".join(words), "text_pair": _text(record, "span1_text"), "keep": sorted(keep)}


_CONNECTIVES = {"cause": "because", "effect": "so"}


def _copa(record: Record) -> dict[str, Any]:
    question = record["question"]
    if question not in _CONNECTIVES:
        raise ValueError(f"'question' is {question!r}, expected cause or effect. Correct the row.")
    return {
        "text": f"{_text(record, 'premise')} {_CONNECTIVES[question]}",
        "choices": [_text(record, "choice1"), _text(record, "choice2")],
    }


def _multirc(record: Record) -> dict[str, Any]:
    row = {"text": _text(record, "paragraph"), "text_pair": f"{_text(record, 'question')} {_text(record, 'answer')}"}
    place = record.get("idx")
    if place is None:
        return row
    if not isinstance(place, Mapping) or "paragraph" not in place or "question" not in place:
        raise ValueError(
            f'\'idx\' is {place!r}, expected {{"paragraph": 0, "question": 0}}: the rows of a question are scored '
            "together. Correct it, or leave idx out of all rows."
        )
    return row | {"group": f"{place['paragraph']}-{place['question']}"}


def _bare(text: str) -> str:
    """A text without the punctuation at its end; one that is nothing else stays."""
    return text.rstrip().rstrip(string.punctuation).rstrip() or text


def _wsc_question(record: Record) -> dict[str, Any]:
    asked = f"'*{_text(record, 'span2_text')}*' refer to {_text(record, 'span1_text')}"
    return _wsc_marked(record) | {"text_pair": asked}


_JOINED = {"cause": " because", "effect": ", so"}


def _copa_shown(record: Record) -> dict[str, Any]:
    question = record["question"]
    if question not in _JOINED:
        raise ValueError(f"'question' is {question!r}, expected cause or effect. Correct the row.")
    choices = [_bare(_text(record, column)) for column in ("choice1", "choice2")]
    choices = [choice[:1].lower() + choice[1:] for choice in choices]
    shown = f'"{choices[0]}" or "{choices[1]}"?'
    return {"text": f"{shown} {_bare(_text(record, 'premise'))}{_JOINED[question]}", "choices": choices}


def _multirc_question(record: Record) -> dict[str, Any]:
    asked = f"{_bare(_text(record, 'question'))}? Is it {_text(record, 'answer')}"
    return _multirc(record) | {"text": _bare(_text(record, "paragraph")), "text_pair": asked}


TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        template.name: template
        for template in (
            Template(
                "wic/0",
                ("word", "sentence1", "sentence2"),
                _wic_question,
                ("text", "keep"),
                optional=("start1", "end1", "start2", "end2"),
                description="{sentence1} {sentence2} Does {word} have the same meaning in both sentences?",
            ),
            Template(
                "wic/1",
                ("word", "sentence1", "sentence2"),
                _wic_pair,
                ("text", "text_pair", "keep", "keep_pair"),
                optional=("start1", "end1", "start2", "end2"),
                description="{word}: {sentence1} ‖ {word}: {sentence2}",
            ),
            Template(
                "wsc/0",
                ("text", "span1_index", "span1_text", "span2_index", "span2_text"),
                _wsc_pronoun,
                ("text", "text_pair", "keep"),
                description="{span2_text}: {text} ‖ {span1_text}",
            ),
            Template(
                "wsc/1",
                ("text", "span1_index", "span1_text", "span2_index", "span2_text"),
                _wsc_marked,
                ("text", "text_pair", "keep"),
                description="{text} with the word at span2_index between asterisks ‖ {span1_text}",
            ),
            Template(
                "wsc/2",
                ("text", "span1_index", "span1_text", "span2_index", "span2_text"),
                _wsc_question,
                ("text", "text_pair", "keep"),
                description="{text} with the word at span2_index between asterisks ‖ "
                "'*{span2_text}*' refer to {span1_text}",
            ),
            Template(
                "copa/0",
                ("premise", "question", "choice1", "choice2"),
                _copa,
                ("text", "choices"),
                description="{premise} because|so ‖ {choice1} or {choice2}",
            ),
            Template(
                "copa/1",
                ("premise", "question", "choice1", "choice2"),
                _copa_shown,
                ("text", "choices"),
                description='"{choice1}" or "{choice2}"? {premise} because|, so ‖ {choice1} or {choice2}, without '
                "their last punctuation and with a small first letter",
            ),
            Template(
                "multirc/0",
                ("paragraph", "question", "answer"),
                _multirc,
                ("text", "text_pair", "group"),
                optional=("idx",),
                description="{paragraph} ‖ {question} {answer}",
            ),
            Template(
                "multirc/1",
                ("paragraph", "question", "answer"),
                _multirc_question,
                ("text", "text_pair", "group"),
                optional=("idx",),
                description="{paragraph} ‖ {question}? Is it {answer}, without the last punctuation of both",
            ),
        )
    }
)
"""Name -> template."""


def get_template(name: str) -> Template:
    """Return the template that a saved prompt names.

    Raises:
        CheckpointError: there is no such template.
    """
    if name not in TEMPLATES:
        raise CheckpointError(
            f"the prompt was trained with the template {name!r}, which this version does not have. It knows "
            f"{', '.join(TEMPLATES)}. It may come from a newer version: upgrade ptuning."
        )
    return TEMPLATES[name]
