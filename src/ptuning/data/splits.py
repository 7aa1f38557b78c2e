"""The splits of a data set as tables: from files in a directory, or from the hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ptuning.data.file_names import find_splits
from ptuning.data.flat import flat, read_flat
from ptuning.data.formats import Table, suffixes_for
from ptuning.data.hub import HubSource, hub_table, is_hub_name, open_hub, parse_hub_name
from ptuning.errors import DataError

Split = str

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""The splits that every task may have -> what others call them. Some sets have more, such as `test_brown`."""

TableReader = Callable[
    [str | Path | HubSource, str, Collection[Split] | None], tuple[dict[Split, Table], Collection[Split]]
]
"""What `load_tables` is."""

_MOST_SHOWN = 10


def is_test(split: Split) -> bool:
    """Tell whether a split may come without labels."""
    return split == "test" or split.startswith("test_")


def load_tables(
    source: str | Path | HubSource, kind: str, wanted: Collection[Split] | None
) -> tuple[dict[Split, Table], Collection[Split]]:
    """Read the wanted splits (None: train, validation and test), and train too when validation comes from it.

    Args:
        source: directory with a file a split; directory in the hub's layout; or data set of the hub.
        kind: kind of task, which decides what files may be read.
        wanted: names of splits.

    Returns:
        Split -> table, and all splits that there are.

    Raises:
        DataError: there are no splits, or one cannot be read.
    """
    hub = source if isinstance(source, HubSource) else parse_hub_name(str(source))
    name = hub.name if isinstance(source, HubSource) else str(source)
    if not name.strip():
        raise DataError(f"the path of the data is empty. {_what_was_expected(kind)}")
    directory = Path(name)
    if directory.is_dir():
        files = find_splits(directory, kind)
        if files:
            needed = needed_splits(files, wanted)
            return {split: read_flat(file, kind) for split, file in files.items() if split in needed}, list(files)
        if any(directory.rglob("*.parquet")) or (directory / "README.md").is_file():
            return _hub_splits(HubSource(name, hub.config, None, hub.splits), kind, wanted)
        inside = sorted(entry.name for entry in directory.iterdir())
        more = f" and {len(inside) - _MOST_SHOWN} more" if len(inside) > _MOST_SHOWN else ""
        what = f"has no split files, only: {', '.join(inside[:_MOST_SHOWN])}{more}" if inside else "is empty"
        raise DataError(f"{name} {what}. {_what_was_expected(kind)}")
    if directory.is_file():
        raise DataError(
            f"{name} is a file. {_what_was_expected(kind)} Put it into a directory as train{directory.suffix}."
        )
    if not is_hub_name(name):
        raise DataError(f"{name} does not exist. {_what_was_expected(kind)}")
    return _hub_splits(hub, kind, wanted)


def needed_splits(available: Collection[Split], wanted: Collection[Split] | None) -> set[Split]:
    """Return which splits to read: the wanted ones, and train where validation has to be held out of it."""
    if wanted is None:
        return set(available) & set(SPLIT_NAMES)
    extra: set[Split] = {"train"} if "validation" in wanted and "validation" not in available else set()
    return set(wanted) | extra


def _what_was_expected(kind: str) -> str:
    return (
        "Expected a directory with a train file, and perhaps validation and test files "
        f"({', '.join(suffixes_for(kind))}), or a Hugging Face data set as owner/name, owner/name:config or "
        "owner/name:config@revision."
    )


def _hub_splits(
    source: HubSource, kind: str, wanted: Collection[Split] | None
) -> tuple[dict[Split, Table], Collection[Split]]:
    loaded = open_hub(source)
    found = _own_names(loaded, source.splits)
    if not found:
        raise DataError(
            f"the data set {str(source)!r} has the splits {', '.join(loaded)}, expected train, validation or test. "
            "Write those that you want to files with these names, and give their directory."
        )
    needed = needed_splits(found, wanted)
    tables = {
        split: flat(hub_table(loaded[own], f"{source.name} {own}"), kind)
        for split, own in found.items()
        if split in needed
    }
    for table in tables.values():
        if not table.records:
            raise DataError(f"{table.name} has no rows. Expected at least one; choose another configuration or split.")
    return tables, list(found)


def _own_names(loaded: Collection[str], given: Mapping[Split, str]) -> dict[Split, str]:
    """Return our name of a split -> the data set's own, of those that there are."""
    found: dict[Split, str] = {}
    for split, names in SPLIT_NAMES.items():
        own = given.get(split) or next((name for name in names if name in loaded), None)
        if own in loaded:
            found[split] = str(own)
    return found | {split: own for split, own in given.items() if own in loaded}
