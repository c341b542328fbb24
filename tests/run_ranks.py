"""Runs a function in several processes that are joined as torchrun joins them, without its cost:
the processes are forked from a server that has imported torch.
"""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as `python -m wbdc` sets it for ranks
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch.nn.parallel",
        "torch._dynamo",  # DistributedDataParallel imports it
        "open_clip",
        "transformers.models.bert.modeling_bert",
        "wbdc.cli.train",
        "wbdc.train.session",
    ]
)
TIMEOUT_SECONDS = 300  # of ranks that wait for each other forever


def free_port() -> int:
    """Return a port of this machine that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def torchrun_variables(rank: int, size: int, port: int) -> dict[str, str]:
    """Return the environment that torchrun gives to a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def on_ranks(
    program: Callable, *values: object, size: int = 2, may_end: tuple[int, ...] = ()
) -> list:
    """Call `program(ranks, *values)` on every rank; return the results in their order.

    program: a function of an importable module. may_end: ranks that end without a result, for which
    there is none. Fails with the traceback of a rank that raised.
    """
    port = free_port()
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    processes = [
        CONTEXT.Process(target=_run, args=(sender, rank, size, port, program, values))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        results = [
            _receive(receiver) for rank, (receiver, _) in enumerate(pipes) if rank not in may_end
        ]
    finally:
        for process in processes:
            process.kill()
            process.join()
    failures = [text for is_error, text in results if is_error]
    assert not failures, "\n".join(failures)
    return [result for _, result in results]


def _receive(receiver: object) -> tuple[bool, object]:
    assert receiver.poll(TIMEOUT_SECONDS), "a rank does not end"
    return receiver.recv()


def _run(sender: object, rank: int, size: int, port: int, program: Callable, values: tuple) -> None:
    os.environ |= torchrun_variables(rank, size, port)
    import torch

    from wbdc.core.ranks import join_training

    torch.set_num_threads(1)
    try:
        ranks = join_training("cpu")
        sender.send((False, program(ranks, *values)))
        sender.close()
        time.sleep(TIMEOUT_SECONDS)  # a rank that ends early would break the others
    except BaseException:
        sender.send((True, f"rank {rank}: {traceback.format_exc()}"))
        raise


class Command:
    """A wbdc command on several ranks, started as torchrun starts it.

    folder: for what the ranks print. words: of the command; a function gets the rank and returns a
    word. patch: a function of an importable module, called with the rank before the command.
    """

    def __init__(
        self,
        folder: Path,
        *words: object,
        size: int = 2,
        patch: Callable[[int], None] | None = None,
    ):
        port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"rank-{rank}.log" for rank in range(size)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            own = [w(rank) if callable(w) else w for w in words]
            values = (rank, size, port, [str(word) for word in own], log, patch)
            self.processes.append(CONTEXT.Process(target=_run_command, args=values))
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = TIMEOUT_SECONDS) -> list[int]:
        """Wait for all ranks, and return their exit codes. Fails when a rank does not end."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        assert None not in codes, (codes, self.output())
        return codes

    def output(self) -> list[str]:
        """Return what each rank printed."""
        return [log.read_text() for log in self.logs]


def _run_command(
    rank: int, size: int, port: int, words: list[str], log: Path, patch: Callable | None
) -> None:
    os.environ |= torchrun_variables(rank, size, port)
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    if patch:
        patch(rank)
    sys.argv = ["wbdc", *words]
    from wbdc.cli import main

    main()
