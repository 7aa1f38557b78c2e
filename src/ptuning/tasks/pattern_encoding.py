"""Texts in a pattern to token ids. Only texts are ever cut: words, masks and virtual tokens of the pattern stay.

For a backbone that fills blanks by pieces (`backbones/pieces.py`) what is asked for stands behind the text:

    masks    [CLS] words and texts [MASK] … [SEP]
    pieces   [CLS] words and texts [MASK] … <eos> <|startofpiece|> answer
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptuning.backbones.pieces import PieceTokens, piece_tokens
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.encoding import check_is_fast, far_from_marked, pieces
from ptuning.tasks.patterns import Part

Texts = dict[str, list[int]]
"""Role -> token ids."""

Shorten = Callable[[int, Texts, int], Texts]
"""(index, texts that are too long together, tokens there is room for) -> what stays of them. Whole texts are not among
them."""


def encode_in_pattern(
    tokenizer: Any,
    parts: Sequence[Part],
    texts: Mapping[str, Sequence[str]],
    max_length: int,
    shorten: Shorten,
    *,
    num_masks: int = 1,
    answers: Sequence[Sequence[int]] | None = None,
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Puts texts into a pattern.

    Each part is tokenized by itself, with the space in front where it has one. Special tokens are those that the
    tokenizer puts around a single text. A mask token that stands in a text is read as an unknown token, so that no
    answer is asked for there; so are the tokens of pieces.

    Args:
        tokenizer: a transformers tokenizer.
        parts: of the pattern.
        texts: role -> text of each sequence, for each role that the pattern has.
        max_length: real tokens a sequence at most; special tokens, masks and pieces are counted, virtual tokens not.
        shorten: what is called where texts are longer than there is room for.
        num_masks: masks at `{mask}`.
        answers: for a backbone that fills blanks by pieces, tokens of what fills the one of each sequence, none where
            it is only asked for; they follow the start of a piece. None where nothing stands behind the text.

    Returns:
        Token ids of each sequence, negative ones for virtual tokens; and token types, or None where the tokenizer has
        none.

    Raises:
        ConfigError: `max_length` leaves no room for a token of each text, or the pattern needs a mask and the tokenizer
            has none.
        DataError: an answer and texts that are never cut leave no room for the others.
    """
    frame = _make_frame(tokenizer, parts, num_masks, has_piece=answers is not None)
    room = max_length - frame.num_fixed
    cut = [part.value for part in parts if part.kind == "text" and not part.is_whole]
    if room < len(texts):
        raise ConfigError(
            f"max_length is {max_length}, but special tokens and the words and masks of the pattern "
            f"are {frame.num_fixed} tokens, so at least {frame.num_fixed + len(texts)} are needed. Raise "
            "data.max_length, or shorten data.pattern."
        )
    ids: list[list[int]] = []
    known: dict[int, int] = {}  # each number is one object, which is a third of the memory
    text_parts = {part.value: part for part in parts if part.kind == "text"}
    count = len(next(iter(texts.values())))
    for start, some in pieces(range(count)):
        own = {
            role: text_ids(
                tokenizer, [text_parts[role].shown(all_texts[i]) for i in some], is_spaced=text_parts[role].is_spaced
            )
            for role, all_texts in texts.items()
        }
        for place in range(len(some)):
            one = {role: frame.without_special(every[place]) for role, every in own.items()}
            answer = [] if answers is None else frame.without_special(answers[start + place])
            left = room - len(answer) - sum(len(one[role]) for role in one if role not in cut)
            if left < len(cut):
                raise _no_room(start + place, max_length, left, frame, len(cut))
            may_go = {role: one[role] for role in one if role in cut}
            if sum(map(len, may_go.values())) > left:
                one |= shorten(start + place, may_go, left)
            ids.append([known.setdefault(number, number) for number in frame.filled(one, answer)])
    return ids, frame.token_types(ids)


def _no_room(index: int, max_length: int, left: int, frame: _Frame, num_cut: int) -> DataError:
    needed = max_length - left + num_cut
    return DataError(
        f"sequence {index + 1}: words of the pattern and special tokens ({frame.num_fixed}), and what is never cut, "
        f"leave room for {max(left, 0)} tokens of its text in max_length {max_length}, expected at least {num_cut}. "
        f"Raise data.max_length to {needed} or more, or shorten the row."
    )


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


