"""Files as tables: JSON lines, JSON (lists and SQuAD), CSV and Parquet. `text_formats.py` lists the others.

Readers keep the values as the file has them, and remember where every record stood, so that later checks can say so.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptuning.errors import DataError

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_VALUES_LOOKED_AT = 200
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Table:
    """The records of one file or split.

    Attributes:
        name: how messages name it, such as its path.
        columns: in file order.
        records: one dict a row; a column may be missing from a record.
        lines: line in the file where each record begins, from 1; None where the format has no lines.
        class_names: column -> names of its classes, where the file itself says so (Hugging Face features).
        notes: what the user should know of how the file was read, one sentence each.
        files: the file of each record, where the table was read from several.
    """

    name: str
    columns: tuple[str, ...]
    records: list[dict[str, Any]]
    lines: list[int] | None = None
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: list[str] | None = None

    def where(self, index: int) -> str:
        """Name the place of record `index` (from 0): `train.jsonl:12`, or `train.parquet row 12`."""
        name = self.name if self.files is None else self.files[index]
        return f"{name} row {index + 1}" if self.lines is None else f"{name}:{self.lines[index]}"

    def text_columns(self) -> tuple[str, ...]:
        """Return the columns that hold strings other than numbers (all cells of a CSV file are strings)."""
        return tuple(column for column in self.columns if self._is_text(column))

    def _is_text(self, column: str) -> bool:
        seen = 0
        for record in self.records:
            value = record.get(column)
            if value is None:
                continue
            if not isinstance(value, str):
                return False
            if not is_number(value):
                return True
            seen += 1
            if seen == _VALUES_LOOKED_AT:
                break
        return False


def is_number(text: str) -> bool:
    """Tell whether a string spells a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def table_of(name: str, records: list[dict[str, Any]], lines: list[int] | None = None) -> Table:
    """Make a table of records, with the columns in the order in which they first appear."""
    columns: dict[str, None] = {}
    for record in records:
        columns.update(dict.fromkeys(record))
    return Table(name, tuple(columns), records, lines)


