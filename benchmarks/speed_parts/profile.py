"""Where the time of a step goes, by kind of operation."""

from __future__ import annotations

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from speed_parts.sides import Inputs, Side

_KINDS = {
    "products of the layers": ("aten::addmm", "aten::mm", "mkldnn::_linear_pointwise"),
    "attention: products": ("aten::bmm", "aten::baddbmm"),
    "attention: softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "attention: fused": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        "aten::_scaled_dot_product_attention_math",
    ),
    "activation": ("aten::gelu", "aten::gelu_backward"),
    "norms": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "random numbers": ("aten::bernoulli_", "aten::random_"),
}


def profile_step(side: Side, inputs: Inputs, labels: Tensor, *, steps: int = 5) -> dict[str, float]:
    """Runs steps under torch's profiler, on a CPU.

    Returns:
        Kind of operation -> share of all operations' own time. `other` is what is left: sums, copies, masks, autograd.
    """
    side.step(inputs, labels)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            side.step(inputs, labels)
    own = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    total = sum(own.values())
    shares = {kind: sum(own.get(name, 0.0) for name in names) / total for kind, names in _KINDS.items()}
    found = {kind: round(share, 4) for kind, share in shares.items() if share}
    return {**found, "other": round(1.0 - sum(shares.values()), 4)}
