"""Files with one word a line and a blank line after each sentence: what their readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ptuning.data.formats import decode
from ptuning.errors import DataError


@dataclass(frozen=True)
class WordLine:
    """One word of a sentence as it stands in a file.

    Attributes:
        place: `file:line`, for messages.
        number: the line, from 1.
        cells: its columns.
    """

    place: str
    number: int
    cells: list[str]


def sentences_of(
    data: bytes, name: str, ends_sentence: Callable[[str], bool] | None = None
) -> Iterator[list[WordLine]]:
    """Yield the sentences of a file, none of them empty; blanks part the columns.

    Args:
        data: the file, UTF-8.
        name: how messages name it.
        ends_sentence: tells which lines end a sentence without being a word, as blank ones do.

    Raises:
        DataError: the file is not UTF-8.
    """
    sentence: list[WordLine] = []
    # Not splitlines(): words may hold U+2028 and the like.
    for number, line in enumerate([*decode(data, name).split("\n"), ""], start=1):
        text = line.rstrip(" \t\r")
        if text.strip(" \t") and not (ends_sentence and ends_sentence(text)):
            cells = [cell for cell in text.replace("\t", " ").split(" ") if cell]
            sentence.append(WordLine(f"{name}:{number}", number, cells))
        elif sentence:
            yield sentence
            sentence = []


def check_widths(sentence: Sequence[WordLine], least: int, what: str) -> None:
    """Check that the words of a sentence have equally many columns, and enough of them.

    Args:
        sentence: the words.
        least: smallest number of columns.
        what: the columns in words, for the message.

    Raises:
        DataError: naming the first line that differs.
    """
    first = sentence[0]
    for line in sentence:
        width = len(line.cells)
        if width < least:
            raise DataError(f"{line.place}: {width} columns, expected at least {least}: {what}. Correct the line.")
        if width != len(first.cells):
            raise DataError(
                f"{line.place}: {width} columns, expected {len(first.cells)} as in the first line of its sentence "
                f"({first.place}). Correct the line, or put a blank line between sentences."
            )


def bracket_tags(cells: Sequence[str], places: Sequence[str]) -> list[str]:
    """Turn a column of brackets into BIO tags.

    `(A0*`, `*`, `*)` is one span of three words, `(A0*)` and `(A0)` are spans of one word.

    Args:
        cells: one a word.
        places: `file:line` of each word.

    Returns:
        One tag a word: `O`, `B-LABEL` or `I-LABEL`.

    Raises:
        DataError: a cell has another form; a bracket is opened in an open one, closed twice, or never.
    """
    tags: list[str] = []
    label, opened = "", ""
    for cell, place in zip(cells, places, strict=True):
        opening, closing = _parsed(cell, place)
        if len(opening) > 1 or (opening and label):
            inside = f"{opening[1]!r} inside {opening[0]!r}" if len(opening) > 1 else f"{opening[0]!r} inside {label!r}"
            since = "" if len(opening) > 1 else f", which is open since {opened}"
            raise DataError(
                f"{place}: {cell!r} opens {inside}{since}. Expected spans that do not overlap; correct the column."
            )
        if opening:
            label, opened = opening[0], place
        tags.append(f"{'B' if opening else 'I'}-{label}" if label else "O")
        if closing > bool(label):
            raise DataError(
                f"{place}: {cell!r} closes a bracket that is not open. Expected one opened before it, such as "
                "(A0* on a line above; correct the column."
            )
        if closing:
            label = ""
    if label:
        raise DataError(
            f"{opened}: the bracket of {label!r} is never closed. Expected *) at the last word of the span, "
            "before the sentence ends; correct the column."
        )
    return tags


def _parsed(cell: str, place: str) -> tuple[list[str], int]:
    """Return the labels that a cell opens, and how many brackets it closes."""
    before, star, after = cell.partition("*")
    if not star:
        before, after = cell.rstrip(")"), cell[len(cell.rstrip(")")) :]
    labels = before.split("(")
    is_well_formed = labels[0] == "" and all(labels[1:]) and not after.strip(")") and ")" not in before
    if not is_well_formed or not cell or (not star and not (before and after)):
        raise DataError(f"{place}: {cell!r} is no cell of brackets. Expected *, (A0*, *) or (A0*); correct the line.")
    return labels[1:], len(after)