def read_table(path: Path, kind: str) -> Table:
    """Read a file by its name, or a directory that holds one split (CoNLL-2005, CoNLL-2012); `.gz` is unpacked.

    Raises:
        DataError: the file cannot be read, is not what its name says, or has no rows.
    """
    from ptuning.data.text_formats import read_directory, text_reader

    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    try:
        if path.is_dir():
            table = read_directory(path, kind)
        elif suffix == ".jsonl":
            # Bytes, not a stream of a packed file: damage shows before the first line is looked at.
            with io.BytesIO(read_bytes(path)) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
                table = read_json_lines(stream, str(path))
        elif suffix == ".json":
            table = read_json(read_bytes(path), str(path), kind)
        elif suffix == ".csv":
            table = read_csv(read_bytes(path), str(path))
        elif suffix == ".parquet":
            table = read_parquet(path)
        else:
            reader = text_reader(path.name, kind)
            if reader is None:
                raise DataError(f"{path} cannot be read for {kind}. Expected one of {', '.join(suffixes_for(kind))}.")
            table = reader(read_bytes(path), str(path))
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened: {error.strerror or error}. Check the path and its rights."
        ) from error
    if not table.records:
        raise DataError(f"{path} has no rows. Expected at least one; check how the file was written.")
    return table


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacking it where its name ends in `.gz`.

    Raises:
        DataError: it is packed and damaged.
        OSError: it cannot be opened.
    """
    data = path.read_bytes()
    if not path.name.lower().endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be unpacked ({error}). Expected a whole gzip file, as its name says; get it again, or "
            "take .gz off its name where it is not packed."
        ) from error


def suffixes_for(kind: str) -> tuple[str, ...]:
    """Return the file suffixes that data of this kind may have, each also with `.gz` after it (but Parquet)."""
    from ptuning.data.text_formats import TEXT_SUFFIXES

    return TABLE_SUFFIXES + TEXT_SUFFIXES.get(kind, ())


def decode(data: bytes, name: str, first_line: int = 1) -> str:
    """Decode UTF-8, without a byte order mark; the error names the line."""
    try:
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        probably = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin1"
        raise DataError(
            f"{name}:{line}: byte 0x{data[error.start]:02x} is not UTF-8. Expected a UTF-8 file. "
            f"Save it again as UTF-8, such as with `iconv -f {probably} -t utf-8`."
        ) from error


def read_json_lines(stream: Iterable[bytes | str], name: str) -> Table:
    """Read one JSON object a line; blank lines are skipped."""
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(stream, start=1):
        text = line if isinstance(line, str) else decode(line, name, number)
        if not text.strip():
            continue
        record = _parse_json(text.rstrip(), name, number)
        if not isinstance(record, dict):
            raise DataError(
                f"{name}:{number}: the line holds a JSON {_json_type(record)}. "
                'Expected one object a line, such as {"text": "...", "label": "..."}.'
            )
        records.append(record)
        lines.append(number)
    return table_of(name, records, lines)


def read_json(data: bytes, name: str, kind: str) -> Table:
    """Read a JSON file: a list of objects, or for question answering a file in the form of SQuAD 1.1 or 2.0."""
    document = _parse_json(decode(data, name), name, 1)
    if isinstance(document, dict) and kind == "question_answering" and isinstance(document.get("data"), list):
        return table_of(name, _squad_records(document["data"], name))
    if not isinstance(document, list):
        raise DataError(
            f"{name} holds a JSON {_json_type(document)}. Expected a list of objects"
            + (", or SQuAD's data / paragraphs / qas" if kind == "question_answering" else "")
            + ". Files with one object a line are called .jsonl."
        )
    for index, record in enumerate(document):
        if not isinstance(record, dict):
            raise DataError(
                f"{name} row {index + 1} is a JSON {_json_type(record)}. Expected a list of objects, one a row."
            )
    return table_of(name, document)


def _squad_records(articles: list[Any], name: str) -> list[dict[str, Any]]:
    """Flatten SQuAD: articles hold paragraphs, paragraphs hold questions."""
    records: list[dict[str, Any]] = []
    place = ""
    try:
        for number, article in enumerate(articles, start=1):
            place = f"article {number}"
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    place = f"article {number}, question {question['id']!r}"
                    record = {"id": question["id"], "question": question["question"], "context": paragraph["context"]}
                    if question.get("is_impossible"):
                        record["answers"] = {"text": [], "answer_start": []}
                    elif "answers" in question:
                        record["answers"] = question["answers"]
                    records.append(record)
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"has no {error}" if isinstance(error, KeyError) else "has another form"
        raise DataError(
            f"{name}: {place} {missing}. Expected SQuAD's form: data[].paragraphs[] with context and "
            "qas[] with id, question and answers[]."
        ) from error
    return records


def _parse_json(text: str, name: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = " Files with one object a line are called .jsonl." if error.msg == "Extra data" else ""
        raise DataError(
            f"{name}:{first_line + error.lineno - 1} column {error.colno}: not valid JSON ({error.msg}). "
            f"Correct or remove it.{hint}"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers with thousands of digits; nesting without end
        raise DataError(f"{name}:{first_line}: JSON that cannot be read ({error}). Correct or remove it.") from error


def _json_type(value: Any) -> str:
    return {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def read_csv(data: bytes, name: str) -> Table:
    """Read comma-separated values with a header; cells stay strings, empty ones become None."""
    csv.field_size_limit(_LONGEST_CELL)  # Python's own limit is 131,072; documents may be longer
    reader = csv.reader(io.StringIO(decode(data, name), newline=""), strict=True)
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    header: list[str] = []
    begins = 1
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = _checked_header([cell.strip() for cell in cells], f"{name}:{line}")
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{name}:{line}: {len(cells)} cells, expected {len(header)} as the header has. "
                    'Put cells with commas or line breaks in double quotes, and write " inside them as "".'
                )
            records.append({column: cell or None for column, cell in zip(header, cells, strict=True)})
            lines.append(line)
    except csv.Error as error:
        raise DataError(
            f"{name}:{reader.line_num}: not valid CSV ({error}). "
            'Put cells with commas or line breaks in double quotes, and write " inside them as "".'
        ) from error
    return Table(name, tuple(header), records, lines)


def _checked_header(header: list[str], place: str) -> list[str]:
    twice = sorted({column for column in header if header.count(column) > 1})
    unlike = [column for column in header if not column or is_number(column)]
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise DataError(
            f"{place}: the header is the one cell {header[0]!r}. Expected commas between the columns, text,label. "
            "Save the file again with commas."
        )
    if twice or unlike:
        problem = f"the column {twice[0]!r} stands twice" if twice else f"{unlike[0]!r} is no column name"
        raise DataError(
            f"{place}: {problem} in the header. Expected a first line with one name a column, text,label. "
            "Add or correct it."
        )
    return header


def read_parquet(path: Path) -> Table:
    """Read a Parquet file, with the class names that Hugging Face `datasets` writes into its metadata."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            content = file.read()
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a Parquet file that can be read ({reason}). Write it again.") from error
    columns = list(content.column_names)
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} stands twice. Expected one of each name; rename or drop one.")
    metadata = (content.schema.metadata or {}).get(b"huggingface")
    return Table(str(path), tuple(columns), content.to_pylist(), None, class_names_of(_features(metadata)))


def _features(metadata: bytes | None) -> Any:
    """Return the features that Hugging Face `datasets` wrote, or nothing where the metadata are not its own."""
    try:
        return json.loads(metadata or b"{}")["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}


def class_names_of(features: Any) -> dict[str, tuple[str, ...]]:
    """Return column -> class names from Hugging Face features in their JSON form (also those of lists of classes)."""
    found: dict[str, tuple[str, ...]] = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else None
        names = inner.get("names") if isinstance(inner, dict) else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[str(column)] = tuple(names)
    return found
