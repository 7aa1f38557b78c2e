"""Which split a file or directory holds, by its name."""

from __future__ import annotations

import re
from pathlib import Path

from ptuning.data.formats import TABLE_SUFFIXES
from ptuning.data.text_formats import MRPC_FILES, TEXT_SUFFIXES, can_be_read, is_split_directory
from ptuning.errors import DataError

_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation"),
    "test": "test",
}
_WELL_KNOWN = {
    # CoNLL-2003
    "eng.train": "train",
    "eng.testa": "validation",
    "eng.testb": "test",
    # MRPC outside of GLUE, which has no validation file
    MRPC_FILES[0]: "train",
    MRPC_FILES[1]: "test",
    # CoNLL-2005: as released, and as its scripts name the merged files
    "test.wsj": "test",
    "test.brown": "test_brown",
    "train-set": "train",
    "dev-set": "validation",
    "devel-set": "validation",
    "test-set": "test",
    "test-wsj": "test",
    "test-set-wsj": "test",
    "test-brown": "test_brown",
    "test-set-brown": "test_brown",
    # OntoNotes 5 with the test set of CoNLL-2012
    "conll-2012-test": "test",
}
_SUFFIXES = {suffix for suffixes in TEXT_SUFFIXES.values() for suffix in (*TABLE_SUFFIXES, *suffixes)}
_ONTONOTES = re.compile(r"(\.(english|chinese|arabic))?\.(v\d+_)?gold_conll$")
_PREFIX = re.compile(r"^conll-?(20)?(05|12)[.-]|^[a-z]+_[a-z0-9]+-(up|ud)-")
_SQUAD = re.compile(r"-v\d\.\d$")
_TEST = re.compile(r"^test[._-](wsj|brown|matched|mismatched)$")
_HALF = re.compile(r"^(.+)_(matched|mismatched)$")


def split_of(name: str) -> str | None:
    """Return the split that a file or directory holds, None where its name does not say.

    Args:
        name: without the directory; `.gz` after a suffix does not matter.

    Returns:
        `train`, `validation`, `test`; `test_brown` (CoNLL-2005); `validation_mismatched`, `test_mismatched` (MNLI).
    """
    plain = name.lower().removesuffix(".gz")
    if plain in _WELL_KNOWN:
        return _WELL_KNOWN[plain]
    return _WELL_KNOWN.get(_stem(plain)) or _named(_stem(plain))


def _stem(plain: str) -> str:
    """Take off the suffix, where it is one of a data file."""
    if _ONTONOTES.search(plain):
        return _ONTONOTES.sub("", plain)
    suffix = Path(plain).suffix
    return plain.removesuffix(suffix) if suffix in _SUFFIXES else plain


def _named(stem: str) -> str | None:
    stem = _SQUAD.sub("", _PREFIX.sub("", stem, count=1))
    test = _TEST.fullmatch(stem)
    if test:
        return {"wsj": "test", "matched": "test"}.get(test[1], f"test_{test[1]}")
    half = _HALF.fullmatch(stem)
    if half and _NAMES.get(half[1]) == "validation":
        return "validation" if half[2] == "matched" else "validation_mismatched"
    return _NAMES.get(stem)


def find_splits(directory: Path, kind: str) -> dict[str, Path]:
    """Find the file or directory of each split; others are ignored.

    The files of MRPC that are not from GLUE count only where there is no other for their split: GLUE's own are made
    of them, and its download has both.

    Args:
        directory: where to look, not deeper.
        kind: kind of task, which decides what can be read.

    Returns:
        Split -> what `read_table` takes. Train, validation and test come first.

    Raises:
        DataError: two mean the same split.
    """
    found: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    for path in sorted(directory.iterdir()):
        split = split_of(path.name)
        if split is not None and (can_be_read(path.name, kind) if path.is_file() else is_split_directory(path, kind)):
            found.setdefault(split, []).append(path)
    splits: dict[str, Path] = {}
    for split, paths in found.items():
        others = [path for path in paths if path.name.lower().removesuffix(".gz") not in MRPC_FILES]
        paths = others or paths
        if len(paths) > 1:
            raise DataError(
                f"{directory} has more than one {split} file: {', '.join(path.name for path in paths)}. "
                "Expected one; move the others away."
            )
        if paths:
            splits[split] = paths[0]
    return splits
