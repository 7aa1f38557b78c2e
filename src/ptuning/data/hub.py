"""Data sets of the Hugging Face hub, or local directories in its layout, through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptuning.data.formats import Table
from ptuning.errors import DataError

_NAME = re.compile(r"(?P<path>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.+-]+))?")


def is_hub_name(name: str) -> bool:
    """Tell whether `name` has the form `name`, `owner/name`, `name:config` or `owner/name:config`."""
    return _NAME.fullmatch(name) is not None and not name.startswith((".", "-"))


def open_hub(name: str) -> Mapping[str, Any]:
    """Load a data set of the hub, or a local directory in the hub's layout.

    Args:
        name: directory, or name on the hub, with `:config` behind it where it has several.

    Returns:
        split -> data, for `hub_table`.

    Raises:
        DataError: it could not be found, fetched or read.
    """
    import datasets

    match = _NAME.fullmatch(name)
    path, config = (match["path"], match["config"]) if match else (name, None)
    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(path, config)
    except Exception as error:  # network, authorization, parsing: each library below has exceptions of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        where = "" if Path(name).is_dir() else f"there is no directory {name} here, and "
        raise DataError(
            f"{where}the data set {name!r} could not be loaded ({reason}). Expected a directory, or a data set on "
            "https://huggingface.co/datasets as owner/name or owner/name:config. Check the name and the network, or "
            "download it and give the directory."
        ) from error
    return loaded


def hub_table(data: Any, name: str) -> Table:
    """Return one split as a table."""
    names = {}
    for column, feature in data.features.items():
        classes = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if classes:
            names[column] = tuple(classes)
    return Table(name, tuple(data.column_names), data.to_list(), None, names)
