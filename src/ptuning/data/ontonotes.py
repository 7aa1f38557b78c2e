"""CoNLL-2012 files of OntoNotes (`*_gold_conll`), and those of the PropBank release (`*.gold_conll`).

Sources: conll.cemantix.org/2012/data.html for the first, github.com/propbank/propbank-release for the second. Columns
of the first: document, part, word number, word, part of speech, parse, lemma, frameset, sense, speaker, named entities,
one of brackets a predicate, coreference. Of the second: document, sentence, word number, word, part of speech, parse,
lemma, roleset, one of brackets a predicate. Words are kept as they stand (`-LRB-`, `/.`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptuning.data.formats import Table, read_bytes, table_of
from ptuning.data.word_lines import WordLine, bracket_tags, check_widths, sentences_of
from ptuning.errors import DataError

ONTONOTES_SUFFIX = "gold_conll"
_LANGUAGES = ("arabic", "chinese", "english")
_WORD, _LEMMA, _FRAMESET = 3, 6, 7
_NO_WORD = "[WORD]"


@dataclass(frozen=True)
class _Layout:
    """Where things stand: first column of brackets, columns after the last one, and the named entities."""

    first_brackets: int
    num_after: int
    entities: int | None
    columns: str


_CONLL2012 = _Layout(
    11,
    1,
    10,
    "document, part, word number, word, part of speech, parse, lemma, frameset, sense, speaker, named entities, "
    "one a predicate, coreference",
)
_RELEASE = _Layout(
    8, 0, None, "document, sentence, word number, word, part of speech, parse, lemma, roleset, one a predicate"
)


def read_ontonotes(data: bytes, name: str, kind: str) -> Table:
    """Read one file.

    For semantic role labeling a record is a predicate: `id` (document/part/sentence:word; sentences count from 0 in
    their part), `tokens`, `predicate_index`, `predicate` (such as `get.01`) and `tags`. The predicate of a column is
    where its brackets say V; without that, the word with a frameset in its turn if there are as many of those as
    columns; else the column is left out, and a note says so. For token classification it is a sentence: `tokens`, and
    `tags` from the named entities.

    Raises:
        DataError: columns or brackets are not as they should be; the message names the line.
    """
    layout = _RELEASE if Path(name).name.removesuffix(".gz").endswith(f".{ONTONOTES_SUFFIX}") else _CONLL2012
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    left_out: list[str] = []
    num_sentences: Counter[tuple[str, ...]] = Counter()
    for sentence in sentences_of(data, name, lambda text: text.startswith(("#begin ", "#end "))):
        check_widths(sentence, layout.first_brackets + layout.num_after, layout.columns)
        _check_words(sentence)
        if kind == "token_classification":
            records.append({"tokens": _column(sentence, _WORD), "tags": _entities(sentence, layout)})
            lines.append(sentence[0].number)
            continue
        document, part = sentence[0].cells[:2]
        identity = f"{document}/{part}"
        if layout is _CONLL2012:
            identity = f"{identity}/{num_sentences[document, part]}"
            num_sentences[document, part] += 1
        for record, number in _predicates(sentence, layout, left_out):
            records.append({"id": f"{identity}:{record['predicate_index']}", **record})
            lines.append(number)
    table = table_of(name, records, lines)
    if not left_out:
        return table
    note = (
        f"{name}: {len(left_out)} columns of brackets without V were left out, the first in the sentence at "
        f"{left_out[0]}."
    )
    return Table(name, table.columns, records, lines, notes=(note,))


def read_ontonotes_directory(directory: Path, kind: str) -> Table:
    """Read all files below a directory, in sorted order.

    Raises:
        DataError: there are files of several languages; and what `read_ontonotes` raises.
    """
    paths = ontonotes_files(directory)
    inside = {part for path in paths for part in path.relative_to(directory).parts}
    languages = [language for language in _LANGUAGES if language in inside]
    if len(languages) > 1:
        raise DataError(
            f"{directory} has files of {len(languages)} languages: {', '.join(languages)}. Expected one; "
            "move the others away."
        )
    tables = [read_ontonotes(read_bytes(path), str(path), kind) for path in paths]
    records = [record for table in tables for record in table.records]
    lines = [line for table in tables for line in table.lines or ()]
    notes = tuple(note for table in tables for note in table.notes)
    files = [table.name for table in tables for _ in table.records]
    return Table(str(directory), table_of("", records).columns, records, lines, notes=notes, files=files)


def ontonotes_files(directory: Path) -> list[Path]:
    """Return the files below a directory that are of this format, sorted."""
    paths = (*directory.rglob(f"*{ONTONOTES_SUFFIX}"), *directory.rglob(f"*{ONTONOTES_SUFFIX}.gz"))
    return sorted(path for path in paths if path.is_file())


def _column(sentence: list[WordLine], at: int) -> list[str]:
    return [line.cells[at] for line in sentence]


def _check_words(sentence: list[WordLine]) -> None:
    for line in sentence:
        if line.cells[_WORD] == _NO_WORD:
            raise DataError(
                f"{line.place}: the word is {_NO_WORD}, expected a word: the file is a skeleton. Run the script that "
                "came with it over your copy of the corpus (skeleton2conll.sh; map_all_to_conll.py for PropBank)."
            )


def _entities(sentence: list[WordLine], layout: _Layout) -> list[str]:
    if layout.entities is None:
        raise DataError(
            f"{sentence[0].place}: files of the PropBank release have no named entities. Expected a *_gold_conll file "
            "of OntoNotes; use the kind semantic_role_labeling, or other data."
        )
    return bracket_tags(_column(sentence, layout.entities), [line.place for line in sentence])


def _predicates(sentence: list[WordLine], layout: _Layout, left_out: list[str]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the record of each predicate of a sentence and its line; add the place of each column left out."""
    places = [line.place for line in sentence]
    framesets = [index for index, cell in enumerate(_column(sentence, _FRAMESET)) if cell != "-"]
    columns = range(layout.first_brackets, len(sentence[0].cells) - layout.num_after)
    for turn, at in enumerate(columns):
        tags = bracket_tags(_column(sentence, at), places)
        if "B-V" in tags:
            index = tags.index("B-V")
        elif len(framesets) == len(columns):
            index = framesets[turn]
        else:
            left_out.append(places[0])
            continue
        record: dict[str, Any] = {"tokens": _column(sentence, _WORD), "predicate_index": index}
        roleset = _roleset(sentence[index].cells, layout)
        if roleset:
            record["predicate"] = roleset
        yield record | {"tags": tags}, sentence[index].number


def _roleset(cells: list[str], layout: _Layout) -> str | None:
    lemma, frameset = (None if cells[at] == "-" else cells[at] for at in (_LEMMA, _FRAMESET))
    if frameset and layout is _RELEASE:
        return frameset
    return f"{lemma}.{frameset}" if lemma and frameset else lemma
