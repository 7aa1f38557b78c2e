"""How many batches of an epoch come from each data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Sampling = Literal["proportional", "uniform", "temperature"]


def batches_per_epoch(sizes: Sequence[int], sampling: Sampling, temperature: float) -> list[int]:
    """Divides an epoch among data sets. It has as many batches as all data sets together, whatever the sampling.

    Args:
        sizes: batches that each data set has, all at least 1.
        sampling: `proportional` to sizes, `uniform`, or `temperature`: to sizes to the power of 1 / temperature.
        temperature: at least 1; 1 is proportional, and the larger it is the closer to uniform.

    Returns:
        For each data set how many batches of an epoch it has, at least 1.
    """
    exponent = {"proportional": 1.0, "uniform": 0.0, "temperature": 1.0 / temperature}[sampling]
    weights = [size**exponent for size in sizes]
    shares = [sum(sizes) * weight / sum(weights) for weight in weights]
    counts = [max(1, int(share)) for share in shares]
    # What rounding down has left over goes where most was cut off; what raising to 1 took too much, comes back from
    # where most is.
    by_rest = sorted(range(len(sizes)), key=lambda i: (int(shares[i]) - shares[i], i))
    for index in by_rest[: max(0, sum(sizes) - sum(counts))]:
        counts[index] += 1
    while sum(counts) > sum(sizes):
        counts[max(range(len(sizes)), key=lambda i: counts[i])] -= 1
    return counts
