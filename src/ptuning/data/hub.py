"""Data sets of the Hugging Face hub, or local directories in its layout, through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptuning.data.formats import Table
from ptuning.errors import DataError

CONVERTED = "refs/convert/parquet"
"""The revision with the hub's own Parquet copy of data sets whose loading script no longer runs. It has a directory for
each configuration, and a directory for each split in it."""

_NAME = re.compile(r"(?P<path>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.+-]+))?(@(?P<revision>[\w.+-]+(/[\w.+-]+)*))?")


@dataclass(frozen=True)
class HubSource:
    """A data set of the hub, or a local copy in the same layout.

    Attributes:
        name: `owner/name`, or a directory.
        config: which of its configurations; None where there is one.
        revision: branch, tag or commit; `CONVERTED` for sets whose main branch has a script and no data.
        splits: our name of a split -> the set's own, where they differ; splits that are named here are known by these
            names alone.
        advice: what else can be done where it cannot be loaded, such as where licensed data come from.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    advice: str = ""

    def __str__(self) -> str:
        return self.name + (f":{self.config}" if self.config else "") + (f"@{self.revision}" if self.revision else "")


def is_hub_name(name: str) -> bool:
    """Tell whether `name` has the form `owner/name`; the owner may be missing, `:config` and `@revision` may follow."""
    return _NAME.fullmatch(name) is not None and not name.startswith((".", "-"))


def parse_hub_name(name: str) -> HubSource:
    """Read `owner/name:config@revision`, as `str` writes it; anything else is a whole name, such as a directory."""
    match = _NAME.fullmatch(name)
    return HubSource(match["path"], match["config"], match["revision"]) if match else HubSource(name)


def open_hub(source: HubSource) -> Mapping[str, Any]:
    """Load a data set of the hub, or a local directory in the hub's layout.

    Returns:
        split -> data, for `hub_table`.

    Raises:
        DataError: it could not be found, fetched or read.
    """
    import datasets

    directory = Path(source.name)
    is_local = directory.is_dir()
    arguments: dict[str, Any] = {} if is_local or source.revision is None else {"revision": source.revision}
    converted = directory / str(source.config)
    # `datasets` finds configurations in the card or as a builder's names. A copy that has neither, and a directory for
    # each, would be read as one set with the rows of all; and splits such as validation_matched as one split.
    if is_local and source.config is not None and converted.is_dir():
        arguments["data_files"] = {
            entry.name: f"{source.config}/{entry.name}/*.parquet"
            for entry in sorted(converted.iterdir())
            if entry.is_dir()
        }
    elif source.config is not None and not is_local and source.revision == CONVERTED:
        arguments["data_dir"] = source.config
    elif source.config is not None and (not is_local or has_configuration(directory, source.config)):
        arguments["name"] = source.config
    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(source.name, **arguments)
    except Exception as error:  # network, authorization, parsing: each library below has exceptions of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        where = "" if is_local else f"there is no directory {source.name} here, and "
        advice = f" Or give a directory with --data. {source.advice}" if source.advice else ""
        raise DataError(
            f"{where}the data set {str(source)!r} could not be loaded ({reason}). Expected a directory, or a data set "
            "on https://huggingface.co/datasets as owner/name, owner/name:config or owner/name:config@revision. Check "
            "the name and the network, or "
            f"download it and give the directory.{advice}"
        ) from error
    return loaded


def hub_table(data: Any, name: str) -> Table:
    """Return one split as a table."""
    names = _class_names("", data.features)
    return Table(name, tuple(data.column_names), data.to_list(), None, names)


def _class_names(prefix: str, features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return column -> class names, also of lists of classes; inside of others as `column.inner`."""
    found: dict[str, tuple[str, ...]] = {}
    for column, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a list
        classes = getattr(getattr(inner, "feature", inner), "names", None)
        if isinstance(inner, Mapping):
            found |= _class_names(f"{prefix}{column}.", inner)
        elif classes:
            found[prefix + column] = tuple(classes)
    return found


def has_configuration(directory: Path, config: str) -> bool:
    """Tell whether a directory has another one for this configuration, or a card that names it."""
    if (directory / config).is_dir():
        return True
    from datasets import get_dataset_config_names

    return (directory / "README.md").is_file() and config in get_dataset_config_names(str(directory))
