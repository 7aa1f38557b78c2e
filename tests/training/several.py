"""Makes runs of several processes, joined as a launcher joins them. A script of its own: forking wants one thread.

    python several.py PLAN.json      # [{"name": ..., "work": "train", "count": 2, ...}, ...]

Each process of an entry leaves NAME-INDEX.json beside the plan: what its work returned, or the error. Prints for each
entry how its processes ended, as a JSON object of lists: 0, 1, or minus the signal.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import peft  # noqa: F401  (what runs import when they first need it is imported once)
import seqeval.metrics  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch
import torch.distributed.fsdp
from torch import Tensor, distributed

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from conftest import _build, _ragged_batch  # noqa: E402  (found on the path above)
from killed import arrange  # noqa: E402

import ptuning  # noqa: E402
from ptuning.backbones.families import find_family, find_trunk  # noqa: E402
from ptuning.backbones.identity import fingerprint  # noqa: E402
from ptuning.backbones.loading import Backbone  # noqa: E402
from ptuning.backbones.recomputation import start_recomputing  # noqa: E402
from ptuning.backbones.sharding import is_sharded, shard_backbone  # noqa: E402
from ptuning.config import load_config  # noqa: E402
from ptuning.errors import PtuningError  # noqa: E402
from ptuning.training import execution, processes, run  # noqa: E402

_SECONDS = 60.0  # for an entry; a process that waits for nobody fails the test


def train(entry: dict[str, Any], index: int) -> dict[str, Any]:
    """A run; in float64 where the entry says `double`."""
    config = load_config(None, {**entry["overrides"], **(entry.get("second", {}) if index == 1 else {})})
    if entry.get("double"):
        assemble, run.find_dtype = execution.assemble_model, lambda *_: torch.float64  # type: ignore[assignment]
        execution.assemble_model = lambda *a, **k: assemble(*a, **k).double()  # type: ignore[assignment]
    if entry.get("dies") == index:
        arrange(entry["moment"], Path(config.output))
    result = run.train(config, resume=entry.get("resume", False))
    return {"metrics": result.metrics, "steps": result.steps, "best_epoch": result.best_epoch}


def shard(entry: dict[str, Any], index: int) -> dict[str, Any]:
    """Outputs and gradients of prompts on sharded backbones, against whole ones, for rows of each process."""
    processes.start_processes("cpu")
    found = {}
    for name in entry["models"]:
        kind, _, recomputed = name.partition(" ")
        for dtype in (torch.float32, torch.float64) if name == "bert" else (torch.float64,):
            whole = _passed(kind, dtype, index, sharded=False, recomputed=bool(recomputed))
            divided = _passed(kind, dtype, index, sharded=True, recomputed=bool(recomputed))
            found[f"{name} {dtype}"] = {
                "output": (whole["output"] - divided["output"]).abs().max().item(),
                "again": (whole["again"] - divided["again"]).abs().max().item(),
                "gradient": (whole["gradient"] - divided["gradient"]).abs().max().item(),
                "largest": whole["gradient"].abs().max().item(),
                "kept": divided["kept"] / whole["kept"],
                "is_same": whole["fingerprint"] == divided["fingerprint"],
            }
    return found


def _passed(kind: str, dtype: torch.dtype, index: int, *, sharded: bool, recomputed: bool) -> dict[str, Any]:
    model: Any = _build(kind, dtype=dtype)
    batch = _ragged_batch(model.config, (9, 6, 3), seed=index)
    before = fingerprint(find_trunk(model)[0])
    backbone = Backbone(model, find_family(model.config), kind, kind, None)
    description = backbone.description
    if sharded:
        shard_backbone(backbone, torch.device("cpu"))
        model = backbone.model
    assert is_sharded(model) is sharded
    shape = (description.num_layers, 2, description.num_kv_heads, 4, description.head_dim)
    generator = torch.Generator().manual_seed(index)
    prompts = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    attached = ptuning.attach(model, prompts)
    if recomputed:
        start_recomputing(model)
        model.train()
    output: Tensor = model(**batch)[0]
    (output * torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)).sum().backward()
    gradient = prompts.grad
    with torch.no_grad():
        again: Tensor = model.eval()(**batch)[0]  # as in validation between two steps
    assert gradient is not None
    attached.detach()
    after = fingerprint(find_trunk(model)[0])
    return {
        "output": output.detach(),
        "again": again,
        "gradient": gradient,
        "kept": _kept(model),
        "fingerprint": before if before == after else None,
    }


def _kept(model: Any) -> int:
    """Numbers of the layers' weights that this process holds."""
    layers = [p for name, p in model.named_parameters() if "layer" in name]
    return sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in layers)


WORK = {"train": train, "shard": shard}


def _work(entry: dict[str, Any], index: int, port: int, path: Path) -> int:
    count = entry["count"]
    if count > 1:
        where = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({name: str(value) for name, value in where.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    try:
        found = {"result": WORK[entry["work"]](entry, index)}
    except PtuningError as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    path.write_text(json.dumps(found))
    if "result" in found and distributed.is_initialized():
        processes.end_processes()
    return 0 if "result" in found else 1


def main() -> None:
    torch.set_num_threads(1)
    plan = json.loads(Path(sys.argv[1]).read_text())
    ended = {}
    for entry in plan:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for index in range(entry["count"]):
            child = os.fork()
            if child == 0:
                status = 3
                try:
                    status = _work(entry, index, port, Path(sys.argv[1]).with_name(f"{entry['name']}-{index}.json"))
                except BaseException:
                    traceback.print_exc()  # an error that is not ours
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        ended[entry["name"]] = _wait(children)
    print(json.dumps(ended))


def _wait(children: list[int]) -> list[int]:
    """How processes ended; those that take too long are killed."""
    until, statuses = time.monotonic() + _SECONDS, dict.fromkeys(children, None)
    while None in statuses.values():
        for child in [child for child, status in statuses.items() if status is None]:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                statuses[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                os.kill(child, 9)
        time.sleep(0.02)
    return list(statuses.values())


if __name__ == "__main__":
    main()
