"""The processes of one run, as a launcher starts them: `torchrun --nproc_per_node 2 -m ptuning train ...`.

Each has the whole run before it, takes the same steps and computes a part of every batch. What they exchange is the sum
of gradients (of prompts and head: a few megabytes), logits of validation rows, and decisions, which are those of
process 0. It alone writes the run's directory and speaks. accelerate joins them, on GPUs by NCCL, else by gloo.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from ptuning import launch
from ptuning.errors import ConfigError, LostProcessError

T = TypeVar("T")

JOINING = timedelta(minutes=10)
"""How long a process waits for the others to begin: they start together, perhaps on machines that do not."""

PATIENCE = timedelta(hours=2)
"""How long a process waits for one that is alive: process 0 may read, score or write something large meanwhile."""

_BUCKET = 1 << 24  # numbers that are summed at once


@dataclass(frozen=True)
class Processes:
    """This process among those of its run; alone, all of this is nothing.

    Attributes:
        accelerator: runs the backward and clips gradients.
        index: of this one, from 0.
        count: of all.
    """

    accelerator: Accelerator
    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this one writes and speaks."""
        return self.index == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Puts into tensors, which have the same shapes everywhere, their sums over all processes."""
        if self.count == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._contact():
                distributed.all_reduce(flat)
            for tensor, total in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def copy_main(self, tensors: Sequence[Tensor]) -> None:
        """Puts the values that process 0 has into tensors."""
        if self.count == 1:
            return
        for tensor in tensors:
            with self._contact():
                distributed.broadcast(tensor.detach(), src=0)

    def from_main(self, value: T) -> T:
        """Returns what process 0 calls this with."""
        if self.count == 1:
            return value
        values = [value]
        with self._contact():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Returns what each process calls this with, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._contact():
            distributed.all_gather_object(values, value)
        return values

    def gather_to_main(self, value: T) -> list[T] | None:
        """Returns what each process calls this with, in their order, to process 0; None to the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        with self._contact():
            distributed.gather_object(value, values, dst=0)
        return values

    def wait(self) -> None:
        """Returns when all are here."""
        self.gather(None)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Process 0 runs a block before the others begin with it; where it fails, they do not begin.

        Raises:
            LostProcessError: it failed.
        """
        if self.count == 1:
            yield
        elif self.is_main:
            try:
                yield
            except BaseException as error:
                with suppress(LostProcessError):  # the error at hand says more
                    self.from_main(str(error) or type(error).__name__)
                raise
            self.from_main(None)
        else:
            failure: str | None = self.from_main(None)
            if failure is not None:
                raise LostProcessError(
                    f"process {self.index} of {self.count} ends with process 0, expected it to go on, but it says: "
                    f"{failure}"
                )
            yield

    def require_same(self, what: Mapping[str, str]) -> None:
        """Makes sure that all processes have equal values.

        Args:
            what: is compared, and its value in words, or a digest of it.

        Raises:
            ConfigError: another process has others.
        """
        for index, others in enumerate(self.gather(dict(what))):
            differing = [name for name in {**what, **others} if others.get(name) != what.get(name)]
            if differing:
                raise ConfigError(
                    f"process {index} of {self.count} has another {' and another '.join(differing)} than process "
                    f"{self.index}, expected the same for all. Give all machines the same files and settings."
                )

    @contextmanager
    def ending_in_words(self) -> Iterator[None]:
        """Inside a block, the signal by which a launcher ends the other processes of a run is an error that says so.

        After an error the signal is not heard any more, so that this process comes to say what happened: launchers
        send one that nobody can ignore half a minute later.
        """
        if self.count == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(*_: object) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise self._lost("it was told to end, as a launcher does when another process of a run has ended")

        before = signal.signal(signal.SIGTERM, end)
        try:
            yield
        except BaseException:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise
        signal.signal(signal.SIGTERM, before)

    def lost(self, error: BaseException) -> LostProcessError | None:
        """What an error of an exchange comes to; None for other errors.

        Layers of a sharded backbone exchange their weights by themselves, so it can come from anywhere in a model.
        """
        said = str(error)
        is_exchange = isinstance(error, distributed.DistError) or "gloo" in said or "NCCL" in said
        if self.count == 1 or isinstance(error, LostProcessError) or not is_exchange:
            return None
        first = re.sub(r"^\[[^\]]*\]\s*", "", said.strip().splitlines()[0])  # without the source's line
        reason = first.partition(". ")[0].rstrip(".")  # what follows is advice on another use
        return self._lost(f"an exchange with the others failed: {reason}")

    def _lost(self, how: str) -> LostProcessError:
        return LostProcessError(
            f"process {self.index} of {self.count} lost another one of the run ({how}), expected all of them until the "
            "end. What that one says is the reason; one that says nothing was killed, by hand or by a machine that ran "
            "out of memory. Start the same command again with --resume, with as many processes or with another number."
        )

    @contextmanager
    def _contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            lost = self.lost(error)
            if lost is None:
                raise
            raise lost from error


def start_processes(device: str | None = None) -> Processes:
    """Joins the processes that a launcher has started, each with a GPU of its own where there are GPUs.

    Args:
        device: `training.device`.

    Raises:
        ConfigError: there are several, and the device is not one that each has for itself; or the others do not come.
    """
    count = launch.num_processes()
    if count == 1:
        return Processes(Accelerator(mixed_precision="no"))  # the precision is that of the backbone's weights
    is_cpu = device == "cpu" or (device is None and not torch.accelerator.is_available())
    if not is_cpu:
        _check_gpus(device, count)
    if not distributed.is_available():
        raise ConfigError(
            f"the run was started as {count} processes, which this build of torch cannot join. Start it without a "
            "launcher, or install a build with torch.distributed."
        )
    launch.require_address()
    try:
        store, index, count = next(rendezvous("env://", timeout=JOINING))
    except distributed.DistError as error:
        raise ConfigError(
            f"process {launch.process_index()} of {count} did not find the others at {launch.address()} within "
            f"{JOINING}, expected all to start together. {launch.ADVICE}"
        ) from error
    PartialState(cpu=is_cpu, timeout=PATIENCE, store=store, rank=index, world_size=count)
    accelerator = Accelerator(cpu=is_cpu, mixed_precision="no")
    return Processes(accelerator, accelerator.process_index, accelerator.num_processes)


def end_processes() -> None:
    """Parts from the other processes, where there are any, at the end of a program."""
    if distributed.is_available() and distributed.is_initialized():
        PartialState().destroy_process_group()


def _check_gpus(device: str | None, count: int) -> None:
    if device not in (None, "cuda") or not torch.cuda.is_available():
        shown = "the best there is" if device is None else repr(device)
        raise ConfigError(
            f"training.device is {shown}, but the run was started as {count} processes, expected cpu, or cuda with a "
            "GPU for each process. Set training.device to cpu, or start it without a launcher."
        )
    here, gpus = launch.local_index(), torch.cuda.device_count()
    if here >= gpus:
        raise ConfigError(
            f"this is process {here + 1} of its machine, which has {gpus} GPUs, expected a GPU for each. Start as many "
            "processes as there are GPUs (torchrun --nproc_per_node), or set training.device to cpu."
        )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype that are exchanged together, in an order that is the same everywhere."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = by_dtype.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(member.numel() for member in bucket) >= _BUCKET:
            yield by_dtype.pop(tensor.dtype)
    yield from by_dtype.values()
