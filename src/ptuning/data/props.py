"""CoNLL-2005: semantic roles as columns of brackets, in one file with the words or in a file beside theirs.

Source: README and specification of the CoNLL-2005 shared task (cs.upc.edu/~srlconll). A column names the predicates
(`-` at other words); after it there is one column of brackets for each of them, in the order of the sentence. A file
for a system to fill in has the column of predicates alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ptuning.data.formats import Table, read_bytes, table_of
from ptuning.data.word_lines import WordLine, bracket_tags, check_widths, sentences_of
from ptuning.errors import DataError

_SENSE = re.compile(r"\d\d|XX")
_COLUMNS = "the word, the predicates (lemma or -), and the brackets of each predicate"


def read_props(data: bytes, name: str) -> Table:
    """Read a file with the word first, and the predicates and their brackets last; other columns may stand between.

    Gives a record a predicate: `tokens`, `predicate_index` (from 0), `predicate` (lemma, or roleset such as `sell.01`
    where a column of senses stands before the lemmas) and `tags` (BIO; none where no sentence has brackets).

    Raises:
        DataError: columns or brackets are not as they should be; the message names the line.
    """
    sentences = list(sentences_of(data, name))
    for sentence in sentences:
        check_widths(sentence, 2, _COLUMNS)
    at = _predicate_column(sentences)
    if at == 0:
        raise DataError(
            f"{sentences[0][0].place}: every column after the word has brackets, expected one with the predicates "
            "(lemma or -) before them. Paste words and props side by side."
        )
    return _table(name, sentences, at)


def read_props_directory(directory: Path) -> Table:
    """Read a directory as it was released: `words/*.words.gz` and `props/*.props.gz` (or not compressed).

    Files belong together where their names are the same but for `words` and `props`; they are read in sorted order.

    Raises:
        DataError: a file has no partner, or the two have other lines; and what `read_props` raises.
    """
    words, props = (_parts(directory / part) for part in ("words", "props"))
    for own, other, part in ((words, props, "props"), (props, words, "words")):
        for key in own:
            if key not in other:
                raise DataError(
                    f"{own[key]} has no partner in {directory / part}. Expected a file of the same name but for "
                    f"{part!r}; add it or remove this one."
                )
    tables = [_read_pair(words[key], props[key]) for key in sorted(words)]
    records = [record for table in tables for record in table.records]
    lines = [line for table in tables for line in table.lines or ()]
    files = [table.name for table in tables for _ in table.records]
    return Table(str(directory), table_of("", records).columns, records, lines, files=files)


def _parts(directory: Path) -> dict[str, Path]:
    """Return the files of `words` or `props`, by what their names have in common with those of the other."""
    paths = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path.name.removesuffix(".gz").replace(f".{directory.name}", "", 1): path for path in paths}


def _read_pair(words: Path, props: Path) -> Table:
    name = str(props)
    of_words = list(sentences_of(read_bytes(words), str(words)))
    of_props = list(sentences_of(read_bytes(props), name))
    sentences = []
    for own, other in zip(of_words, of_props, strict=False):
        if len(own) != len(other):
            raise DataError(
                f"{other[0].place}: the sentence has {len(other)} lines, but {len(own)} words at {own[0].place}. "
                "Expected as many; take both files from the same release."
            )
        pairs = zip(own, other, strict=True)
        sentences.append([WordLine(line.place, line.number, [word.cells[0], *line.cells]) for word, line in pairs])
    if len(of_words) != len(of_props):
        raise DataError(
            f"{props} has {len(of_props)} sentences, but {words} has {len(of_words)}. "
            "Expected as many; take both files from the same release."
        )
    for sentence in sentences:
        check_widths(sentence, 2, _COLUMNS)
    return _table(name, sentences, 1)


def _predicate_column(sentences: Iterable[list[WordLine]]) -> int:
    """Find the column of the predicates: the last one without brackets, in most of the sentences."""
    found: Counter[int] = Counter()
    for sentence in sentences:
        width = len(sentence[0].cells)
        bare = (at for at in range(width - 1, 0, -1) if not any("*" in line.cells[at] for line in sentence))
        found[next(bare, 0)] += 1
    return min(found, key=lambda at: (-found[at], at), default=1)


def _table(name: str, sentences: list[list[WordLine]], at: int) -> Table:
    """Make a record of each predicate; `at` is the column of the predicates."""
    is_labelled = any(len(sentence[0].cells) > at + 1 for sentence in sentences)
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for sentence in sentences:
        check_widths(sentence, at + 1, _COLUMNS)
        predicates = [index for index, line in enumerate(sentence) if line.cells[at] != "-"]
        num_columns = len(sentence[0].cells) - at - 1
        if is_labelled and num_columns != len(predicates):
            raise DataError(
                f"{sentence[0].place}: the sentence has {len(predicates)} predicates (column {at + 1}), but "
                f"{num_columns} columns of brackets. Expected one column a predicate; correct the sentence."
            )
        for number, index in enumerate(predicates):
            record: dict[str, Any] = {
                "tokens": [line.cells[0] for line in sentence],
                "predicate_index": index,
                "predicate": _roleset(sentence[index].cells, at),
            }
            if is_labelled:
                places = [line.place for line in sentence]
                tags = bracket_tags([line.cells[at + 1 + number] for line in sentence], places)
                if "B-V" in tags and tags[index] not in ("B-V", "I-V"):
                    raise DataError(
                        f"{sentence[index].place}: the predicate {sentence[index].cells[at]!r} is number {number + 1} "
                        f"of its sentence, but column {number + 1} of brackets has V at {places[tags.index('B-V')]}. "
                        "Expected the columns in the order of the predicates; correct the sentence."
                    )
                record["tags"] = tags
            records.append(record)
            lines.append(sentence[index].number)
    return table_of(name, records, lines)


def _roleset(cells: list[str], at: int) -> str:
    has_sense = at > 1 and _SENSE.fullmatch(cells[at - 1])
    return f"{cells[at]}.{cells[at - 1]}" if has_sense else cells[at]
