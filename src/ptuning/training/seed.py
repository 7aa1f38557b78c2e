"""Everything random, set from one seed and kept in checkpoints."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ptuning.launch import num_processes


def seed_everything(seed: int) -> None:
    """Seeds Python's and torch's generators on all devices."""
    random.seed(seed)
    torch.manual_seed(seed)


def generator_for(what: str, seed: int) -> torch.Generator:
    """Returns a source of random numbers that depends on a seed and a name alone, not on what was drawn before.

    Args:
        what: that it is for, such as `head`; another name gives other numbers.
        seed: of the run.
    """
    own_seed = int.from_bytes(hashlib.sha256(f"{what} {seed}".encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(own_seed)


def seed_process(seed: int, index: int) -> None:
    """Gives a process of a run random numbers of its own; process 0 keeps those that a run of one process has."""
    if index:
        seed_everything(random.Random(f"process {seed} {index}").getrandbits(63))


def random_state() -> dict[str, torch.Tensor]:
    """Returns the state of torch's generators, as tensors that safetensors can hold.

    One of several processes has a GPU of its own, which is number 0 here; it leaves those of the others alone.
    """
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states = [torch.cuda.get_rng_state()] if num_processes() > 1 else torch.cuda.get_rng_state_all()
        state |= {f"cuda.{i}": state_ for i, state_ in enumerate(states)}
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned, as far as the devices are here."""
    torch.set_rng_state(state["cpu"])
    cuda = [state[f"cuda.{i}"] for i in range(sum(name.startswith("cuda.") for name in state))]
    if cuda and torch.cuda.is_available():
        if num_processes() > 1:
            torch.cuda.set_rng_state(cuda[0])
        else:
            torch.cuda.set_rng_state_all(cuda)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Puts the state of Python's and torch's generators back afterwards."""
    before, of_python = random_state(), random.getstate()
    try:
        yield
    finally:
        restore_random_state(before)
        random.setstate(of_python)
