"""Which reader takes which text file, by its name and the kind of task; and directories that hold one split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ptuning.data.conll import CONLL2003_SUFFIXES, CONLL_SUFFIXES, read_conll
from ptuning.data.conllu import CONLLU_SUFFIXES, read_conllu
from ptuning.data.formats import TABLE_SUFFIXES, Table, decode
from ptuning.data.glue import read_tsv
from ptuning.data.ontonotes import ONTONOTES_SUFFIX, ontonotes_files, read_ontonotes, read_ontonotes_directory
from ptuning.data.props import read_props, read_props_directory
from ptuning.data.srl_lines import PARTING, read_srl_lines
from ptuning.errors import DataError

Reader = Callable[[bytes, str], Table]
"""The bytes of a file and how messages name it -> its records."""

_ONTONOTES_KINDS = ("token_classification", "semantic_role_labeling")
_PROPS_SUFFIXES = (".conll", ".txt", ".wsj", ".brown", "")
TEXT_SUFFIXES: dict[str, tuple[str, ...]] = {
    "classification": (".tsv",),
    "regression": (".tsv",),
    "token_classification": (*CONLL_SUFFIXES, f"_{ONTONOTES_SUFFIX}"),
    "semantic_role_labeling": (*CONLLU_SUFFIXES, ".conll", ".txt", f"_{ONTONOTES_SUFFIX}"),
}
"""Kind -> suffixes beside those of tables, as messages name them."""

MRPC_FILES = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
"""Tab-separated in spite of their names: the paraphrase corpus as it is outside of GLUE."""


def text_reader(name: str, kind: str) -> Reader | None:
    """Return the reader of a text file, None where there is none.

    Args:
        name: of the file, without its directory.
        kind: kind of task.
    """
    plain = name.lower().removesuffix(".gz")
    suffix = Path(plain).suffix
    if kind in ("classification", "regression") and (suffix == ".tsv" or plain in MRPC_FILES):
        return read_tsv
    if kind in _ONTONOTES_KINDS and plain.endswith(ONTONOTES_SUFFIX):
        return partial(read_ontonotes, kind=kind)
    if kind == "token_classification" and suffix in (*CONLL_SUFFIXES, *CONLL2003_SUFFIXES):
        return read_conll
    if kind == "semantic_role_labeling":
        if suffix in CONLLU_SUFFIXES:
            return read_conllu
        if suffix in _PROPS_SUFFIXES:
            return _read_roles
    return None


def can_be_read(name: str, kind: str) -> bool:
    """Tell whether `read_table` takes a file of this name for a kind of task."""
    plain = name.lower().removesuffix(".gz")
    suffix = Path(plain).suffix
    if suffix in TABLE_SUFFIXES:
        return not (suffix == ".parquet" and plain != name.lower())
    return text_reader(name, kind) is not None


def is_split_directory(path: Path, kind: str) -> bool:
    """Tell whether a directory holds one split: CoNLL-2005 (`words`, `props`), or CoNLL-2012 at any depth."""
    if kind == "semantic_role_labeling" and (path / "words").is_dir() and (path / "props").is_dir():
        return True
    return kind in _ONTONOTES_KINDS and path.is_dir() and bool(ontonotes_files(path))


def read_directory(path: Path, kind: str) -> Table:
    """Read a directory that holds one split.

    Raises:
        DataError: it holds none, or a file in it is not as it should be.
    """
    if not is_split_directory(path, kind):
        forms = {
            "semantic_role_labeling": f"the directories words and props, or *_{ONTONOTES_SUFFIX} files",
            "token_classification": f"*_{ONTONOTES_SUFFIX} files",
        }
        raise DataError(
            f"{path} is a directory that cannot be read as one split for {kind}. "
            f"Expected {forms.get(kind, 'a file: ' + ', '.join((*TABLE_SUFFIXES, *TEXT_SUFFIXES.get(kind, ()))))}; "
            "name a file in it."
        )
    if kind == "semantic_role_labeling" and (path / "props").is_dir():
        return read_props_directory(path)
    return read_ontonotes_directory(path, kind)


def _read_roles(data: bytes, name: str) -> Table:
    """Read one predicate a line, or one word a line: the first line that is not blank tells which."""
    first = next((line for line in decode(data, name).split("\n") if line.strip()), "")
    return (read_srl_lines if PARTING in first else read_props)(data, name)
