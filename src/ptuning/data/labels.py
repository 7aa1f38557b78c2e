"""Label names: where they come from, and raw labels turned into them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptuning.data.formats import Table, class_names_of, is_number
from ptuning.data.rows import Row, short
from ptuning.data.spans import is_bio_tag
from ptuning.errors import DataError

INFO_FILE = "dataset_info.json"
PROMPT = "the prompt"
"""How messages name a saved prompt that gave the label names: it can say no others."""
_MOST_SHOWN = 10
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_MOST_DIGITS = 18  # longer numbers are names like any other text


def info_label_names(directory: Path, column: str) -> tuple[str, ...] | None:
    """Return the label names that `dataset_info.json` beside the files gives, or None.

    `label_names` is a list of strings; the class names of Hugging Face's `features` are read too.
    """
    path = directory / INFO_FILE
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f'{path} cannot be read as JSON ({error}). Expected {{"label_names": [...]}}; correct it or move it away.'
        ) from error
    if not isinstance(info, dict):
        raise DataError(f'{path} holds no JSON object. Expected {{"label_names": [...]}}; correct it or move it away.')
    names = info.get("label_names")
    if names is None:
        return class_names_of(info.get("features")).get(column)
    return checked_names(names, f"label_names in {path}")


def checked_names(names: Any, source: str) -> tuple[str, ...]:
    """Check that label names are at least two different strings."""
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) and name for name in names)
    if not is_list or len(set(names)) != len(names) or len(names) < 2:
        raise DataError(
            f"{source} is {names!r}. Expected a list of at least two different strings, one a class. Correct it."
        )
    return tuple(names)


def some_are_numbers(names: Sequence[str]) -> bool:
    """Tell whether a number among the labels could be one of the names, and not only a place among them."""
    return any(_is_whole(str(name).strip()) for name in names)


def shown(names: Sequence[str]) -> str:
    """Write names for a message: ten at most."""
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def seen_label_names(rows: Sequence[Row], table: Table) -> tuple[str, ...]:
    """Return the sorted values of `label`; whole numbers are sorted as such.

    Raises:
        DataError: a label is not a string, a whole number or a truth value; or there is only one.
    """
    values = {_label_text(row["label"], table.where(index)) for index, row in enumerate(rows) if "label" in row}
    if len(values) < 2:
        raise DataError(
            f"{table.name}: the only label is {shown(sorted(values))!r}. Expected at least two classes; "
            "name all of them in data.labels if these rows have but one."
        )
    numbers = all(_WHOLE_NUMBER.fullmatch(value) for value in values)
    if not numbers and all(is_number(value) for value in values):
        raise DataError(
            f"{table.name}: the labels are numbers, such as {min(values)}, but not whole ones. Expected classes for "
            "classification; use the kind regression, or train with another label column in data.columns."
        )
    return tuple(sorted(values, key=int) if all(_is_whole(value) for value in values) else sorted(values))


def seen_tag_names(
    rows: Sequence[Row], others: Iterable[Sequence[Row]], source: str, *, all_types: bool = False
) -> tuple[str, ...]:
    """Return `O` and then the sorted other tags.

    The other splits add a `B-X` or `I-X` only if train knows the type X: rare tags are often missing from one split,
    but a type that train never shows is an error of the data.

    Args:
        rows: of train.
        others: rows of the other splits.
        source: how messages name train.
        all_types: whether the other splits may add types, as with semantic roles, many of which are rare.

    Raises:
        DataError: all tags are `O`.
    """
    names = {"O"}.union(*(row.get("tags", ()) for row in rows))
    types = {name[2:] for name in names if name != "O"}
    if not types:
        raise DataError(
            f"{source}: every tag is O. Expected entities, as B-TYPE and I-TYPE; name all tags in data.labels if these "
            "rows have none."
        )
    for split in others:
        names |= {tag for row in split for tag in row.get("tags", ()) if all_types or tag == "O" or tag[2:] in types}
    return tuple(sorted(names, key=lambda name: (name != "O", name)))


def name_labels(
    splits: Mapping[str, tuple[list[Row], Table]],
    names: tuple[str, ...],
    *,
    others: Iterable[Any] = (),
    from_classes: bool,
    source: str,
) -> None:
    """Replace the labels of classification rows by their names, in place.

    Numbers are read as places in `names`, unless all of them are names themselves.

    Args:
        splits: split -> rows and what they were read from.
        names: in index order.
        others: raw labels of splits that are not read. How numbers are read is decided over these too.
        from_classes: whether numbers are always places, as with Hugging Face's class labels.
        source: who gave the names.

    Raises:
        DataError: a label is neither a name nor a place; with the row, the names and the nearest one.
    """
    labelled = [
        (row, table.where(index)) for rows, table in splits.values() for index, row in enumerate(rows) if "label" in row
    ]
    texts = [_label_text(row["label"], place) for row, place in labelled]
    texts += [str(label).strip() for label in others if not isinstance(label, bool)]
    name_of = _namer(texts, names, from_classes)
    for row, place in labelled:
        name = name_of(row["label"])
        if name is None:
            raise _unknown(place, "label", row["label"], names, source)
        row["label"] = name


def name_tags(splits: Mapping[str, tuple[list[Row], Table]], names: tuple[str, ...], *, source: str) -> None:
    """Replace tags that are numbers by their names, in place (before the tags are looked at as BIO).

    Raises:
        DataError: a name is no BIO tag, or a number is no place in `names`.
    """
    for name in names:
        if not is_bio_tag(name):
            raise DataError(f"{source}: {name!r} is no BIO tag. Expected O, B-TYPE or I-TYPE for each tag.")
    for rows, table in splits.values():
        for index, row in enumerate(rows):
            for position, tag in enumerate(row.get("tags", ())):
                if isinstance(tag, int) and not isinstance(tag, bool):
                    if not 0 <= tag < len(names):
                        raise _unknown(table.where(index), "tag", tag, names, source)
                    row["tags"][position] = names[tag]


def check_tags_are_strings(splits: Mapping[str, tuple[list[Row], Table]]) -> None:
    """Refuse numbers, which only label names can explain, and everything else that is not a string."""
    for rows, table in splits.values():
        for index, row in enumerate(rows):
            for tag in row.get("tags", ()):
                if not isinstance(tag, str):
                    raise DataError(
                        f"{table.where(index)}: the tag {tag!r} is not a string. Expected tags such as B-PER; numbers "
                        f'need their names, in data.labels or as {{"label_names": [...]}} in {INFO_FILE}.'
                    )


def unknown_tags(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Return the tags of rows that are not among the names, sorted."""
    return sorted({tag for row in rows for tag in row.get("tags", ())} - set(names))


