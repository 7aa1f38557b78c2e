"""Texts to token ids in batches, cut at the end where they are too long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from ptuning.errors import ConfigError, DataError

_ROWS_AT_ONCE = 1000  # what a tokenizer returns besides the ids takes kilobytes a row

Item = TypeVar("Item")


def pieces(items: Sequence[Item]) -> Iterator[tuple[int, Sequence[Item]]]:
    """Yield (index of the first, some of the items), a thousand at a time."""
    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield start, items[start : start + _ROWS_AT_ONCE]


def encode_texts(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    *,
    cut: Literal["longest_first", "only_first"] = "longest_first",
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Tokenize texts or pairs of texts, and cut those that are too long.

    Args:
        tokenizer: a transformers tokenizer.
        texts: the first or only text of each sequence.
        pairs: the second text of each, if there are two.
        max_length: tokens a sequence at most, special ones counted.
        cut: of a pair, the longer one first; or only the first one (the second must then leave room for a token of it).

    Returns:
        Token ids of each sequence; and token types, or None where the tokenizer has none.

    Raises:
        ConfigError: `max_length` leaves no room for a token of each text.
    """
    special = int(tokenizer.num_special_tokens_to_add(pair=pairs is not None))
    least = special + (1 if pairs is None else 2)
    if max_length < least:
        raise ConfigError(
            f"max_length is {max_length}, but the tokenizer adds {special} special tokens, so at least {least} are "
            "needed. Raise data.max_length."
        )
    ids: list[list[int]] = []
    types: list[list[int]] = []
    known: dict[int, int] = {}  # each number is one object, which is a third of the memory
    for start, some in pieces(texts):
        encoded = tokenizer(
            list(some),
            None if pairs is None else list(pairs[start : start + len(some)]),
            truncation=cut,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        ids += [[known.setdefault(number, number) for number in own] for own in encoded["input_ids"]]
        types += encoded.get("token_type_ids", ())
    return ids, types or None


def cut_around(
    tokenizer: Any, row: Mapping[str, Any], max_length: int, *, number: int
) -> tuple[list[int], list[int] | None]:
    """Tokenize the texts of one row, and cut what is far from the marked characters.

    What is marked stays, and so does the whole second text where nothing is marked in it. Of the other tokens those go
    first that are the most tokens away from any marked one of their text, of equally far ones the last. A row that is
    short enough is not cut.

    Args:
        tokenizer: a transformers tokenizer.
        row: with `text`, perhaps `text_pair`, `keep`: [first, end] characters of the text, and perhaps `keep_pair`: the
            same of the second text.
        max_length: tokens a sequence at most, special ones counted.
        number: of the row, from 1, for messages.

    Returns:
        Token ids; and token types, or None where the tokenizer has none.

    Raises:
        ConfigError: the row has to be cut, and the tokenizer cannot say which characters its tokens come from.
        DataError: what has to stay does not fit into `max_length`.
    """
    is_fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(
        row["text"],
        row.get("text_pair"),
        truncation=False,
        return_attention_mask=False,
        return_offsets_mapping=is_fast,
        verbose=False,
    )
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    if len(ids) <= max_length:
        return ids, types
    check_is_fast(tokenizer, "cutting texts around what `keep` marks")
    offsets = encoded["offset_mapping"]
    marks: list[tuple[list[int], Sequence[Sequence[int]]]] = []
    for part, ranges in ((0, row["keep"]), (1, row.get("keep_pair"))):
        if ranges:
            marks.append(([place for place, other in enumerate(encoded.sequence_ids(0)) if other == part], ranges))
    gone = far_from_marked(offsets, marks, len(ids), max_length, number=number)
    stays = [place for place in range(len(ids)) if place not in gone]
    return [ids[place] for place in stays], None if types is None else [types[place] for place in stays]


def far_from_marked(
    offsets: Sequence[tuple[int, int]],
    marks: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    size: int,
    max_length: int,
    *,
    number: int,
) -> set[int]:
    """Return which tokens go so that a row fits: those farthest from a marked one, of equally far ones the last.

    Args:
        offsets: [first, end] characters of each token in its text.
        marks: of each text with marked characters, the places of its tokens, and the ranges of characters.
        size: tokens of the row, of all texts and special ones.
        max_length: how many may stay.
        number: of the row, from 1, for messages.

    Raises:
        DataError: what has to stay is more.
    """
    others: list[tuple[int, int]] = []  # (tokens to the nearest marked one, place) of what may go
    for own, ranges in marks:
        marked = [p for p in own if any(offsets[p][0] < end and offsets[p][1] > start for start, end in ranges)]
        others += [(_distance(place, marked), place) for place in own if place not in marked]
    needed = size - len(others)
    if needed > max_length:
        raise DataError(
            f"row {number}: what has to stay of it (marked words, a text_pair without any, special tokens) is {needed} "
            f"tokens, but max_length is {max_length}. Raise data.max_length to at least {needed}, or shorten the row."
        )
    others.sort(key=lambda item: (-item[0], -item[1]))
    return {place for _, place in others[: size - max_length]}


def _distance(place: int, marked: Sequence[int]) -> int:
    """Tokens to the nearest marked one; 0 where there is none."""
    after = bisect_left(marked, place)
    return min((abs(place - other) for other in marked[max(after - 1, 0) : after + 1]), default=0)


def text_pairs(rows: Sequence[dict[str, Any]]) -> list[str] | None:
    """Return the second texts of rows, or None where no row has one.

    Raises:
        DataError: only some rows have one.
    """
    with_pair = [index for index, row in enumerate(rows) if "text_pair" in row]
    if not with_pair:
        return None
    if len(with_pair) < len(rows):
        without = next(index for index, row in enumerate(rows) if "text_pair" not in row)
        raise DataError(
            f"row {with_pair[0] + 1} has a 'text_pair', but row {without + 1} has none. Expected it in all rows or "
            "in none."
        )
    return [row["text_pair"] for row in rows]


def check_is_fast(tokenizer: Any, kind: str) -> None:
    """Check that a tokenizer can say which characters and words its tokens come from.

    Raises:
        ConfigError: it cannot.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"the tokenizer is a {type(tokenizer).__name__} without a fast version, but {kind} needs one to align "
            "tokens with text. Use a backbone with a tokenizer.json."
        )
