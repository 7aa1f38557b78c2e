"""CoNLL-U with PropBank columns, as the Universal Proposition Banks have them.

Two forms. The first has after the ten columns of CoNLL-U one with the rolesets (`_` at other words) and one a predicate
with the label of each argument at its HEAD word (github.com/UniversalPropositions/UP-1.0, such as UP_English-EWT).
The second names its columns in `# global.columns`, among them UP:PRED, UP:ARGHEADS (`A0:1|A1:4`: label and head) and
UP:ARGSPANS (`A0:1-1|A1:4-6`: label, first and last word), which stand at the predicate
(universalpropositions.github.io).

Where only heads are given, spans are made from the tree, and are therefore not the annotators' own:
an argument is the stretch of words around its head that belong to the head and not to the predicate or to another
argument. A word belongs to the nearest of these above it in the tree, itself included. Punctuation at the
edges of a stretch is cut off. So a span never covers the predicate, and spans of one predicate never overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ptuning.data.formats import Table, decode, table_of
from ptuning.data.word_lines import WordLine
from ptuning.errors import DataError

CONLLU_SUFFIXES = (".conllu", ".conllup")
_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_PREDICATES = ("UP:PRED", "UP:PREDS")
_SPANS, _HEADS = "UP:ARGSPANS", "UP:ARGHEADS"
_EMPTY = ("_", "")
_MULTIWORD = re.compile(r"\d+-\d+")
_EMPTY_NODE = re.compile(r"\d+\.\d+")

Span = tuple[int, int, str, str]
"""First word, word after the last (both from 0), label, and the place for messages."""


def read_conllu(data: bytes, name: str) -> Table:
    """Read a record a predicate: `id` (sent_id:word), `tokens`, `predicate_index`, `predicate` (roleset) and `tags`.

    Lines of multiword tokens (`1-2`) and of empty nodes (`1.1`) are skipped, annotations at them too; a predicate at
    an empty node may have a column of arguments or none. A line may have the ten columns alone: a word without
    annotations.

    Raises:
        DataError: columns, numbers or spans are not as they should be; the message names the line.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for header, identity, lines_of_sentence in _sentences(data, name):
        sentence = _Sentence(header, lines_of_sentence)
        for record, number in sentence.records():
            records.append(record if identity is None else {"id": f"{identity}:{record['predicate_index']}", **record})
            lines.append(number)
    return table_of(name, records, lines)


def _sentences(data: bytes, name: str) -> Iterator[tuple[list[str], str | None, list[WordLine]]]:
    """Yield columns, sent_id, and lines (words and empty nodes) of each sentence that has words."""
    header: list[str] = []
    identity: str | None = None
    words: list[WordLine] = []
    for number, line in enumerate([*decode(data, name).split("\n"), ""], start=1):
        text = line.rstrip()
        if text.startswith("#"):
            key, _, value = text[1:].partition("=")
            if key.strip() == "global.columns":
                header = value.split()
            elif key.strip() == "sent_id":
                identity = value.strip()
        elif text:
            cells = text.split("\t")
            if not _MULTIWORD.fullmatch(cells[0]):
                words.append(WordLine(f"{name}:{number}", number, cells))
        else:
            if any(not _EMPTY_NODE.fullmatch(word.cells[0]) for word in words):
                yield header, identity, words
            identity, words = None, []


