"""Ranks: the processes that torchrun starts, and how they join each other."""

import os
from types import ModuleType

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; (0, 1) outside torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_ranks() -> ModuleType:
    """Connect this process with the other ranks and return `torch.distributed`, ready for use.

    A second call does nothing: a second connection would find the addresses of the first.
    """
    import torch.distributed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return torch.distributed
