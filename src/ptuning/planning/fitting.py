"""The largest batch that fits into a memory.

What a step holds is, at each of its moments, so much and so much more for every example; its peak is the largest of
these. So it grows by more and more, never by less: a line through two tries lies below it further on, and above it
between them.
"""

from __future__ import annotations

from collections.abc import Callable

_MOST_TRIES = 8
_FURTHER = 4  # examples for a second try


def largest_that_fits(peak_of: Callable[[int], int], room: int, *, start: int) -> int:
    """Returns the most examples whose step stays within a memory; it was tried that so many do.

    Args:
        peak_of: examples at once -> the most bytes that are held.
        room: bytes that there are.
        start: examples to try besides a single one, at least 1.

    Returns:
        0 where a single example does not fit.
    """
    tried: dict[int, int] = {}
    examples, fits = 1, 0
    for _ in range(_MOST_TRIES):
        tried[examples] = peak_of(examples)
        fits = max((number for number, peak in tried.items() if peak <= room), default=0)
        if fits == 0:
            return 0
        below = max((number for number in tried if number < fits), default=None)
        above = min((number for number in tried if number > fits), default=None)
        most = None if below is None else _reached(tried, below, fits, room)
        if most == fits or above == fits + 1:
            return fits
        if above is not None:  # between the two tries the line is too high, so what it says does fit
            examples = max(fits + 1, min(_reached(tried, fits, above, room), above - 1))
        elif most is not None:
            examples = most
        else:
            examples = start if start > 1 else _FURTHER
    return fits


def _reached(tried: dict[int, int], fewer: int, more: int, room: int) -> int:
    """How many examples fill the room by the line through two tries."""
    slope = max((tried[more] - tried[fewer]) / (more - fewer), 1.0)
    at = fewer if tried[more] > room else more
    return at + int((room - tried[at]) / slope)
