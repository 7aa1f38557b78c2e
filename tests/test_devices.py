from __future__ import annotations

import pytest
import torch

from ptuning.devices import find_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(("avx512", "amx"), [(True, False), (False, True), (False, False)])
def test_a_cpu_stores_in_bf16_where_it_has_instructions_for_it(
    avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert find_dtype("auto", CPU) == (torch.bfloat16 if avx512 or amx else torch.float32)
    assert find_dtype("fp32", CPU) == torch.float32
    assert find_dtype("bf16", CPU) == torch.bfloat16
    assert find_dtype("auto", torch.device("mps")) == torch.float32
