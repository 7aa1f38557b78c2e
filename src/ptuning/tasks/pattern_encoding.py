"""Texts in a pattern to token ids. Only texts are ever cut: words, masks and virtual tokens of the pattern stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptuning.errors import ConfigError
from ptuning.tasks.encoding import check_is_fast, far_from_marked, pieces
from ptuning.tasks.patterns import Part

Texts = dict[str, list[int]]
"""Role -> token ids."""

Shorten = Callable[[int, Texts, int], Texts]
"""(index, texts that are too long together, tokens there is room for) -> what stays of them."""


def encode_in_pattern(
    tokenizer: Any,
    parts: Sequence[Part],
    texts: Mapping[str, Sequence[str]],
    max_length: int,
    shorten: Shorten,
    *,
    num_masks: int = 1,
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Puts texts into a pattern.

    Each part is tokenized by itself, with the space in front where it has one. Special tokens are those that the
    tokenizer puts around a single text. A mask token that stands in a text is read as an unknown token, so that no
    answer is asked for there.

    Args:
        tokenizer: a transformers tokenizer.
        parts: of the pattern.
        texts: role -> text of each sequence, for each role that the pattern has.
        max_length: tokens a sequence at most; special tokens, masks and virtual tokens are counted.
        shorten: what is called where texts are longer than there is room for.
        num_masks: masks at `{mask}`.

    Returns:
        Token ids of each sequence, negative ones for virtual tokens; and token types, or None where the tokenizer has
        none.

    Raises:
        ConfigError: `max_length` leaves no room for a token of each text, or the pattern needs a mask and the tokenizer
            has none.
    """
    frame = _make_frame(tokenizer, parts, num_masks)
    room = max_length - frame.num_fixed
    if room < len(texts):
        raise ConfigError(
            f"max_length is {max_length}, but special tokens and the words, masks and virtual tokens of the pattern "
            f"are {frame.num_fixed} tokens, so at least {frame.num_fixed + len(texts)} are needed. Raise "
            "data.max_length, or shorten data.pattern."
        )
    ids: list[list[int]] = []
    known: dict[int, int] = {}  # each number is one object, which is a third of the memory
    spaced = {part.value: part.is_spaced for part in parts if part.kind == "text"}
    count = len(next(iter(texts.values())))
    for start, some in pieces(range(count)):
        own = {
            role: text_ids(tokenizer, [all_texts[index] for index in some], is_spaced=spaced[role])
            for role, all_texts in texts.items()
        }
        for place in range(len(some)):
            one = {role: frame.without_masks(every[place]) for role, every in own.items()}
            if sum(map(len, one.values())) > room:
                one = shorten(start + place, one, room)
            ids.append([known.setdefault(number, number) for number in frame.filled(one)])
    return ids, frame.token_types(ids)


