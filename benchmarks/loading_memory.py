"""Memory while a backbone is loaded, against what its weights take.

    python benchmarks/loading_memory.py
    python benchmarks/loading_memory.py --megabytes 1000

A random BERT of `--megabytes` in float32 (half of it in bfloat16) is written to a temporary directory. Each case loads
it in a process of its own, takes its fingerprint, and runs two tokens through it, so that every weight is read.

Units: MB. `stored` is what parameters and buffers take in the end. `copies` is the most that the process had of its own
(anonymous resident memory) over what it had before: weights that are stored as they are in the file stay views of it
and do not count, all else does. `resident` is the peak of all resident memory over what was there before; pages of the
file count in it, which the system takes back when it needs room. A tiny checkpoint is loaded first, so that the code
that comes with it does not count. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from large_parts.building import STORAGES, stored_bytes
from large_parts.measuring import resident_bytes
from speed_parts.machine import describe_machine
from transformers import BertConfig, BertModel

from ptuning import load_backbone

CASES = ("fp32:fp32", "bf16:bf16", "fp32:bf16", "fp32:int8", "fp32:nf4", "bf16:nf4")
"""What the file has, and what is asked for."""

_LAYER_MB = 50.4  # of BERT-large's sizes, in float32


def main() -> None:
    arguments = _arguments()
    if arguments.measure is not None:
        print(json.dumps(_measure(arguments.measure, arguments.storage)))
        return
    results = []
    with tempfile.TemporaryDirectory() as top:
        num_layers = max(1, round(arguments.megabytes / _LAYER_MB))
        for name in sorted({case.partition(":")[0] for case in arguments.cases}):
            _write(Path(top, name), STORAGES[name][0], num_layers)
            _write(Path(top, name, "tiny"), STORAGES[name][0], 1, hidden_size=32, intermediate_size=32)
        for kept, _, asked in (case.partition(":") for case in arguments.cases):
            done = subprocess.run(
                [sys.executable, __file__, "--measure", str(Path(top, kept)), "--storage", asked],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            results.append({"file": kept, "storage": asked, **json.loads(done.stdout.splitlines()[-1])})
    print(f"{'file':<6}{'storage':<9}{'stored':>9}{'copies':>9}{'resident':>10}{'copies/stored':>15}")
    for one in results:
        ratio = one["copies_mb"] / one["stored_mb"]
        print(
            f"{one['file']:<6}{one['storage']:<9}{one['stored_mb']:>9.1f}{one['copies_mb']:>9.1f}"
            f"{one['resident_mb']:>10.1f}{ratio:>15.2f}"
        )
    print(json.dumps({"benchmark": "loading_memory", "machine": describe_machine("cpu", 1), "results": results}))


def _write(directory: Path, dtype: torch.dtype, num_layers: int, **sizes: int) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, **sizes}
    config = BertConfig(vocab_size=1000, num_hidden_layers=num_layers, num_attention_heads=16, **sizes)
    BertModel(config).to(dtype).save_pretrained(directory)


def _measure(directory: Path, storage: str) -> dict[str, Any]:
    dtype, quantization = STORAGES[storage]
    _load(directory / "tiny", dtype, quantization)
    before, all_before = resident_bytes("RssAnon") or 0, resident_bytes() or 0
    peak = {"own": before, "all": all_before}
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.is_set():
            peak["own"] = max(peak["own"], resident_bytes("RssAnon") or 0)
            peak["all"] = max(peak["all"], resident_bytes() or 0)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = _load(directory, dtype, quantization)
    is_done.set()
    watcher.join()
    return {
        "stored_mb": round(stored_bytes(model) / 1e6, 1),
        "copies_mb": round((peak["own"] - before) / 1e6, 1),
        "resident_mb": round((peak["all"] - all_before) / 1e6, 1),
    }


def _load(directory: Path, dtype: torch.dtype, quantization: Any) -> Any:
    backbone = load_backbone(directory, dtype=dtype, quantization=quantization)
    assert len(backbone.identity.fingerprint) == 64
    with torch.no_grad():
        backbone.model(torch.tensor([[5, 6]]))
    return backbone.model


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES), help="FILE:STORAGE")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--storage", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
