"""What `ptuning info --plan` predicts, against what training takes.

    OMP_NUM_THREADS=1 python benchmarks/plan_check.py
    python benchmarks/plan_check.py --only fp32-8x64,bf16-32x256
    python benchmarks/plan_check.py --backbone roberta-large --device cuda

Each case is a process of its own that trains a few steps with `ptuning.train`, on rows that fill `data.max_length`,
and evaluates once. Measured: on a CPU the highest resident memory (VmHWM of Linux) less what was resident after a
training of something tiny, which has imported and made all that libraries need; on a GPU the most that torch gave out.
Predicted: `peak_bytes` of the plan, made in another process. Seconds are the median of the steps after the first,
against the plan's with the rate that it measured.

The last line is one JSON object. `ratio` is predicted over measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_SIZES = [(8, 64), (8, 256), (32, 64), (32, 256)]
CASES: dict[str, dict[str, Any]] = {
    f"{precision}-{batch_size}x{length}": {
        "training.precision": precision,
        "training.batch_size": batch_size,
        "data.max_length": length,
    }
    for precision in ("fp32", "bf16")
    for batch_size, length in _SIZES
}
_LARGEST = CASES["fp32-32x256"]
CASES |= {
    "no-dropout": {**_LARGEST, "training.backbone_dropout": "off", "prompts.layers": "all"},
    "last-2": {**_LARGEST, "prompts.layers": "last:2", "training.trunk_reuse": "off"},
    "last-2-trunk-reused": {**_LARGEST, "prompts.layers": "last:2"},
    "first-token": {**_LARGEST, "head.pooling": "cls"},
    "checkpointing": {**_LARGEST, "training.gradient_checkpointing": True},
    "128-virtual-tokens": {**_LARGEST, "prompts.prompt_length": 128},
    "mlp": {**_LARGEST, "prompts.reparameterization": "mlp"},
    "prompt-tuning": {**_LARGEST, "method": "prompt-tuning"},
    "lora": {**_LARGEST, "method": "lora"},
    "bitfit": {**_LARGEST, "method": "bitfit"},
    "fine-tuning": {**_LARGEST, "method": "fine-tuning"},
    "fine-tuning-bf16": {**_LARGEST, "method": "fine-tuning", "training.precision": "bf16"},
}
_STEPS = 3
_VALIDATION_ROWS = 64


def main() -> None:
    arguments = _arguments()
    if arguments.run is not None:
        print(json.dumps(_measure(json.loads(arguments.run))))
        return
    chosen = arguments.only.split(",") if arguments.only else list(CASES)
    results: dict[str, dict[str, float]] = {}
    print(f"{'case':<24}{'predicted MB':>14}{'measured MB':>13}{'ratio':>8}{'predicted s':>13}{'measured s':>12}")
    with tempfile.TemporaryDirectory() as directory:
        data = _write_rows(Path(directory))
        for name in chosen:
            settings = {
                **CASES[name],
                "task": "classification",
                "data.path": str(data),
                "backbone": arguments.backbone,
                "training.device": arguments.device,
                "training.max_steps": _STEPS,
                "training.epochs": 2,
                "output": str(Path(directory) / name),
            }
            done = subprocess.run(
                [sys.executable, __file__, "--run", json.dumps(settings)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            measured = json.loads(done.stdout.splitlines()[-1])
            planned = _plan(settings)
            result = {
                "predicted_bytes": planned["peak_bytes"],
                "measured_bytes": measured["bytes"],
                "ratio": round(planned["peak_bytes"] / measured["bytes"], 3),
                "predicted_seconds": planned["seconds_per_step"],
                "measured_seconds": measured["seconds"],
                "libraries_bytes": measured["libraries_bytes"],
                "loading_bytes": measured["loading_bytes"],
            }
            results[name] = result
            print(
                f"{name:<24}{result['predicted_bytes'] / 1e6:>14.0f}{result['measured_bytes'] / 1e6:>13.0f}"
                f"{result['ratio']:>8.2f}{result['predicted_seconds']:>13.2f}{result['measured_seconds']:>12.2f}",
                flush=True,
            )
    print(json.dumps({"benchmark": "plan_check", "backbone": arguments.backbone, "cases": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="minilm", help="a name that ptuning.load_backbone takes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="names of cases, with commas between")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write_rows(directory: Path) -> Path:
    """Rows longer than any length here, of few words, so that all are cut to it."""
    draw, words = random.Random(0), "lamp box kettle parcel desk shoe cable door late broken lost nice".split()
    data = directory / "data"
    data.mkdir()
    for split, count in (("train", 32 * _STEPS), ("validation", _VALIDATION_ROWS)):
        rows = [{"text": " ".join(draw.choices(words, k=520)), "label": draw.choice("ab")} for _ in range(count)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return data


def _plan(settings: dict[str, Any]) -> dict[str, Any]:
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    done = subprocess.run(
        [sys.executable, "-c", "from ptuning.cli import main; main()", "info", "--plan", "--json", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the plan failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _measure(settings: dict[str, Any]) -> dict[str, float]:
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from ptuning.config import load_config
    from ptuning.training.run import load_backbone_of, train

    _train_something_small(settings)
    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    is_gpu = settings["training.device"].startswith("cuda")
    config = load_config(None, settings)
    libraries = 0 if is_gpu else _resident("VmRSS")
    if not is_gpu:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
    # a run that loads its own backbone fine-tunes it without a copy, so that loading belongs to it
    backbone = None if config.method == "fine-tuning" else load_backbone_of(config)
    loading = 0 if is_gpu else _resident("VmHWM") - libraries
    if not is_gpu:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    train(config, backbone=backbone)
    highest = torch.cuda.max_memory_allocated() if is_gpu else _resident("VmHWM")
    steps = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    return {
        "bytes": highest - libraries,
        "libraries_bytes": libraries,
        "loading_bytes": loading,
        "seconds": statistics.median(steps),
    }


def _train_something_small(settings: dict[str, Any]) -> None:
    """All libraries are imported and all kernels made that a training uses, which is no memory of the one measured."""
    from transformers import AutoConfig, AutoModel

    from ptuning.backbones.loading import load_backbone
    from ptuning.config import load_config
    from ptuning.training.run import train

    with tempfile.TemporaryDirectory() as directory:
        whole = load_backbone(settings["backbone"])
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
        config = AutoConfig.for_model(**{**whole.model.config.to_dict(), **sizes})
        AutoModel.from_config(config).save_pretrained(directory)
        whole.tokenizer.save_pretrained(directory)
        del whole
        small = {
            "backbone": directory,
            "training.batch_size": 1,
            "data.max_train_rows": 3,
            "data.max_validation_rows": 2,
            "data.max_length": 8,
            "prompts.layers": "all",
            "output": f"{directory}/run",
        }
        train(load_config(None, {**settings, **small}))
    gc.collect()


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


if __name__ == "__main__":
    main()
