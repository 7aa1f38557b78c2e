from __future__ import annotations

import gc

import pytest

from ptuning.allocation import imports_for_good, without_collection


def test_collection_pauses_and_goes_on_as_it_was() -> None:
    assert gc.isenabled()
    with without_collection():
        assert not gc.isenabled()
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="inside"), without_collection():
        raise ValueError("inside")
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_imported_is_not_looked_at_again() -> None:
    try:
        before = gc.get_freeze_count()
        with imports_for_good():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]  # type: list[list[int]]
        assert gc.isenabled() and gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()
