"""What tests run on several ranks: functions of the ranks that return plain values."""

import copy

import torch
from torch import nn

from wbdc.core.errors import DataFault, OutOfResources, WbdcError
from wbdc.core.ranks import Ranks
from wbdc.train.gather import gather_rows, sum_over_ranks
from wbdc.train.sync_batch_norm import synced_batch_norm


def agree(ranks: Ranks) -> dict:
    """Use every agreement once."""
    return {
        "deal": ranks.deal(range(5)),
        "any": [ranks.is_any(False), ranks.is_any(ranks.rank == 1), ranks.is_any(True)],
        "broadcast": ranks.broadcast(f"value of {ranks.rank}"),
        "gather": ranks.gather(ranks.rank * 10),
        "main": ranks.is_main,
    }


def differ(ranks: Ranks, facts: list[dict]) -> tuple:
    """Compare facts that differ."""
    return _failure(lambda: ranks.check_equal(facts[ranks.rank]))


def fail_on(ranks: Ranks, failing: int, error: Exception) -> tuple:
    """Raise an error on one rank, in a block in which ranks fail together."""

    def run() -> None:
        with ranks.failing_together():
            if ranks.rank == failing:
                raise error

    return _failure(run)


def _failure(run) -> tuple:
    try:
        run()
    except WbdcError as error:
        return type(error).__name__, str(error), error.is_echo
    except Exception as error:
        return type(error).__name__, str(error), False
    return ()


def lose(ranks: Ranks) -> tuple:
    """Wait for a rank that has ended."""
    import os

    if ranks.rank == 1:
        os._exit(9)

    def run() -> None:
        with ranks.ending_together():
            sum_over_ranks(torch.ones(3))

    return _failure(run)


def gather(ranks: Ranks, whole: torch.Tensor, factor: torch.Tensor) -> list:
    """Return the gathered rows, and the gradient of this rank's rows."""
    rows = whole[ranks.rank :: ranks.size].clone()
    sizes = tuple(len(whole[r :: ranks.size]) for r in range(ranks.size))
    if rows.is_floating_point():
        rows.requires_grad_()
    gathered = gather_rows(rows, sizes)
    gradient = None
    if rows.is_floating_point():
        # each rank weights the gathered rows differently
        (gathered * factor[ranks.rank]).sum().backward()
        gradient = rows.grad.float().numpy()
    return [gathered.detach().float().numpy(), gradient]


def add(ranks: Ranks) -> tuple:
    """Return a sum over the ranks and its gradient."""
    x = torch.tensor([1.0, 2.0]) * (ranks.rank + 1)
    x.requires_grad_()
    total = sum_over_ranks(x)
    (total * (ranks.rank + 1)).sum().backward()
    return total.tolist(), x.grad.tolist()


def norm_items(ranks: Ranks, model: nn.Module, parts: list, truth: list) -> dict:
    """Train a network with batch norm for two passes on this rank's part of the items."""
    model = copy.deepcopy(model).train()  # tensors that are sent to processes share their memory
    with synced_batch_norm(model):
        for _ in range(2):
            x = parts[ranks.rank].clone().requires_grad_()
            y = model(x)
            model.zero_grad()
            (y * truth[ranks.rank]).sum().backward()
    gradients = [sum_over_ranks(p.grad).numpy() for p in model.parameters()]
    return {
        "y": y.detach().numpy(),
        "x": x.grad.numpy(),
        "gradients": gradients,
        "state": {n: t.numpy() for n, t in model.state_dict().items()},
        "classes": [type(m).__name__ for m in model.modules()],
    }


def errors() -> list[Exception]:
    """Errors that one rank may raise, with the class and message that the others raise."""
    return [
        DataFault("the data are damaged"),
        OutOfResources("the disk is full"),
        OSError(28, "No space left on device", "state-3.safetensors"),
        ValueError("a bug"),
    ]