def text_ids(tokenizer: Any, texts: Sequence[str], *, is_spaced: bool) -> list[list[int]]:
    """Returns the token ids of texts, as they are behind a space or at a beginning."""
    found: list[list[int]] = tokenizer(
        [with_space(text, is_spaced=is_spaced) for text in texts],
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
    return found


def with_space(text: str, *, is_spaced: bool) -> str:
    """Returns a text with a space in front where one is due: byte-level tokenizers count it to the first word."""
    return f" {text}" if is_spaced and not text[:1].isspace() else text


def cut_longest_first(texts: Texts, room: int) -> Texts:
    """Cuts the ends of texts, of the longest first, of equally long ones the last."""
    lengths = [len(ids) for ids in texts.values()]
    while (excess := sum(lengths) - room) > 0:
        longest = max(lengths)
        places = [place for place, length in enumerate(lengths) if length == longest]
        step = longest - max((length for length in lengths if length < longest), default=0)
        each, more = divmod(min(excess, step * len(places)), len(places))
        for order, place in enumerate(reversed(places)):
            lengths[place] -= each + (order < more)
    return {role: ids[:length] for (role, ids), length in zip(texts.items(), lengths, strict=True)}


def keep_marked(
    tokenizer: Any,
    parts: Sequence[Part],
    row: Mapping[str, Any],
    texts: Texts,
    room: int,
    max_length: int,
    *,
    number: int,
) -> Texts:
    """Cuts what is far from the characters that a row marks with `keep` and `keep_pair`, as `cut_around` does.

    Args:
        tokenizer: a transformers tokenizer.
        parts: of the pattern.
        row: with `text`, perhaps `text_pair`, and `keep`.
        texts: its tokens.
        room: tokens of them that may stay.
        max_length: tokens of the whole sequence.
        number: of the row, from 1, for messages.

    Raises:
        ConfigError: the tokenizer cannot say which characters its tokens come from.
        DataError: what is marked does not fit.
    """
    check_is_fast(tokenizer, "cutting texts around what `keep` marks")
    spaced = {part.value: part.is_spaced for part in parts if part.kind == "text"}
    offsets: list[tuple[int, int]] = []
    marks: list[tuple[Sequence[int], Sequence[Sequence[int]]]] = []
    starts: dict[str, int] = {}
    for role, marked in (("text", "keep"), ("text_pair", "keep_pair")):
        if role not in texts:
            continue
        text = with_space(row[role], is_spaced=spaced[role])
        shift = len(text) - len(row[role])
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts[role] = len(offsets)
        offsets += [(start - shift, end - shift) for start, end in encoded["offset_mapping"]]
        if row.get(marked):
            marks.append((range(starts[role], len(offsets)), row[marked]))
    gone = far_from_marked(offsets, marks, len(offsets) + max_length - room, max_length, number=number)
    return {
        role: [own for place, own in enumerate(ids, starts[role]) if place not in gone] for role, ids in texts.items()
    }


@dataclass(frozen=True)
class _Frame:
    """What stands around the texts of every sequence."""

    before: list[int]
    between: list[list[int] | str]
    after: list[int]
    types: tuple[list[int], int, list[int]] | None
    mask: int | None
    instead: int | None

    @property
    def num_fixed(self) -> int:
        own = sum(len(piece) for piece in self.between if not isinstance(piece, str))
        return len(self.before) + own + len(self.after)

    def without_masks(self, ids: list[int]) -> list[int]:
        if self.mask is None or self.mask not in ids:
            return ids
        return [self.instead if number == self.mask and self.instead is not None else number for number in ids]

    def filled(self, texts: Texts) -> list[int]:
        ids = list(self.before)
        for piece in self.between:
            ids += texts[piece] if isinstance(piece, str) else piece
        return ids + self.after

    def token_types(self, sequences: Sequence[list[int]]) -> list[list[int]] | None:
        if self.types is None:
            return None
        before, own, after = self.types
        return [[*before, *[own] * (len(ids) - len(self.before) - len(self.after)), *after] for ids in sequences]


def _make_frame(tokenizer: Any, parts: Sequence[Part], num_masks: int) -> _Frame:
    """Tokenizes a pattern, as far as it is the same for all rows."""
    mask = tokenizer.mask_token_id if any(part.kind == "mask" for part in parts) else None
    if mask is None and any(part.kind == "mask" for part in parts):
        raise ConfigError(
            f"data.pattern has a {{mask}}, but the tokenizer ({type(tokenizer).__name__}) has no mask token. Use a "
            "backbone that was pretrained with masks, or a pattern and a head without."
        )
    between: list[list[int] | str] = []
    num_virtual = 0
    for part in parts:
        if part.kind == "text":
            between.append(part.value)
        elif part.kind == "mask" and mask is not None:
            between.append([mask] * num_masks)
        elif part.kind == "prompt":
            between.append([-(num_virtual + k + 1) for k in range(part.count)])
            num_virtual += part.count
        else:
            words = text_ids(tokenizer, [part.value], is_spaced=part.is_spaced)[0]
            if mask is not None and mask in words:
                raise ConfigError(
                    f"data.pattern has the words {part.value!r}, in which the tokenizer finds its own mask token. "
                    "Write {mask} instead."
                )
            between.append(words)
    probe = tokenizer("a", return_special_tokens_mask=True, return_attention_mask=False, verbose=False)
    ids, types, special = probe["input_ids"], probe.get("token_type_ids"), probe["special_tokens_mask"]
    first, end = special.index(0), len(special) - special[::-1].index(0)
    unknown = tokenizer.unk_token_id
    return _Frame(
        before=list(ids[:first]),
        between=between,
        after=list(ids[end:]),
        types=None if types is None else (list(types[:first]), int(types[first]), list(types[end:])),
        mask=mask,
        instead=tokenizer.pad_token_id if unknown is None else unknown,  # byte-level tokenizers may know every text
    )