class _Sentence:
    """The words of one sentence, and the column of each name."""

    def __init__(self, header: list[str], lines: list[WordLine]) -> None:
        words = [line for line in lines if not _EMPTY_NODE.fullmatch(line.cells[0])]
        self.lines = lines
        self.words = words
        self.first_arguments: int | None = None
        if not header:
            header = [*_COLUMNS, _PREDICATES[0]]
            self.first_arguments = len(header)
        self.at = {column: at for at, column in enumerate(header)}
        self.width = self._check_widths(len(header))
        missing = [column for column in ("ID", "FORM") if column not in self.at]
        if missing:
            raise DataError(
                f"{words[0].place}: the columns are {', '.join(header)}, without {missing[0]}. Expected the words "
                "beside the annotations; merge the file with its treebank first (UniversalPropositions/tools has "
                "up2/merge_ud_up.py)."
            )
        self.predicate_column = next((self.at[column] for column in _PREDICATES if column in self.at), None)
        if self.predicate_column is None or (self.first_arguments is None and not {_SPANS, _HEADS} & set(self.at)):
            raise DataError(
                f"{words[0].place}: the columns are {', '.join(header)}. Expected {_PREDICATES[0]}, and {_SPANS} or "
                f"{_HEADS}; add them, or use a file with PropBank columns."
            )
        for index, word in enumerate(words):
            if word.cells[0] != str(index + 1):
                raise DataError(
                    f"{word.place}: the word is number {word.cells[0]!r}, expected {index + 1}. Words count from 1 in "
                    "their sentence, and a blank line ends it; correct the line."
                )

    def _check_widths(self, named: int) -> int:
        """Fill up lines that have no annotations, and return how many columns the others have."""
        bare = len(_COLUMNS)
        width = max(len(word.cells) for word in self.words)
        if self.first_arguments is None:
            width = named
        elif width == bare:
            width = named
        for word in self.words:
            if len(word.cells) == bare and self.first_arguments is not None:
                word.cells.extend(["_"] * (width - bare))
            if len(word.cells) != width:
                what = "the longest line of its sentence has" if self.first_arguments else "# global.columns names"
                raise DataError(
                    f"{word.place}: {len(word.cells)} columns, expected {width} as {what}. Columns are parted by tabs; "
                    "correct the line."
                )
        return width

    def records(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the record of each predicate, and its line."""
        assert self.predicate_column is not None
        column = self.predicate_column
        place_of = {word.number: index for index, word in enumerate(self.words)}
        # The predicates of the sentence, None for those at empty nodes.
        places = [
            place_of.get(line.number)
            for line in self.lines
            if len(line.cells) > column and line.cells[column] not in _EMPTY
        ]
        predicates = [index for index in places if index is not None]
        if self.first_arguments is not None:
            num_columns = self.width - self.first_arguments
            if num_columns not in (len(predicates), len(places)):
                raise DataError(
                    f"{self.words[0].place}: the sentence has {len(predicates)} predicates, but {num_columns} columns "
                    "of arguments. Expected one column a predicate, after the column of rolesets; correct the sentence."
                )
            if num_columns == len(predicates):
                places = list(predicates)
        for turn, index in enumerate(places):
            if index is None:
                continue
            word = self.words[index]
            record: dict[str, Any] = {
                "tokens": [word.cells[self.at["FORM"]] for word in self.words],
                "predicate_index": index,
                "predicate": word.cells[column],
                "tags": self._tags(index, turn),
            }
            yield record, word.number

    def _tags(self, predicate: int, turn: int) -> list[str]:
        if self.first_arguments is not None:
            spans = self._spans_of_heads(predicate, self._heads_in_column(predicate, self.first_arguments + turn))
        elif _SPANS in self.at:
            spans = list(self._spans(predicate))
        else:
            spans = self._spans_of_heads(predicate, self._listed_heads(predicate))
        return _bio(len(self.words), [(predicate, predicate + 1, "V", self.words[predicate].place), *spans])

    def _heads_in_column(self, predicate: int, column: int) -> dict[int, str]:
        heads: dict[int, str] = {}
        for index, word in enumerate(self.words):
            label = word.cells[column]
            if label == "V" and index != predicate:
                raise DataError(
                    f"{word.place}: column {column + 1} has V here, but its predicate stands at "
                    f"{self.words[predicate].place}. Expected the columns in the order of the predicates; correct the "
                    "sentence."
                )
            if label not in _EMPTY and index != predicate:
                heads[index] = label
            elif label not in (*_EMPTY, "V"):
                raise DataError(
                    f"{word.place}: the predicate is its own argument {label!r}. Expected V or _ there; "
                    "correct the line."
                )
        return heads

    def _listed(self, predicate: int, name: str) -> Iterator[tuple[str, str]]:
        """Yield label and place of each argument that a cell lists."""
        word = self.words[predicate]
        cell = word.cells[self.at[name]]
        for argument in () if cell in _EMPTY else cell.split("|"):
            label, colon, place = argument.rpartition(":")
            if not (colon and label):
                raise DataError(
                    f"{word.place}: {name} has {argument!r}. Expected label and place, such as "
                    f"{'A1:4-6' if name == _SPANS else 'A1:4'}, with | between arguments; correct the line."
                )
            yield label, place

    def _word(self, number: str, where: str, what: str) -> int:
        """Return the place of a word (from 0), given its number in the sentence."""
        if not (number.isascii() and number.isdigit()) or not 0 < int(number) <= len(self.words):
            raise DataError(
                f"{where}: {what} names word {number!r}. Expected a number from 1 to {len(self.words)}, the words of "
                "the sentence; correct the line."
            )
        return int(number) - 1

    def _spans(self, predicate: int) -> Iterator[Span]:
        where = self.words[predicate].place
        for label, place in self._listed(predicate, _SPANS):
            first, _, last = place.partition("-")
            start, end = self._word(first, where, _SPANS), self._word(last or first, where, _SPANS)
            if end < start:
                raise DataError(
                    f"{where}: {_SPANS} has {label}:{place}, which ends before it begins. Expected the first word and "
                    "then the last; correct the line."
                )
            if (start, end) != (predicate, predicate) or label != "V":
                yield start, end + 1, label, where

    def _listed_heads(self, predicate: int) -> dict[int, str]:
        heads: dict[int, str] = {}
        where = self.words[predicate].place
        for label, place in self._listed(predicate, _HEADS):
            index = self._word(place, where, _HEADS)
            if index == predicate and label == "V":
                continue
            if index in heads or index == predicate:
                other = "V" if index == predicate else heads[index]
                raise DataError(
                    f"{where}: word {place} is {other} and {label} of one predicate. Expected one label; correct "
                    f"{_HEADS}."
                )
            heads[index] = label
        return heads

    def _spans_of_heads(self, predicate: int, heads: dict[int, str]) -> list[Span]:
        """Make the span of each head, as the header of this module says."""
        if not heads:
            return []
        parents = self._parents()
        owners = [self._owner(index, parents, {predicate, *heads}) for index in range(len(self.words))]
        spans: list[Span] = []
        for head, label in heads.items():
            start, end = head, head + 1
            while start and owners[start - 1] == head:
                start -= 1
            while end < len(owners) and owners[end] == head:
                end += 1
            while start < head and self._is_punctuation(start):
                start += 1
            while end > head + 1 and self._is_punctuation(end - 1):
                end -= 1
            spans.append((start, end, label, self.words[head].place))
        return spans

    def _is_punctuation(self, index: int) -> bool:
        return "UPOS" in self.at and self.words[index].cells[self.at["UPOS"]] == "PUNCT"

    def _parents(self) -> list[int]:
        """Return the place of the word above each one, -1 at the root."""
        if "HEAD" not in self.at:
            raise DataError(
                f"{self.words[0].place}: there is neither {_SPANS} nor HEAD. Expected the spans of arguments, or the "
                "tree to make them from; merge the file with its treebank."
            )
        cells = [(word, word.cells[self.at["HEAD"]]) for word in self.words]
        return [-1 if head == "0" else self._word(head, word.place, "HEAD") for word, head in cells]

    def _owner(self, index: int, parents: Sequence[int], owners: set[int]) -> int:
        """Return the nearest of `owners` above a word or at it, -1 where there is none."""
        current, steps = index, 0
        while current != -1 and current not in owners:
            current, steps = parents[current], steps + 1
            if steps > len(parents):
                raise DataError(
                    f"{self.words[index].place}: the heads go round in a circle from word {index + 1}. Expected a "
                    "tree with one root (HEAD 0); correct the column HEAD."
                )
        return current


def _bio(num_words: int, spans: Sequence[Span]) -> list[str]:
    """Write spans as BIO tags.

    Raises:
        DataError: two overlap.
    """
    tags = ["O"] * num_words
    for start, end, label, place in spans:
        for index in range(start, end):
            if tags[index] != "O":
                raise DataError(
                    f"{place}: {label} covers word {index + 1}, which {tags[index][2:]} covers too. Expected spans "
                    "that do not overlap; correct one of them."
                )
            tags[index] = f"{'B' if index == start else 'I'}-{label}"
    return tags
