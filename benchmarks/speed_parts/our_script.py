"""Our training, as `ptuning train` runs it, one step a turn; or predictions, one pass a turn.

    python -m speed_parts.our_script settings.json

Run by `speed.py`, never by hand. Settings: `config` (what `ptuning.load_config` takes as overrides), `mode` (`train`,
`predict`), `device`, `threads`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import ptuning
from ptuning.training.reporting import EpochReport, Silent
from speed_parts.turns import Turns


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    turns = Turns(settings["device"])
    torch.set_num_threads(settings["threads"])
    config = ptuning.load_config(None, settings["config"])
    if settings["mode"] == "predict":
        _predict(config, turns)
    turns.hold_steps()
    ptuning.train(config, report=_Evaluations(turns))
    turns.say("end")


def _predict(config: ptuning.RunConfig, turns: Turns) -> None:
    """The validation rows through a model that has not learned: what it says makes no difference to the time."""
    from ptuning.inference import run_examples
    from ptuning.training.assembly import assemble_model
    from ptuning.training.run import load_backbone_of, prepare_task, resolve_config

    backbone = load_backbone_of(config)
    prepared = prepare_task(config, backbone)
    config = resolve_config(config, prepared, backbone, Path(str(config.output)))
    model = assemble_model(config, backbone, prepared.kind, prepared.train)
    while True:
        run_examples(model, prepared.validation, backbone.tokenizer)
        turns.end_turn("predicted")


class _Evaluations(Silent):
    """Tells of each evaluation, whose time does not count: it comes between two steps."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def evaluated(self, evaluation: EpochReport, metric: str) -> None:
        self._turns.say("evaluated", score=evaluation.metrics[metric], epoch=evaluation.epoch)
        self._turns.restart()


if __name__ == "__main__":
    main()
