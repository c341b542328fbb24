"""Runs a function in several processes that are joined as torchrun joins them, without its cost:
the processes are forked from a server that has imported torch.
"""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.distributed", "torch.nn.parallel", "wbdc.core.ranks"])
TIMEOUT_SECONDS = 90


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
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
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
