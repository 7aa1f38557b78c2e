"""One population, in a process of its own.

    python -m speed_parts.population_script job.json

Run by `speed.py`, never by hand. The job has `config` (what `ptuning.load_config` takes as overrides), `rates`,
`halving` and `device`; what came of it is written beside it as `job.result`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ptuning
from ptuning.training.population import train_population
from speed_parts.turns import peak_bytes


def main() -> None:
    path = Path(sys.argv[1])
    job = json.loads(path.read_text(encoding="utf-8"))
    config = ptuning.load_config(None, job["config"])
    candidates = [{"training.learning_rate": rate} for rate in job["rates"]]
    result = train_population(config, candidates, halving=job["halving"])
    summary = {
        "scores": [round(candidate.score or 0.0, 4) for candidate in result.candidates],
        "epochs_of_candidates": [candidate.epochs for candidate in result.candidates],
        "best": result.best,
        "peak_mb": round(peak_bytes(job["device"]) / 1e6, 1),
    }
    path.with_suffix(".result").write_text(json.dumps(summary), encoding="utf-8")


if __name__ == "__main__":
    main()
