"""The largest batch that fits into a memory."""

from __future__ import annotations

from collections.abc import Callable

_MOST_TRIES = 8


def largest_that_fits(peak_of: Callable[[int], int], room: int, *, start: int) -> int:
    """Returns the most examples whose step stays within a memory.

    What a step holds grows by about the same with every example, so a few tries are enough.

    Args:
        peak_of: examples at once -> the most bytes that are held.
        room: bytes that there are.
        start: examples to begin with, at least 1.

    Returns:
        0 where a single example does not fit.
    """
    fits, too_many = 0, None
    examples, before = start, None
    for _ in range(_MOST_TRIES):
        peak = peak_of(examples)
        if peak <= room:
            fits = max(fits, examples)
        else:
            too_many = examples if too_many is None else min(too_many, examples)
        if too_many is not None and too_many - fits <= 1:
            return fits
        reached = (examples, peak)
        if before is None or before[0] == examples:
            guess = 4 * examples if peak <= room else max(1, examples // 4)
        else:
            each = max((peak - before[1]) / (examples - before[0]), 1.0)
            guess = examples + int((room - peak) // each)
        before = reached
        lowest, highest = fits + 1, guess if too_many is None else too_many - 1
        examples = max(lowest, min(guess, highest))
    return fits
