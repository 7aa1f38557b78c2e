"""Query, key and value of a frozen layer as three products, or as one with their weights on top of each other.

    python benchmarks/fused_products_on_cpu.py
    OMP_NUM_THREADS=1 python benchmarks/fused_products_on_cpu.py --hidden-size 1024

Forward and the gradient of the input, with weights laid out once (`backbones/packed_weights.py`), as in training. Three
products have their gradients added up; one has them side by side first. Both must agree, then they take turns; medians.
The ratio is three over one: above 1, one product is faster. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import Tensor, nn

from ptuning.backbones.packed_weights import PackedWeights, can_pack_weights


def main() -> None:
    arguments = _arguments()
    size: int = arguments.hidden_size
    results = []
    print(f"{'storage':<10}{'tokens':>8}{'three ms':>11}{'one ms':>9}{'ratio':>8}")
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        three, one = _layers(size, dtype)
        for tokens in arguments.tokens:
            inputs = torch.randn(tokens, size, dtype=dtype, requires_grad=True)
            gradients = [torch.randn(tokens, size, dtype=dtype) for _ in range(3)]
            tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
            torch.testing.assert_close(
                _gradient(three, inputs, gradients), _gradient(one, inputs, gradients), rtol=tolerance, atol=tolerance
            )
            apart, together = [], []
            for _ in range(arguments.repeats + 2):
                apart.append(_seconds(three, inputs, gradients))
                together.append(_seconds(one, inputs, gradients))
            first, second = 1000 * statistics.median(apart[2:]), 1000 * statistics.median(together[2:])
            results.append({"dtype": name, "tokens": tokens, "three_ms": first, "one_ms": second})
            print(f"{name:<10}{tokens:>8}{first:>11.2f}{second:>9.2f}{first / second:>8.2f}")
    print(json.dumps({"benchmark": "fused_products_on_cpu", **vars(arguments), "results": results}))


def _layers(size: int, dtype: torch.dtype) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Three layers, and one that computes the same."""
    three = nn.ModuleList(nn.Linear(size, size) for _ in range(3))
    one = nn.ModuleList([nn.Linear(size, 3 * size)])
    with torch.no_grad():
        for name, parameter in one[0].named_parameters():
            parameter.copy_(torch.cat([layer.get_parameter(name) for layer in three]))
    for layers in (three, one):
        layers.to(dtype).requires_grad_(False)
        if can_pack_weights(layers):
            PackedWeights(layers)
    return three, one


def _gradient(layers: nn.ModuleList, inputs: Tensor, gradients: list[Tensor]) -> Tensor:
    """Of `inputs`, by way of the outputs, of which attention reads parts of the last axis."""
    outputs = [part for layer in layers for part in layer(inputs).split(inputs.shape[-1], dim=-1)]
    return torch.autograd.grad(outputs, inputs, gradients)[0]


def _seconds(layers: nn.ModuleList, inputs: Tensor, gradients: list[Tensor]) -> float:
    started = time.perf_counter()
    _gradient(layers, inputs, gradients)
    return time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--repeats", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