def check_tags_are_known(splits: Mapping[str, tuple[list[Row], Table]], names: tuple[str, ...], *, source: str) -> None:
    """Refuse a tag outside the names."""
    known = set(names)
    for rows, table in splits.values():
        for index, row in enumerate(rows):
            for tag in row.get("tags", ()):
                if tag not in known:
                    raise _unknown(table.where(index), "tag", tag, names, source)


def number_choices(
    splits: Mapping[str, tuple[list[Row], Table]], choice_columns: Sequence[str], names: tuple[str, ...] | None
) -> None:
    """Replace the labels of multiple-choice rows by the place of the right choice, from 0, in place.

    A label is that number, or the name of the choice's column, or its name in `names`.
    """
    for rows, table in splits.values():
        for index, row in enumerate(rows):
            if "label" not in row:
                continue
            label, num_choices = row["label"], len(row["choices"])
            text = str(label).strip()
            if text in choice_columns:
                place = list(choice_columns).index(text)
            elif names and isinstance(label, str) and text in names:
                place = names.index(text)
            else:
                place = int(text) if _is_whole(text) else -1
            if not 0 <= place < num_choices:
                raise DataError(
                    f"{table.where(index)}: the label is {short(label)}, but the row has {num_choices} choices. "
                    f"Expected the number of the right one, from 0 to {num_choices - 1}. Correct the row."
                )
            row["label"] = place


def _is_whole(text: str) -> bool:
    return len(text) <= _MOST_DIGITS and _WHOLE_NUMBER.fullmatch(text) is not None


def _label_text(label: Any, place: str) -> str:
    if isinstance(label, float):
        raise DataError(
            f"{place}: the label is {label!r}, a floating-point number. Expected a class (string or whole number) for "
            "classification; use the kind regression, or train with another label column in data.columns."
        )
    if not isinstance(label, (str, int)):
        raise DataError(
            f"{place}: the label is {label!r} ({type(label).__name__}). Expected one class, a string or whole number."
        )
    if isinstance(label, str) and not label.strip():
        raise DataError(f"{place}: the label is empty, expected a class. Fill it in or remove the row.")
    return str(label).strip()


def _namer(labels: Iterable[str], names: tuple[str, ...], from_classes: bool) -> Callable[[Any], str | None]:
    """Return the function label -> name or None; how numbers are read is decided once, over all labels."""
    numbers = {label for label in labels if _is_whole(label)}
    numbers_are_names = not from_classes and numbers <= set(names)

    def name_of(label: Any) -> str | None:
        text = str(label) if label in names else str(label).strip()
        is_whole = _is_whole(text)
        if text in names and (numbers_are_names or not is_whole):
            return text
        if (is_whole or isinstance(label, bool)) and 0 <= int(label) < len(names):
            return names[int(label)]
        return None

    return name_of


def _unknown(place: str, what: str, value: Any, names: Sequence[str], source: str) -> DataError:
    nearest = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    advice = (
        "Correct the row, or leave it out: the prompt knows what it was trained for alone."
        if source == PROMPT
        else "Correct the row, or give all names in data.labels."
    )
    return DataError(
        f"{place}: the {what} {short(value)} is not among the {len(names)} label names of {source}: {shown(names)}."
        f"{hint} {advice}"
    )
