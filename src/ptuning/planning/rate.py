"""The rate at which a device computes matrix products, measured on the shapes that a backbone has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch.nn import functional


def matrix_rate(
    shapes: Iterable[tuple[int, int]],
    positions: Iterable[int],
    dtype: torch.dtype,
    device: str,
    *,
    trials: int = 20,
    seconds: float | None = None,
) -> float:
    """Returns the best rate over some products, in operations a second, a multiplication and an addition being two.

    Args:
        shapes: (out_features, in_features) that are tried, forward and backward to the input.
        positions: numbers of rows that the other factor has, as batches have them.
        dtype: of both factors.
        device: where.
        trials: products of each shape; the fastest counts.
        seconds: stop when so much time has passed and one shape was tried, if only once.
    """
    best = 0.0
    started = time.perf_counter()
    until = None if seconds is None else started + seconds
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for rows in sorted(set(positions)):
            for out_features, in_features in shapes:
                if best and until is not None and time.perf_counter() > until:
                    return best
                weight = torch.randn(out_features, in_features, generator=generator).to(device, dtype)
                value = torch.randn(rows, in_features, generator=generator).to(device, dtype)
                gradient = torch.randn(rows, out_features, generator=generator).to(device, dtype)
                operations = 2 * rows * out_features * in_features
                for fastest in (
                    _fastest(lambda v=value, w=weight: functional.linear(v, w), device, trials, until),  # type: ignore[misc]
                    _fastest(lambda g=gradient, w=weight: g @ w, device, trials, until),  # type: ignore[misc]
                ):
                    best = max(best, operations / fastest)
    return best


def _fastest(product: Callable[[], object], device: str, trials: int, until: float | None) -> float:
    calls = 10 if device.startswith("cuda") else 1  # a launch costs as much as a small product
    times: list[float] = []
    for _ in range(trials + 2):
        _wait(device)
        started = time.perf_counter()
        for _ in range(calls):
            product()
        _wait(device)
        times.append((time.perf_counter() - started) / calls)
        if len(times) > 1 and until is not None and time.perf_counter() > until:
            break
    return min(times[2:] or times[1:])


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
