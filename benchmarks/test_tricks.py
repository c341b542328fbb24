"""EMA and FGM updates: wbdc and the loops of public solutions.

Run with `pytest benchmarks --benchmark-enable -n 0`.
"""

import pytest
import torch
from torch import nn

from wbdc.train.task import Task
from wbdc.train.tricks.ema import EMA
from wbdc.train.tricks.fgm import perturbed_weights


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network of 50 million parameters in 200 tensors, with a gradient for 2,000 of the 21,000
    rows of its embedding table.
    """
    modules = nn.ModuleDict(
        {
            "words": nn.Embedding(21_128, 768),
            "layers": nn.ModuleList(nn.Linear(768, 440) for _ in range(100)),
        }
    )
    modules["words"].weight.grad = torch.zeros_like(modules["words"].weight)
    modules["words"].weight.grad[torch.randperm(21_128)[:2000]] = 0.1
    return modules


@pytest.mark.benchmark(group="EMA, one update")
def test_ema_wbdc(benchmark, network):
    task = Task((), (), (), (), total_steps=1, batch_size=1, seed=0)
    trick = EMA(network, task)
    benchmark(lambda: trick.after_step(1000))


@pytest.mark.benchmark(group="EMA, one update")
def test_ema_loop(benchmark, network):
    shadow = {name: p.data.clone() for name, p in network.named_parameters()}

    def update() -> None:
        for name, p in network.named_parameters():
            shadow[name] = ((1.0 - 0.999) * p.data + 0.999 * shadow[name]).clone()

    benchmark(update)


@pytest.mark.benchmark(group="FGM, attack and restore")
def test_fgm_wbdc(benchmark, network):
    def attack() -> None:
        with perturbed_weights([network["words"].weight], 0.5):
            pass

    benchmark(attack)


@pytest.mark.benchmark(group="FGM, attack and restore")
def test_fgm_loop(benchmark, network):
    weight = network["words"].weight

    def attack() -> None:
        backup = weight.data.clone()
        weight.data.add_(0.5 * weight.grad / torch.norm(weight.grad))
        weight.data = backup

    benchmark(attack)