def answer_ids(tokenizer: Any, parts: Sequence[Part], answers: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of answers, as the tokenizer writes them where the mask stands.

    Args:
        tokenizer: a transformers tokenizer.
        parts: of a pattern with a mask.
        answers: texts.

    Raises:
        DataError: an answer has no token.
    """
    mask = next(part for part in parts if part.kind == "mask")
    found = [own for _, some in pieces(answers) for own in text_ids(tokenizer, some, is_spaced=mask.is_spaced)]
    for answer, ids in zip(answers, found, strict=True):
        if not ids:
            raise DataError(
                f"the answer {answer!r} is no token to the tokenizer, expected at least one. Correct or remove its row."
            )
    return found


def required_pieces(tokenizer: Any, what: str) -> PieceTokens:
    """Returns the tokens of pieces.

    Args:
        tokenizer: of the backbone.
        what: needs them, for the message: the beginning of a sentence.

    Raises:
        ConfigError: the tokenizer has none.
    """
    tokens = piece_tokens(tokenizer)
    if tokens is None:
        raise ConfigError(
            f"{what}, which a backbone has to fill into a blank as texts of any length. Only GLM does, but the "
            f"tokenizer is a {type(tokenizer).__name__} without <|startofpiece|>. Use a GLM, or a pattern with "
            "{choice} and head.words for right and wrong, or set head.kind to linear."
        )
    return tokens


def with_space(text: str, *, is_spaced: bool) -> str:
    """Returns a text with a space in front where one is due: byte-level tokenizers count it to the first word."""
    return f" {text}" if is_spaced and text and not text[:1].isspace() else text


def cut_longer_side(parts: Sequence[Part], texts: Texts, room: int) -> Texts:
    """Cuts texts as GLM's own code does: a token at a time, from the end of the last text of the longer side.

    Of equally long sides the second one is cut. A side is what stands in front of, or behind, the pattern's `{/}`;
    without it all texts are on the first.

    Args:
        parts: of the pattern.
        texts: those of its texts that may be cut.
        room: tokens that may stay.

    Source: THUDM/GLM `tasks/superglue/pvp.py` (`PVP.truncate`).
    """
    kinds = [part.kind for part in parts]
    middle = kinds.index("side") if "side" in kinds else len(parts)
    sides = [
        [part.value for part in some if part.kind == "text" and part.value in texts]
        for some in (parts[:middle], parts[middle:])
    ]
    lengths = [sum(len(texts[role]) for role in side) for side in sides]
    excess = sum(lengths) - room
    longer = int(lengths[1] >= lengths[0])
    from_longer = min(excess, abs(lengths[0] - lengths[1]))
    rest = excess - from_longer
    gone = [rest // 2, rest - rest // 2]  # in turns, the second side first
    gone[longer] += from_longer
    left = dict(texts)
    for side, count in zip(sides, gone, strict=True):
        for role in reversed(side):
            stays = max(len(left[role]) - count, 0)
            count -= len(left[role]) - stays
            left[role] = left[role][:stays]
    return left


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
    text_parts = {part.value: part for part in parts if part.kind == "text"}
    offsets: list[tuple[int, int]] = []
    marks: list[tuple[Sequence[int], Sequence[Sequence[int]]]] = []
    starts: dict[str, int] = {}
    for role, marked in (("text", "keep"), ("text_pair", "keep_pair")):
        if role not in texts:
            continue
        bare = text_parts[role].shown(row[role])
        text = with_space(bare, is_spaced=text_parts[role].is_spaced)
        shift = len(text) - len(bare)
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
    special: Collection[int]
    instead: int | None

    @property
    def num_fixed(self) -> int:
        """Real tokens that every sequence has."""
        own = sum(number >= 0 for piece in self.between if not isinstance(piece, str) for number in piece)
        return len(self.before) + own + len(self.after)

    def without_special(self, ids: Sequence[int]) -> list[int]:
        if self.instead is None or not self.special or not any(number in self.special for number in ids):
            return list(ids)
        return [self.instead if number in self.special else number for number in ids]

    def filled(self, texts: Texts, answer: Sequence[int]) -> list[int]:
        ids = list(self.before)
        for piece in self.between:
            ids += texts[piece] if isinstance(piece, str) else piece
        return [*ids, *self.after, *answer]

    def token_types(self, sequences: Sequence[list[int]]) -> list[list[int]] | None:
        if self.types is None:
            return None
        before, own, after = self.types
        return [[*before, *[own] * (len(ids) - len(self.before) - len(self.after)), *after] for ids in sequences]


def _make_frame(tokenizer: Any, parts: Sequence[Part], num_masks: int, *, has_piece: bool) -> _Frame:
    """Tokenizes a pattern, as far as it is the same for all rows."""
    mask = tokenizer.mask_token_id if any(part.kind == "mask" for part in parts) else None
    if mask is None and any(part.kind == "mask" for part in parts):
        raise ConfigError(
            f"data.pattern has a {{mask}}, but the tokenizer ({type(tokenizer).__name__}) has no mask token. Use a "
            "backbone that was pretrained with masks, or a pattern and a head without."
        )
    own: set[int] = set() if mask is None else {mask}
    tokens = required_pieces(tokenizer, "the head asks for pieces") if has_piece else None
    if tokens is not None:
        own |= tokens.ids
    between: list[list[int] | str] = []
    num_virtual = 0
    for part in parts:
        if part.kind == "text":
            between.append(part.value)
        elif part.kind == "mask" and mask is not None:
            between.append([mask] * (1 if has_piece else num_masks))
        elif part.kind == "prompt":
            between.append([-(num_virtual + k + 1) for k in range(part.count)])
            num_virtual += part.count
        elif part.kind == "words":
            words = text_ids(tokenizer, [part.value], is_spaced=part.is_spaced)[0]
            if found := [number for number in words if number in own]:
                raise ConfigError(
                    f"data.pattern has the words {part.value!r}, in which the tokenizer finds its own token "
                    f"{tokenizer.convert_ids_to_tokens(found[0])}, and would ask there. Write {{mask}} where the mask "
                    "is, and leave tokens of pieces out: they are added."
                )
            between.append(words)
    probe = tokenizer("a", return_special_tokens_mask=True, return_attention_mask=False, verbose=False)
    ids, special = probe["input_ids"], probe["special_tokens_mask"]
    types = probe.get("token_type_ids")
    first, end = special.index(0), len(special) - special[::-1].index(0)
    unknown = tokenizer.unk_token_id
    after = list(ids[end:])
    if tokens is not None:
        after.append(tokens.start)
    return _Frame(
        before=list(ids[:first]),
        between=between,
        after=after,
        types=None if types is None else (list(types[:first]), int(types[first]), list(types[end:])),
        special=own,
        instead=tokenizer.pad_token_id if unknown is None else unknown,  # byte-level tokenizers may know every text
    )
