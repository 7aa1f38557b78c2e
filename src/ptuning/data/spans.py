"""BIO tags: the spans they spell, and what makes a sequence of them valid.

A tag is `O`, `B-TYPE` (a span of this type begins) or `I-TYPE` (it goes on). In BIO, also called IOB2, every span
begins with `B-`. In the older IOB1 a span begins with `I-`, and `B-` only parts it from a neighbour of the same type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def is_bio_tag(tag: str) -> bool:
    """Tell whether `tag` is `O`, `B-TYPE` or `I-TYPE`."""
    return tag == "O" or (len(tag) > 2 and tag[:2] in ("B-", "I-"))


def bio_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the spans that BIO tags spell, in order.

    An `I-X` that follows neither `B-X` nor `I-X` begins a span too: predicted tags are not always valid, and the
    words they mark are still worth showing. (The score, `metrics.entity_f1`, is strict and does not count those.)

    Args:
        tags: one tag a word.

    Returns:
        (type, first word, word after the last) of every span; words are counted from 0.
    """
    spans: list[tuple[str, int, int]] = []
    kind, start = "", 0
    for position, tag in enumerate([*tags, "O"]):
        if kind and tag != f"I-{kind}":
            spans.append((kind, start, position))
            kind = ""
        if tag != "O" and not kind:
            kind, start = tag[2:], position
    return spans


def first_invalid_tag(tags: Sequence[str]) -> int | None:
    """Return the position of the first `I-X` that follows neither `B-X` nor `I-X`, or None when there is none."""
    previous = "O"
    for position, tag in enumerate(tags):
        if tag.startswith("I-") and previous[1:] != tag[1:]:
            return position
        previous = tag
    return None


def is_consistently_iob1(sentences: Iterable[Sequence[str]]) -> bool:
    """Tell whether every `B-X` parts two spans of type X, as in IOB1 and never by chance in a BIO file of some size."""
    for tags in sentences:
        previous = "O"
        for tag in tags:
            if tag.startswith("B-") and previous[1:] != tag[1:]:
                return False
            previous = tag
    return True


def iob1_to_bio(tags: Sequence[str]) -> list[str]:
    """Return the same spans in BIO: the first word of every span gets `B-`."""
    converted, previous = [], "O"
    for tag in tags:
        begins = tag.startswith("I-") and previous[1:] != tag[1:]
        converted.append(f"B-{tag[2:]}" if begins else tag)
        previous = tag
    return converted
