"""Patterns such as `{text} Question: {text_pair} True or false? {mask}`: what texts are put into for a model.

    {text} {text_pair}   the texts of a row; of choices {text} and {choice}
    {text|bare}          without the punctuation at its end
    {text|whole}         never cut where a row is too long
    {mask}               where label words are asked for: as many masks as the longest label has tokens
    {prompt} {prompt:3}  virtual tokens, as negative token ids: virtual token k, from 0, is -(k + 1)
    {/}                  where the second side begins, for backbones that cut the longer side first (GLM)

Everything else are words that stay as they are (the anchor tokens of P-Tuning). How a pattern is filled in is in
`pattern_encoding.py`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ptuning.errors import ConfigError

_PLACE = re.compile(r"\{([^{}]*)\}")
_PROMPT = re.compile(r"prompt(?::(\d+))?")
_SIDE = "/"
_HOW = frozenset({"bare", "whole"})


@dataclass(frozen=True)
class Part:
    """A piece of a pattern.

    Attributes:
        kind: words of the pattern, a text of the row, the masks, virtual tokens, or the beginning of the second side.
        value: the words; or the role of the text.
        count: of virtual tokens, how many.
        is_spaced: whether a space stands between it and what is in front, virtual tokens not counted.
        is_bare: of a text, whether the punctuation at its end is left out.
        is_whole: of a text, whether it is never cut.
    """

    kind: Literal["words", "text", "mask", "prompt", "side"]
    value: str = ""
    count: int = 0
    is_spaced: bool = False
    is_bare: bool = False
    is_whole: bool = False

    def shown(self, text: str) -> str:
        """A text of a row as it stands here; one that is nothing but punctuation stays as it is."""
        bare = text.rstrip().rstrip(string.punctuation).rstrip() if self.is_bare else text
        return bare or text


def parse_pattern(pattern: str, roles: Sequence[str], needed: Sequence[str]) -> tuple[Part, ...]:
    """Returns the parts of a resolved pattern, in order.

    Args:
        pattern: in which every place of virtual tokens has its number.
        roles: texts that a row may have, such as `text` and `text_pair`.
        needed: those that the pattern has to show.

    Raises:
        ConfigError: a brace is open or has no partner, a place is unknown or there twice, a needed one is missing, or a
            place of virtual tokens has no number.
    """
    known = ", ".join(f"{{{name}}}" for name in (*roles, "mask", "prompt"))
    parts: list[Part] = []
    is_spaced = False
    for number, piece in enumerate(_PLACE.split(pattern)):
        if number % 2 == 0:  # between places
            if "{" in piece or "}" in piece:
                raise ConfigError(
                    f"data.pattern is {pattern!r}, in which a brace has no partner. Expected {known}; braces stand "
                    "around these alone. Correct it."
                )
            words = " ".join(piece.split())
            if words:
                is_spaced |= piece[0].isspace()
                parts.append(Part("words", words, is_spaced=is_spaced and _has_begun(parts)))
                is_spaced = piece[-1].isspace()
            else:
                is_spaced |= bool(piece)
            continue
        prompt = _PROMPT.fullmatch(piece)
        if prompt is not None:
            if not int(prompt[1] or 0):
                raise ConfigError(
                    f"data.pattern is {pattern!r}, in which {{{piece}}} has no virtual tokens. Expected their number, "
                    "as in {prompt:3}; `resolve_pattern` puts it in."
                )
            parts.append(Part("prompt", count=int(prompt[1])))
            continue
        if piece == _SIDE:
            parts.append(Part("side"))
            continue
        name, *how = piece.split("|")
        is_mask = piece == "mask"
        if not is_mask and (name not in roles or not _HOW.issuperset(how)):
            raise ConfigError(
                f"data.pattern is {pattern!r}, in which {{{piece}}} is unknown. Expected {known}"
                + (f", of a text also {{{name}|bare}} and {{{name}|whole}}" if name in roles else "")
                + "; correct it."
            )
        parts.append(
            Part(
                "mask" if is_mask else "text",
                "" if is_mask else name,
                is_spaced=is_spaced and _has_begun(parts),
                is_bare="bare" in how,
                is_whole="whole" in how,
            )
        )
        is_spaced = False
    _check_places(pattern, parts, needed)
    return tuple(parts)


def _has_begun(parts: Sequence[Part]) -> bool:
    """Whether there is something for a space to stand behind."""
    return any(part.kind not in ("prompt", "side") for part in parts)


def _check_places(pattern: str, parts: Sequence[Part], needed: Sequence[str]) -> None:
    names = {"mask": "mask", "side": _SIDE}
    places = [names.get(part.kind, part.value) for part in parts if part.kind in ("text", "mask", "side")]
    for name in (*needed, *places):
        count = places.count(name)
        if count != 1:
            raise ConfigError(
                f"data.pattern is {pattern!r}, which has {{{name}}} {count} times, expected once. "
                f"{'Put it in' if not count else 'Leave the others out'}."
            )


def resolve_pattern(pattern: str, prompt_length: int) -> str:
    """Returns the pattern with a number at each place of virtual tokens.

    Args:
        pattern: with places {prompt}, which share the virtual tokens evenly (the first have one more where they do not
            divide), and {prompt:K}, which has K of them. All of them stand in front where it has no place.
        prompt_length: virtual tokens of the whole pattern. With 0 of them the places are left out.

    Raises:
        ConfigError: there are more places than virtual tokens, or the numbers are not `prompt_length` together.
    """
    pattern = " ".join(pattern.split())
    given = [found for found in map(_PROMPT.fullmatch, _PLACE.findall(pattern)) if found is not None]
    if not prompt_length:
        return " ".join(_PLACE.sub(lambda place: "" if _PROMPT.fullmatch(place[1]) else place[0], pattern).split())
    if not given:
        return f"{{prompt:{prompt_length}}}{pattern}"
    fixed = sum(int(found[1] or 0) for found in given)
    num_shared = sum(found[1] is None for found in given)
    rest = prompt_length - fixed
    if rest < num_shared or (rest and not num_shared):
        sharing = f" and {num_shared} places {{prompt}}, which need one each" if num_shared else ""
        raise ConfigError(
            f"data.pattern is {pattern!r}, with {fixed} virtual tokens at places {{prompt:K}}{sharing}, but "
            f"prompts.prompt_length is {prompt_length}. Correct the numbers, or set prompts.prompt_length to "
            f"{fixed + num_shared}{' or more' if num_shared else ''}."
        )
    each, more = divmod(rest, num_shared) if num_shared else (0, 0)
    sizes = iter([each + (order < more) for order in range(num_shared)])

    def numbered(place: re.Match[str]) -> str:
        return f"{{prompt:{next(sizes)}}}" if place[1] == "prompt" else place[0]

    return _PLACE.sub(numbered, pattern)


def check_mask(parts: Sequence[Part] | None, what: str) -> None:
    """Check that there is a mask, where something is asked for.

    Args:
        parts: of the pattern.
        what: asks, for the message: the beginning of a sentence.

    Raises:
        ConfigError: there is none.
    """
    if any(part.kind == "mask" for part in parts or ()):
        return
    missing = "there is no pattern" if parts is None else "the pattern has no {mask}"
    raise ConfigError(
        f"{what}, but {missing}, where they are asked for. Set data.pattern to one with {{mask}}, such as "
        "`{text} It was {mask}.`, or head.kind to linear."
    )


def check_words(parts: Sequence[Part] | None, words: Sequence[str] | None, labels: Sequence[str]) -> None:
    """Check that there are words for all labels, and a mask that they stand at.

    Raises:
        ConfigError: there are not.
    """
    if words is None:
        return
    check_mask(parts, f"label words are {', '.join(words)}")
    if len(words) != len(labels) or not all(isinstance(own, str) and own.strip() for own in words):
        raise ConfigError(
            f"label words are {', '.join(map(repr, words))}, expected some for each of {', '.join(labels)}. "
            "Correct head.words."
        )


def word_ids(tokenizer: Any, parts: Sequence[Part], words: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each label's words, as the tokenizer writes them where the mask stands.

    Args:
        tokenizer: a transformers tokenizer.
        parts: of a pattern with a mask.
        words: of each label.
        labels: their names, for messages.

    Raises:
        ConfigError: the tokenizer does not know a word, or two labels have the same tokens.
    """
    mask = next(part for part in parts if part.kind == "mask")
    spaced = [f" {own}" if mask.is_spaced else own for own in words]
    found: list[list[int]] = [
        list(tokenizer(own, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
        for own in spaced
    ]
    for number, (label, own, ids) in enumerate(zip(labels, words, found, strict=True)):
        if not ids or tokenizer.unk_token_id in ids:
            tokens = ", ".join(map(str, tokenizer.convert_ids_to_tokens(ids))) or "no token"
            raise ConfigError(
                f"the word of the label {label!r} is {own!r}, which is {tokens} to the tokenizer, expected words that "
                "it knows. Give another in head.words."
            )
        if ids in found[:number]:
            raise ConfigError(
                f"the labels {labels[found.index(ids)]!r} and {label!r} have the words {words[found.index(ids)]!r} and "
                f"{own!r}, which are the same tokens. Expected different ones; correct head.words."
            )
    return found


def answers_in_pieces(words: Sequence[Sequence[int]]) -> list[list[int]]:
    """What fills the blank of a row's sequences, where a backbone fills blanks by pieces.

    Args:
        words: token ids of each label's words.

    Returns:
        One empty answer where all words are one token, which are then asked for at the start of the piece; else those
        of each label, each in a sequence of its own.
    """
    return [[]] if all(len(ids) == 1 for ids in words) else [list(ids) for ids in words]
