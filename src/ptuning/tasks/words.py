"""Raw text to words, with the characters where each one stands."""

from __future__ import annotations

import re
import unicodedata

_WORD_OR_MARK = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of every word and every other visible character, in characters of `text`.

    Letters and digits are words, also with an apostrophe or a hyphen between them (`don't`, `A-1024`); every other
    character but white space is one of its own. What cannot stand alone (accents, vowel signs, joiners, variation
    selectors) stays with the word or character before it, and letters behind it with their word.
    """
    spans: list[tuple[int, int]] = []
    is_open = False  # whether the last word ends in such a mark, so that letters go on with it
    for match in _WORD_OR_MARK.finditer(text):
        start, end = match.span()
        touches = bool(spans) and spans[-1][1] == start
        is_mark = unicodedata.category(text[start])[0] == "M" or text[start] in "\u200c\u200d"
        if touches and (is_mark or (is_open and text[start].isalnum())):
            spans[-1] = (spans[-1][0], end)
            is_open = is_mark and (is_open or text[start - 1].isalnum())
        else:
            spans.append((start, end))
            is_open = False
    return spans
