"""What tests of sharded layers run on several ranks, and in one process."""

from pathlib import Path

import torch
import toys
from rank_programs import deal
from torch import nn

from wbdc.core import plug
from wbdc.core.device import CPU
from wbdc.core.ranks import Ranks
from wbdc.train import objectives as objective_plugs
from wbdc.train import tricks as trick_plugs
from wbdc.train.distributed.sharded_layers import shard_layers, whole_weights
from wbdc.train.distributed.shards import clip_gradient, is_sharded, local_shard
from wbdc.train.evaluated_weights import copy_weights, evaluating
from wbdc.train.fit import fit
from wbdc.train.optimizer import build_adamw, parameter_groups
from wbdc.train.repeated_layers import repeated_layers
from wbdc.train.state import TrainingState, gather_state, restore_state, save_state

OBJECTIVES = [
    {"use": "mask_words", "share": 0.4},
    {"use": "match", "negatives": "random", "weight": 0.5},
    {"use": "contrast", "queue": 4, "weight": 0.3},
]
STEPS = 4


def build_training(
    ranks: Ranks,
    shard: bool,
    fusion: str = "dual_stream",
    tables: list[dict] | None = None,
) -> TrainingState:
    """Build a toy training, by default with FGM and EMA, whose layers are sharded on several
    ranks.
    """
    model = toys.model(fusion, "clip")
    torch.manual_seed(0)
    objectives = nn.ModuleList(
        [plug.build_plug(objective_plugs, table, model, toys.TASK) for table in OBJECTIVES]
    )
    if shard and ranks.size > 1:
        shard_layers(model, objectives, CPU)
    tables = tables or [
        {"use": "fgm", "epsilon": 0.5, "on": "word_embeddings"},
        {"use": "ema", "decay": 0.9},
    ]
    tricks = [plug.build_plug(trick_plugs, table, model, toys.TASK) for table in tables]
    rates = {"rest": 1e-2, "fusion.trunk": 2e-3}
    optimizer = build_adamw(parameter_groups(model, objectives, rates), rates, 0.01)
    for group in optimizer.param_groups:
        group["eps"] = 1e-3  # else AdamW scales up gradients that are rounding alone
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, objectives, optimizer, tricks, scaler)


def run_steps(ranks: Ranks, training: TrainingState, start: int, steps: int) -> None:
    """Train from step `start` to `steps` with two batches each."""
    # rank 1 of 2 holds no frames in every third batch
    frame_counts = [(3, 0, 4, 0 if n % 3 == 0 else 2, 1) for n in range(STEPS * 2)]
    batches = [toys.batch(counts, seed=n) for n, counts in enumerate(frame_counts)]
    fit(
        training.model,
        training.objectives,
        [deal(batch, ranks) for batch in batches[2 * start : 2 * steps]],
        training.optimizer,
        training.tricks,
        accumulate=2,
        max_grad_norm=2.0,
        start=start,
        ranks=ranks,
    )


def train(ranks: Ranks, shard: bool) -> dict:
    """Return the state of a toy training, logits of the averaged weights, and shares of weights."""
    training = build_training(ranks, shard)
    run_steps(ranks, training, 0, STEPS)
    model = training.model
    model.eval()
    with torch.no_grad(), evaluating(training.tricks), whole_weights(model):
        # each rank computes as many batches as it has videos to score
        logits = [model.logits(toys.batch(seed=n)).numpy() for n in range(2 - ranks.rank)]
    layers = repeated_layers(model).values()
    weights = [weight for layer in layers for weight in layer.parameters()]
    moments = [training.optimizer.state[w]["exp_avg"] for w in weights if w.requires_grad]
    return {
        "state": {name: t.numpy() for name, t in gather_state(training).items()},
        "weights": {name: t.numpy() for name, t in copy_weights(model).items()},
        "logits": logits[0],
        "sharded": [name for name, w in training.model.named_parameters() if is_sharded(w)],
        "held": sum(local_shard(w).numel() for w in weights),
        "held_moments": sum(local_shard(m).numel() for m in moments),
        "layers": sum(weight.numel() for weight in weights),
    }


def train_fusions(ranks: Ranks, shard: bool, fusions: list[str]) -> dict:
    """Return the weights after a toy training of each fusion."""
    weights = {}
    for fusion in fusions:
        training = build_training(ranks, shard, fusion=fusion)
        run_steps(ranks, training, 0, STEPS)
        weights[fusion] = {n: t.numpy() for n, t in copy_weights(training.model).items()}
    return weights


def train_tricks(ranks: Ranks, shard: bool, lists: list[list[dict]]) -> list[dict]:
    """Return the evaluated weights after a toy training with each list of tricks."""
    weights = []
    for tables in lists:
        training = build_training(ranks, shard, tables=tables)
        run_steps(ranks, training, 0, STEPS)
        with evaluating(training.tricks):
            weights.append({n: t.numpy() for n, t in copy_weights(training.model).items()})
    return weights


def resume(ranks: Ranks, folder: Path, shard: bool, steps: int) -> dict:
    """Restore the last state of a folder, train until `steps`, save the state, and return it."""
    training = build_training(ranks, shard)
    start, _ = ranks.main_first(lambda: restore_state(folder, training))
    run_steps(ranks, training, start, steps)
    tensors = gather_state(training)
    ranks.on_main(lambda: save_state(folder, steps, tensors))
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def clip(ranks: Ranks) -> tuple[float, list]:
    """Clip a gradient of ordinary and sharded weights; return its norm and the clipped one."""
    training = build_training(ranks, shard=True)
    weights = list(training.model.parameters())
    for number, weight in enumerate(weights):
        weight.grad = torch.full_like(weight, 0.01 * number)
    norm = clip_gradient(weights, 0.5)
    return float(norm), [float(local_shard(w.grad).sum()) for w in weights]


def skip_on_device(ranks: Ranks) -> list[float]:
    """Step a fused optimizer that must skip by itself, as on a GPU, then one that must not."""
    training = build_training(ranks, shard=True)
    weights = list(training.model.parameters())
    changes = []
    for found in (1.0, 0.0):
        before = [local_shard(w).detach().clone() for w in weights]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        training.optimizer.found_inf = torch.tensor(found)
        training.optimizer.step()
        pairs = zip(weights, before, strict=True)
        changes.append(sum(float((local_shard(w) - b).abs().sum()) for w, b in pairs))
    return changes
