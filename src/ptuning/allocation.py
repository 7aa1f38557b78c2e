"""Many objects made at once, without looking for garbage among them.

Python looks for reference cycles each time some hundred more objects live, and now and then among all that there are.
Where a hundred thousand are made that all stay (the imports of torch and transformers, the rows of a data set, their
tokens) it finds nothing and takes a good part of the time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Pauses the search for cycles, in the whole process; what is not in a cycle is freed as ever."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def imports_for_good() -> Iterator[None]:
    """For the imports of a command: cycles are not looked for, and never among what lives at its end."""
    with without_collection():
        yield
        gc.freeze()
