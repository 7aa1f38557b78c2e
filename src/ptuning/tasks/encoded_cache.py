"""The examples of a split, kept on disk: a second run with the same rows starts without tokenizing them.

    CACHE/encoded/KEY.safetensors    of `data/example_arrays.py`; in the metadata a sha256 of all, and warnings

The key is a sha256 over everything that decides the examples: the rows as roles (so after templates, label names and
row limits), the kind with its options, the tokenizer's content, max_length, whether it is for training, the versions
of the tokenizer's libraries, and the source of the rooms that tokenize. Whatever changes one of them finds no entry;
nothing has to be deleted by hand. An entry that does not hold what was written is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ptuning.allocation import without_collection
from ptuning.data.batching import Example
from ptuning.data.example_arrays import Arrays, from_arrays, to_arrays
from ptuning.data.rows import Row
from ptuning.storage import cache_directory, replace_file
from ptuning.tasks.kind import TaskKind

logger = logging.getLogger(__name__)
_ROOM = logging.getLogger("ptuning.tasks")  # whose warnings belong to the examples

MOST_BYTES = 2 * 1024**3
"""Of all entries together. The ones that were not used for the longest time go first."""

FEWEST_CHARACTERS = 200_000
"""Rows of fewer, as JSON, take a tenth of a second or less to tokenize: they are not kept."""

_OLD_SECONDS = 3600.0  # a file that is still being written is not so old
_TOKENIZER_SETTINGS = (
    "truncation_side",
    "padding_side",
    "model_input_names",
    "split_special_tokens",
    "add_prefix_space",
    "special_tokens_map",
)

Warned = list[tuple[str, str]]  # (name of the logger, message)


def encode_cached(
    kind: TaskKind, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool
) -> list[Example]:
    """Returns what `kind.encode` returns, from the cache where it is there, and with the warnings that it gave.

    Args:
        kind: whose examples.
        rows: of `kind.encode`.
        tokenizer: of `kind.encode`. Examples of one without a fast version are not kept: its content is not known.
        max_length: of `kind.encode`.
        training: of `kind.encode`.

    Raises:
        DataError, ConfigError: as `kind.encode` does; what fails is not kept.
    """
    with without_collection():
        directory = cache_directory()
        key = directory and _key(kind, rows, tokenizer, max_length, training)
        if not directory or not key:
            return kind.encode(rows, tokenizer, max_length, training=training)
        path = directory / "encoded" / f"{key}.safetensors"
        found = _read(path, key)
        if found is not None:
            examples, warned = found
            for name, message in warned:
                logging.getLogger(name).warning("%s", message)
            return examples
        with _recorded_warnings() as warned:
            examples = kind.encode(rows, tokenizer, max_length, training=training)
        _write(path, key, examples, warned)
        return examples


def _key(kind: TaskKind, rows: Sequence[Row], tokenizer: Any, max_length: int, training: bool) -> str | None:
    """Hex digest of everything that decides the examples; None where it is not known, or they are few.

    Warnings that nobody hears could not be given again, so they count as not known.
    """
    if not getattr(tokenizer, "is_fast", False) or not _ROOM.isEnabledFor(logging.WARNING):
        return None
    try:
        content = json.dumps(rows)
    except (TypeError, ValueError):
        return None  # a value that JSON has not: no text says for sure that two of them are equal
    if len(content) < FEWEST_CHARACTERS:
        return None
    backend = tokenizer.backend_tokenizer.to_str()
    # How the last call cut and padded stands in front of the content, and each call says anew how it does.
    backend = backend[max(backend.find('"added_tokens"'), 0) :]
    settings = {name: repr(getattr(tokenizer, name, None)) for name in _TOKENIZER_SETTINGS}
    digest = hashlib.sha256()
    for part in (
        content,
        json.dumps(kind.to_dict(), sort_keys=True),
        backend,
        json.dumps([type(tokenizer).__qualname__, settings, max_length, training]),
        _code(),
    ):
        digest.update(f"{len(part)}:".encode() + part.encode())
    return digest.hexdigest()


@cache
def _code() -> str:
    """What of the code decides examples: versions of the tokenizer's libraries, and the source that makes them."""
    found = []
    for name in ("ptuning", "tokenizers", "transformers"):
        try:
            found.append(version(name))
        except PackageNotFoundError:
            found.append("")
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    rooms = [path for room in ("data", "tasks") for path in (package / room).glob("*.py")]
    for path in sorted([*rooms, package / "backbones" / "pieces.py"]):
        digest.update(path.name.encode() + path.read_bytes())
    return f"{found} {digest.hexdigest()}"


def _read(path: Path, key: str) -> tuple[list[Example], Warned] | None:
    """What an entry holds; None where there is none, or it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        warned = [(str(name), str(message)) for name, message in about["warned"]]
        if about["sha256"] != _digest(key, arrays, warned):
            raise ValueError("its sha256 is another one")
        examples = from_arrays(arrays)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.info("the cache entry %s is not read, and made again: %s", path, error)
        return None
    with suppress(OSError):  # in a cache that can only be read nothing is ever deleted
        os.utime(path)  # used now
    return examples, warned


def _write(path: Path, key: str, examples: Sequence[Example], warned: Warned) -> None:
    """Keeps examples, where there is room for them. A disk problem is no problem of the run."""
    arrays = to_arrays(examples)
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BYTES:
        logger.info("%d examples are not kept: they are %d bytes, more than the cache holds", len(examples), size)
        return
    about = json.dumps({"sha256": _digest(key, arrays, warned), "warned": warned})
    try:
        replace_file(path, lambda temporary: save_file(arrays, temporary, {"about": about}))
        _make_room(path.parent)
    except (OSError, SafetensorError) as error:
        logger.info("the examples are not kept in %s: %s", path, error)


def _digest(key: str, arrays: Arrays, warned: Warned) -> str:
    digest = hashlib.sha256(f"{key} {json.dumps(warned)} ".encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _make_room(directory: Path) -> None:
    """Deletes the entries that were not used for the longest time, until `MOST_BYTES` are not exceeded."""
    entries = []
    for path in directory.iterdir():
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # another process was faster
        entries.append((stat.st_mtime, stat.st_size, path))
    room = MOST_BYTES
    for used, size, path in sorted(entries, reverse=True):
        is_left = path.suffix != ".safetensors"  # of a process that died while it wrote
        room -= size
        if room < 0 or (is_left and used < time.time() - _OLD_SECONDS):
            path.unlink(missing_ok=True)


class _Recorder(logging.Handler):
    """Remembers what this thread warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warned: Warned = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.warned.append((record.name, record.getMessage()))


@contextmanager
def _recorded_warnings() -> Iterator[Warned]:
    recorder = _Recorder()
    _ROOM.addHandler(recorder)
    try:
        yield recorder.warned
    finally:
        _ROOM.removeHandler(recorder)
