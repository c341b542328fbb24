"""Ranks: the processes that torchrun starts, how they join each other, and what they agree on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import TypeVar

from wbdc.core.errors import EnvironmentFault, IntegrityFault, Stopped, WbdcError, error_class
from wbdc.core.files import explain_os_error

_Result = TypeVar("_Result")
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them
# one rank may write files for hours while the others wait; a rank that dies is noticed at once
WAIT_TIMEOUT = timedelta(days=7)
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # of tensors between ranks that compute


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; (0, 1) outside torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_ranks(backend: str = "gloo", timeout: timedelta = COLLECTIVE_TIMEOUT) -> ModuleType:
    """Connect this process with the other ranks and return `torch.distributed`, ready for use.

    A second call does nothing: a second connection would find the addresses of the first.
    """
    import torch.distributed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend, timeout=timeout)
    return torch.distributed


def leave_ranks() -> None:
    """Close the connections with the other ranks, if there are any."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training. Every method must be called by all of them, in the same order.

    rank: of this process, from 0. size: their number. control: the process group of their
    agreements, on the CPU, so that these never wait for a GPU. A single rank has none.
    """

    rank: int = 0
    size: int = 1
    control: object = None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files and the log."""
        return self.rank == 0

    def is_any(self, flag: bool) -> bool:
        """Return whether `flag` is true on any rank."""
        if self.size == 1:
            return flag
        import torch

        flags = torch.tensor(int(flag))
        distributed = join_ranks()
        distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=self.control)
        return bool(flags)

    def broadcast(self, value: object) -> object:
        """Return the value of rank 0."""
        if self.size == 1:
            return value
        values = [value]
        join_ranks().broadcast_object_list(values, group=self.control)
        return values[0]

    def gather(self, value: object) -> list:
        """Return the values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        join_ranks().all_gather_object(values, value, group=self.control)
        return values

    def check_equal(self, facts: dict[str, str]) -> None:
        """Compare facts that must be the same on all ranks. Raises IntegrityFault on all of them.

        facts: value by name, for example the hash of the data.
        """
        tables = self.gather(facts)
        for rank, table in enumerate(tables):
            changed = [name for name in facts if table.get(name) != tables[0].get(name)]
            if changed:
                pairs = [
                    f"{name} ({tables[0].get(name)} on rank 0, {table.get(name)} on rank {rank})"
                    for name in changed
                ]
                error = IntegrityFault(
                    f"rank {rank} differs from rank 0 in: {', '.join(pairs)}; all ranks need the "
                    "same data, kit and options"
                )
                error.is_echo = not self.is_main
                raise error

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Run a block, and raise the error of one rank on all ranks.

        The other ranks raise an error of the same class, which is not printed again. The block must
        not wait for other ranks: a rank that failed has left it.
        """
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
            if self.size == 1:
                raise

        failures = self.gather(_describe_error(error))
        first = next((rank for rank, failure in enumerate(failures) if failure), None)
        if first is None:
            return
        if error is None:
            error = _error_of_code(*failures[first])
        error.is_echo = first != self.rank
        raise error

    def on_main(self, action: Callable[[], object]) -> None:
        """Call a function on rank 0, while the others wait. Its error is raised on all ranks."""
        with self.failing_together():
            if self.is_main:
                action()

    def main_first(self, action: Callable[[], _Result]) -> _Result:
        """Call a function on rank 0, then on the others, which find the files that rank 0 wrote;
        return its result on this rank. An error is raised on all ranks.
        """
        results = []
        for has_turn in (self.is_main, not self.is_main):
            with self.failing_together():
                if has_turn:
                    results.append(action())
        return results[0]

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Raise Stopped in place of the errors that a block gets when another rank has ended."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_lost_rank(error):
                raise
            raise Stopped(
                f"rank {self.rank} stops, because another rank has ended; see its message. The "
                "same command resumes from the last saved state"
            ) from error


def join_training(device_type: str, timeout: timedelta = COLLECTIVE_TIMEOUT) -> Ranks:
    """Join the ranks that torchrun started: NCCL between GPUs, gloo between CPUs.

    timeout: how long a rank waits for the tensors of another one. Without torchrun there is one
    rank, which connects to nothing. Raises EnvironmentFault when torchrun's variables are missing.
    """
    rank, size = rank_and_size()
    if size == 1:
        return Ranks()
    if missing := [name for name in RANK_VARIABLES if name not in os.environ]:
        raise EnvironmentFault(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start the ranks with "
            "torchrun --nproc-per-node N -m wbdc ..., or unset WORLD_SIZE"
        )
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    distributed = join_ranks(backend, timeout)
    return Ranks(rank, size, distributed.new_group(backend="gloo", timeout=WAIT_TIMEOUT))


def _describe_error(error: Exception | None) -> tuple[int, str] | None:
    """Describe an error for the other ranks; a bug is described as a stop of its rank."""
    if error is None:
        return None
    explained = explain_os_error(error) if isinstance(error, OSError) else error
    if isinstance(explained, WbdcError):
        return explained.code, str(explained)
    rank, _ = rank_and_size()
    return Stopped.code, f"rank {rank} failed: {type(error).__name__}: {error}"


def _error_of_code(code: int, message: str) -> WbdcError:
    """Return the error of another rank, by its exit code."""
    return error_class(code)(message)


def _is_lost_rank(error: RuntimeError) -> bool:
    """Return whether an error means that a connection with another rank is lost.

    gloo raises plain RuntimeErrors, which name its source files.
    """
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)
