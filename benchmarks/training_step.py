"""A training step of full-size towers, against the loop as public solutions write it.

    python benchmarks/training_step.py --batch 8 --rounds 3

BERT-base and ViT-B/32 with random weights, FGM, EMA and label smoothing in both loops. The loop of
the solutions computes in FP32, with the layers of transformers, open_clip and torch as they are. It
clones the word embeddings for FGM, computes the whole model twice, averages the weights one by one
in Python, and updates them with an AdamW that is not fused. `wbdc` runs `fit` in the default
precision of the machine. The two alternate; the ratio is the median over the rounds. With one
thread on a CPU, times are those of the processor, which other processes do not lengthen.

The share of the peak is the arithmetic that a loop computes in a step, counted by torch, over its
time and the fastest square matrix product of this machine in the same precision.
"""

import time
from statistics import median

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.device import find_device, find_training_precision, precision_name, use_threads
from wbdc.core.freed_memory import keep_freed_memory
from wbdc.core.item_random import item_seed_numbers
from wbdc.data.loader import collate
from wbdc.nets.dropout import Dropout
from wbdc.nets.model import VideoClassifier, build_model
from wbdc.nets.packed_attention import PackedAttention
from wbdc.train import objectives, tricks
from wbdc.train.fit import fit
from wbdc.train.losses import SMOOTHED
from wbdc.train.optimizer import build_adamw, parameter_groups
from wbdc.train.task import Task

CLASSES = 200
VOCABULARY = 21_128
LEARNING_RATE = 5e-5
EPSILON = 0.5
EMA_DECAY = 0.999
PEAK_SIZE = 2048  # of the square matrices that measure the peak
BLUEPRINT = {
    "trunk": {
        "model_type": "bert",
        "vocab_size": VOCABULARY,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    },
    "vision": {
        "use": "clip",
        "architecture": {
            "embed_dim": 512,
            "quick_gelu": True,
            "vision_cfg": {"layers": 12, "width": 768, "patch_size": 32, "image_size": 224},
        },
        "image": {
            "size": 224,
            "mean": [0.481, 0.458, 0.408],
            "std": [0.269, 0.261, 0.276],
            "interpolation": "bicubic",
        },
    },
    "fusion": {"use": "dual_stream"},
    "pooling": {"use": "mean"},
    "classes": CLASSES,
    "special": {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103},
}


def random_batch(videos: int, frames: int, length: int) -> Batch:
    """Return a batch of full texts and random pixels."""
    random = np.random.default_rng(0)
    ids = [str(i) for i in range(videos)]
    text = random.integers(1000, VOCABULARY, (videos, length))
    pixels = random.integers(0, 256, (videos, frames, 3, 224, 224), np.uint8)
    labels = random.integers(0, CLASSES, videos)
    fields = np.ones((videos, length), np.int8)
    seeds = item_seed_numbers(ids, 0, 0)
    return collate(ids, text, list(pixels), labels, fields=fields, seeds=seeds)


class WbdcLoop:
    """`fit`, with its default precision."""

    def __init__(self, device: torch.device):
        self.device = device
        self.precision = find_training_precision("auto", device)
        self.model = build_model(BLUEPRINT).to(device)
        task = Task(("",) * CLASSES, (1,) * CLASSES, (), ("title",), 1000, 8, 0)
        loss = plug.build_plug(objectives, {"use": "classify", "loss": SMOOTHED}, self.model, task)
        self.objectives = nn.ModuleList([loss]).to(device)
        self.tricks = [
            plug.build_plug(tricks, {"use": "fgm", "epsilon": EPSILON}, self.model, task),
            plug.build_plug(tricks, {"use": "ema", "decay": EMA_DECAY}, self.model, task),
        ]
        rates = {"rest": LEARNING_RATE}
        groups = parameter_groups(self.model, self.objectives, rates)
        self.optimizer = build_adamw(groups, rates, 0.01)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)

    def run(self, batch: Batch, steps: int) -> None:
        """Run some steps on one batch."""
        fit(
            self.model,
            self.objectives,
            [batch] * steps,
            self.optimizer,
            self.tricks,
            device=self.device,
            precision=self.precision,
            scaler=self.scaler,
            must_check=lambda step: step == steps,
        )


