"""Other libraries' progress bars and advice, kept out of what a command prints."""

from __future__ import annotations

import logging
import sys


def quiet_libraries() -> None:
    """Turns off transformers' and datasets' progress bars and notes; our own warnings go to stderr."""
    import datasets
    from transformers.utils import logging as transformers_logging

    for turn_off in (transformers_logging.disable_progress_bar, transformers_logging.set_verbosity_error):
        turn_off()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    own = logging.getLogger("ptuning")
    own.handlers = [handler]
    own.propagate = False
