"""Other libraries' progress bars and advice, kept out of what a command prints."""

from __future__ import annotations

import logging
import os
import sys

from ptuning.launch import process_index


def quiet_libraries() -> None:
    """Turns off the progress bars and notes of transformers, datasets and the hub; our own warnings go to stderr.

    Of several processes, all of which have the same to warn of, one does.
    """
    import huggingface_hub
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    _quiet_datasets()
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels for inference that are not used here
    handler = logging.StreamHandler(sys.stderr) if process_index() == 0 else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    own = logging.getLogger("ptuning")
    own.handlers = [handler]
    own.propagate = False


def _quiet_datasets() -> None:
    """Most commands never need `datasets`, and it takes half a second to import: it reads these variables then."""
    if "datasets" not in sys.modules:
        os.environ.setdefault("DATASETS_VERBOSITY", "error")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        return
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
