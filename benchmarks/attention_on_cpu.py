"""Attention with virtual tokens on a CPU: torch's fused kernel against the same in steps, forward and backward.

    python benchmarks/attention_on_cpu.py
    python benchmarks/attention_on_cpu.py --head-dim 64 --threads 1

Both sides get the same query, keys, values and mask (one key in ten is padding), and must agree before they are timed.
Batches have about 2,048 tokens whatever their length. Unit: milliseconds for one layer, medians over `--repeats` after
two uncounted ones, in turns. The ratio is fused over steps: above 1, steps are faster. `in steps` says what
`ptuning.backbones.dot_product` chooses. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ptuning.backbones.dot_product import attention_in_steps, is_faster_in_steps

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    results = []
    print(f"{'dtype':<7}{'batch':>6}{'tokens':>8}{'fused ms':>10}{'steps ms':>10}{'ratio':>8}  in steps")
    for name, dtype in DTYPES.items():
        for seq_len in arguments.lengths:
            result = _compare(dtype, seq_len, arguments)
            results.append({"dtype": name, **result})
            print(
                f"{name:<7}{result['batch_size']:>6}{seq_len:>8}{result['fused_ms']:>10.1f}{result['steps_ms']:>10.1f}"
                f"{result['ratio']:>8.2f}  {'yes' if result['in_steps'] else 'no'}"
            )
    print(json.dumps({"benchmark": "attention_on_cpu", **vars(arguments), "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--tokens", type=int, default=2048, help="of a batch")
    parser.add_argument("--num-heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--prompt-length", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def _compare(dtype: torch.dtype, seq_len: int, arguments: argparse.Namespace) -> dict[str, float | int | bool]:
    batch_size, num_keys = max(1, arguments.tokens // seq_len), seq_len + arguments.prompt_length
    heads, head_dim = arguments.num_heads, arguments.head_dim
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> Tensor:
        drawn = torch.randn(batch_size, heads, length, head_dim, generator=generator)
        return drawn.to(dtype).requires_grad_()

    query, key, value = draw(seq_len), draw(num_keys), draw(num_keys)
    towards = torch.randn(query.shape, generator=generator).to(dtype)
    visible = torch.rand(batch_size, 1, 1, num_keys, generator=generator) > 0.1
    visible[..., 0] = True
    mask = visible.expand(-1, -1, seq_len, -1)
    bias = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    scale = head_dim**-0.5

    def fused() -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    def steps() -> Tensor:
        return attention_in_steps(query, key, value, bias, scale=scale, dropout=0.0)[0]

    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    if not torch.allclose(fused().float(), steps().float(), rtol=tolerance, atol=tolerance):
        raise SystemExit("the sides differ: nothing to compare")
    times: dict[str, list[float]] = {"fused": [], "steps": []}
    for repeat in range(arguments.repeats + 2):
        for name, forward in (("fused", fused), ("steps", steps)):
            seconds = _timed(forward, towards)
            if repeat >= 2:
                times[name].append(1000 * seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "batch_size": batch_size,
        "seq_len": seq_len,
        "fused_ms": round(medians["fused"], 3),
        "steps_ms": round(medians["steps"], 3),
        "ratio": round(medians["fused"] / medians["steps"], 3),
        "in_steps": is_faster_in_steps(query, key),
    }


def _timed(forward: Callable[[], Tensor], towards: Tensor) -> float:
    started = time.perf_counter()
    forward().backward(towards)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