class SolutionLoop:
    """The loop as public solutions of the contest write it, in FP32."""

    def __init__(self, device: torch.device):
        self.device = device
        self.model = build_model(BLUEPRINT).to(device).train()
        use_library_layers(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, foreach=False, fused=False
        )
        self.shadow = {name: p.data.clone() for name, p in self.model.named_parameters()}

    def run(self, batch: Batch, steps: int) -> None:
        """Run some steps on one batch."""
        for _ in range(steps):
            moved = batch.to(self.device)
            self._backward(moved)
            backup = self._attack()
            self._backward(moved)
            for name, p in self.model.named_parameters():
                if name in backup:
                    p.data = backup[name]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._update_average()

    def _backward(self, batch: Batch) -> None:
        logits = self.model.logits(batch)
        loss = F.cross_entropy(logits, batch.label, label_smoothing=SMOOTHED["smoothing"])
        loss.backward()
        loss.item()  # shown in the progress bar of every step

    def _attack(self) -> dict[str, torch.Tensor]:
        backup = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad and "word_embeddings" in name:
                backup[name] = p.data.clone()
                norm = torch.norm(p.grad)
                if norm != 0 and not torch.isnan(norm):
                    p.data.add_(EPSILON * p.grad / norm)
        return backup

    def _update_average(self) -> None:
        for name, p in self.model.named_parameters():
            self.shadow[name] = ((1 - EMA_DECAY) * p.data + EMA_DECAY * self.shadow[name]).clone()


def use_library_layers(model: VideoClassifier) -> None:
    """Undo what `wbdc` replaces in the layers of transformers and open_clip."""
    replaced = {Dropout: nn.Dropout, PackedAttention: nn.MultiheadAttention}
    for module in model.modules():
        module.__class__ = replaced.get(type(module), type(module))
    model.trunk.encoder.config._attn_implementation = "sdpa"


def count_flops(loop: "WbdcLoop | SolutionLoop", batch: Batch) -> int:
    """Count the operations of a step."""
    with FlopCounterMode(display=False) as counter:
        loop.run(batch, 1)
    return counter.get_total_flops()


def peak_flops(device: torch.device, precision: torch.dtype) -> float:
    """Measure the operations per second of the fastest square matrix product."""
    matrix = torch.randn(PEAK_SIZE, PEAK_SIZE, device=device, dtype=precision)
    times = [seconds_of(lambda: matrix @ matrix, device) for _ in range(10)]
    return 2 * PEAK_SIZE**3 / min(times)


def seconds_of(action, device: torch.device) -> float:
    """Return the seconds that an action takes, with all work of the device."""
    is_one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if is_one_thread else time.perf_counter
    start = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


@click.command()
@click.option("--batch", "videos", default=8, show_default=True, help="Videos per step.")
@click.option("--frames", default=8, show_default=True)
@click.option("--length", default=256, show_default=True, help="Tokens per video.")
@click.option("--layers", default=12, show_default=True, help="Layers of each tower.")
@click.option("--steps", default=1, show_default=True, help="Steps per round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", type=int)
@click.option("--device", default="auto", show_default=True)
def main(
    videos: int,
    frames: int,
    length: int,
    layers: int,
    steps: int,
    rounds: int,
    threads: int | None,
    device: str,
) -> None:
    """Time a training step in both loops, in turn."""
    device = find_device(device)
    use_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()  # also in the loop of the solutions, which gains as much
    BLUEPRINT["trunk"]["num_hidden_layers"] = layers
    BLUEPRINT["vision"]["architecture"]["vision_cfg"]["layers"] = layers
    torch.manual_seed(0)
    batch = random_batch(videos, frames, length)
    ours = WbdcLoop(device)
    theirs = SolutionLoop(device)
    for loop in (ours, theirs):
        loop.run(batch, 1)  # warm up

    times: dict[str, list[float]] = {"wbdc": [], "solutions": []}
    for _ in range(rounds):
        for name, loop in (("wbdc", ours), ("solutions", theirs)):
            seconds = seconds_of(lambda loop=loop: loop.run(batch, steps), device)
            times[name].append(seconds / steps)
            click.echo(f"{name}: {times[name][-1]:.3f} s per step", err=True)

    ratios = [b / a for a, b in zip(times["wbdc"], times["solutions"], strict=True)]
    click.echo(
        f"wbdc ({precision_name(ours.precision)}) {median(times['wbdc']):.3f} s per step, "
        f"solutions (fp32) {median(times['solutions']):.3f} s; ratio {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    for name, loop, precision in (
        ("wbdc", ours, ours.precision),
        ("solutions", theirs, torch.float32),
    ):
        work = count_flops(loop, batch)
        share = work / median(times[name]) / peak_flops(device, precision)
        click.echo(
            f"{name}: {work / 1e9:,.0f} GFLOP per step, {share:.0%} of the peak of a "
            f"{precision_name(precision)} product"
        )


if __name__ == "__main__":
    main()
