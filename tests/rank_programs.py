"""What tests run on several ranks: functions of the ranks that return plain values."""

import copy
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
import toys
from torch import nn

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import DataFault, OutOfResources, WbdcError
from wbdc.core.ranks import Ranks
from wbdc.prepare import engines
from wbdc.prepare.shards import ShardJob
from wbdc.train import objectives as objective_plugs
from wbdc.train import tricks as trick_plugs
from wbdc.train.distributed.gather import gather_rows, sum_over_ranks
from wbdc.train.distributed.sync_batch_norm import synced_batch_norm
from wbdc.train.evaluated_weights import copy_weights, evaluating
from wbdc.train.fit import fit
from wbdc.train.objectives import Objective
from wbdc.train.objectives.classify import Classify
from wbdc.train.objectives.classify_frames import ClassifyFrames
from wbdc.train.objectives.mask_words import MaskWords
from wbdc.train.tricks.ema import EMA
from wbdc.train.tricks.fgm import FGM


def agree(ranks: Ranks) -> dict:
    """Use every agreement once."""
    return {
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
    if ranks.rank == 1:
        os._exit(9)

    def run() -> None:
        with ranks.ending_together():
            sum_over_ranks(torch.ones(3))

    return _failure(run)


def write_shards(ranks: Ranks, make: Callable, lists: list[list[ShardJob]]) -> tuple:
    """Run jobs with the engine `torchrun`; return the starts of its jobs and the shards it found.

    lists: the jobs that each rank lists.
    """
    engine = plug.build_plug(engines, {"use": "torchrun"})
    starts = [job.start for job in engine.run_jobs(make, lists[ranks.rank])]
    found = sorted(path.name for path in lists[0][0].root.glob("*.shard"))
    return engine.is_main, starts, found


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


def fill_disk(rank: int) -> None:
    """Let rank 0 find a full disk when it saves a state."""
    from wbdc.train import training_log

    def fail(folder, *values):
        raise OSError(28, "No space left on device", str(folder / "state-3.safetensors"))

    if rank == 0:
        training_log.save_state = fail


def kill_rank_1(rank: int) -> None:
    """Let rank 1 be killed after step 5, when the state of step 3 is saved."""
    if rank == 1:
        _signal_after_step_5(signal.SIGKILL)


def stop_rank_1(rank: int) -> None:
    """Let rank 1 get a stop signal after step 5."""
    if rank == 1:
        _signal_after_step_5(signal.SIGTERM)


def _signal_after_step_5(number: signal.Signals) -> None:
    from wbdc.train.training_log import StepMonitor

    after_step = StepMonitor.after_step

    def end(monitor, step: int, *values) -> None:
        if step == 5:
            os.kill(os.getpid(), number)
        after_step(monitor, step, *values)

    StepMonitor.after_step = end


def errors() -> list[Exception]:
    """Errors that one rank may raise, with the class and message that the others raise."""
    return [
        DataFault("the data are damaged"),
        OutOfResources("the disk is full"),
        OSError(28, "No space left on device", "state-3.safetensors"),
        ValueError("a bug"),
    ]


class ToyContrast(Objective):
    """Finds the frames of each text among those of the whole batch (InfoNCE)."""

    def loss(self, model, fused, batch, original):
        frames = F.normalize(model.project(fused.vision_features.float()).sum(1), dim=1)
        pooled = F.normalize(fused.pooled, dim=1)
        sizes = batch.rank_sizes
        scores = pooled @ gather_rows(frames, sizes).T / 0.5
        if "bad" in batch.ids:
            scores = scores * torch.inf
        rank = torch.distributed.get_rank() if sizes else 0
        answers = torch.arange(len(batch)) * max(1, len(sizes)) + rank
        return F.cross_entropy(scores, answers)


def deal(batch: Batch, ranks: Ranks) -> Batch:
    """Return this rank's videos of a batch."""
    if ranks.size == 1:
        return batch
    sizes = tuple(len(range(r, len(batch), ranks.size)) for r in range(ranks.size))
    return replace(batch.select(slice(ranks.rank, None, ranks.size)), rank_sizes=sizes)


def train_steps(
    ranks: Ranks, vision: str, steps: int = 10, accumulate: int = 2, bad: Sequence[int] = ()
) -> dict:
    """Train a toy model, and return its weights, averages, losses and skipped steps.

    bad: steps in whose first batch the loss of the second video is not finite.
    """
    model = toys.model("dual_stream", vision)
    objectives = [
        Classify(model, toys.TASK),
        MaskWords(model, toys.TASK, weight=0.5, share=0.4),
        ToyContrast(model, toys.TASK, weight=0.3),
    ]
    tricks = [FGM(model, toys.TASK, epsilon=0.5), EMA(model, toys.TASK, decay=0.9)]
    torch.manual_seed(0)
    for objective in objectives:
        for weight in objective.parameters():
            if weight.dim() > 1 and weight.shape[0] != toys.WORDS:
                nn.init.normal_(weight, std=0.05)
    # rank 1 of 2 holds no frames in every third batch
    frame_counts = [(3, 0, 4, 0 if n % 3 == 0 else 2, 1) for n in range(steps * accumulate)]
    batches = [toys.batch(counts, vision, seed=n) for n, counts in enumerate(frame_counts)]
    for step in bad:
        first = batches[(step - 1) * accumulate]
        batches[(step - 1) * accumulate] = replace(first, ids=(first.ids[0], "bad", *first.ids[2:]))
    weights = [*model.parameters(), *(p for o in objectives for p in o.parameters())]
    optimizer = torch.optim.SGD(list(dict.fromkeys(weights)), lr=0.01, momentum=0.9)
    losses: list[dict] = []
    skipped: list = []
    fit(
        model,
        objectives,
        [deal(batch, ranks) for batch in batches],
        optimizer,
        tricks,
        accumulate=accumulate,
        max_grad_norm=1e3,  # clipping would hide a wrong scale
        after_step=lambda step, outcome: losses.append(
            {n: float(sum_over_ranks(t.detach())) for n, t in outcome.losses.items()}
        ),
        on_skip=lambda step, ids: skipped.append((step, sorted(ids))),
        ranks=ranks,
    )
    return {
        "weights": {n: t.detach().numpy() for n, t in model.state_dict().items()},
        "averages": {n: t.numpy() for n, t in tricks[1].state().items()},
        "losses": losses,
        "skipped": skipped,
    }


def objective_steps(ranks: Ranks, use: str, settings: dict, steps: int = 3) -> dict:
    """Train a toy model with one objective and two batches a step; each rank pads its videos to a
    width of its own.
    """
    model = toys.model("dual_stream", "clip")
    torch.manual_seed(0)
    objective = plug.build_plug(objective_plugs, {"use": use, **settings}, model, toys.TASK)
    batches = [toys.batch((3, 0, 4, 1, 6 - n % 2), seed=n) for n in range(2 * steps)]
    parts = [trim(deal(batch, ranks)) for batch in batches]
    weights = [*model.parameters(), *objective.parameters()]
    losses: list[float] = []
    fit(
        model,
        [objective],
        parts,
        torch.optim.SGD(weights, lr=0.1),
        accumulate=2,
        after_step=lambda step, outcome: losses.append(
            sum(float(sum_over_ranks(t.detach())) for t in outcome.losses.values())
        ),
        ranks=ranks,
    )
    return {
        "weights": {n: t.detach().numpy() for n, t in model.state_dict().items()},
        "own": {n: t.detach().float().numpy() for n, t in objective.state_dict().items()},
        "losses": losses,
        "widths": [part.frames.shape[1] for part in parts],
    }


def train_each(ranks: Ranks, objectives: list[tuple[str, dict, int]]) -> list[dict]:
    """Return `objective_steps` of several objectives."""
    return [objective_steps(ranks, *objective) for objective in objectives]


def trim(batch: Batch) -> Batch:
    """Remove padding that no video of a batch needs."""
    words = int(batch.text_mask.sum(1).max())
    frames = int(batch.frame_mask.sum(1).max())
    return replace(
        batch,
        text=batch.text[:, :words],
        text_mask=batch.text_mask[:, :words],
        text_field=batch.text_field[:, :words],
        frames=batch.frames[:, :frames],
        frame_mask=batch.frame_mask[:, :frames],
    )


def train_tricks(ranks: Ranks, lists: list[list[dict]]) -> list[dict]:
    """Train a toy model with each list of tricks; return all weights, and those that are evaluated.

    Five videos on two ranks, two batches a step, a head that the tricks do not see, momentum and
    weight decay.
    """
    return [_train_with_tricks(ranks, tables) for tables in lists]


def _train_with_tricks(ranks: Ranks, tables: list[dict]) -> dict:
    model = toys.model("dual_stream", "clip")
    torch.manual_seed(0)
    objectives = nn.ModuleList([Classify(model, toys.TASK), ClassifyFrames(model, toys.TASK)])
    tricks = [plug.build_plug(trick_plugs, table, model, toys.TASK) for table in tables]
    module = nn.ModuleList([model, objectives])
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    batches = [toys.batch((3, 0, 4, 2, 1), seed=n) for n in range(10)]
    fit(
        model,
        objectives,
        [deal(batch, ranks) for batch in batches],
        torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=0.1),
        tricks,
        accumulate=2,
        max_grad_norm=1e3,
        ranks=ranks,
    )
    trained = {name: t.detach().clone().numpy() for name, t in module.state_dict().items()}
    with evaluating(tricks):
        evaluated = {name: t.numpy() for name, t in copy_weights(model).items()}
    return {"trained": trained, "evaluated": evaluated}
