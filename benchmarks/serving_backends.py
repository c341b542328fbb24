"""Full-size networks computed by OpenVINO, against torch as `wbdc` serves by default.

    taskset -c 1 python benchmarks/serving_backends.py --threads 1

ViT-B/32 encodes the frames of a video or two, and BERT-base reads some texts beside their frames
(`single_stream`); weights are random. Both sides compute in the precision that `auto` chooses on
this machine, torch with its weights in that precision. They alternate; the ratio is that of the
fastest rounds. With one thread, times are those of the processor, which other processes do not
lengthen. torch in FP32 is timed beside them; the errors are those of both sides against its
results, relative to their norm.
"""

import copy
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.device import CPU, autocast, find_precision, precision_name, use_threads
from wbdc.nets.half_weights import halve_weights
from wbdc.nets.model import VideoClassifier, build_model
from wbdc.serve.openvino_function import import_openvino
from wbdc.serve.openvino_network import convert_scores, convert_tower

CLASSES = 200
WORDS = 21_128
IMAGE_SIZE = 224


def build(layers: int) -> VideoClassifier:
    """Build ViT-B/32 and BERT-base with some of their twelve layers and random weights."""
    torch.manual_seed(0)
    tower = {"layers": layers, "width": 768, "head_width": 64, "patch_size": 32}
    half = [0.5, 0.5, 0.5]
    image = {"size": IMAGE_SIZE, "mean": half, "std": half, "interpolation": "bicubic"}
    tables = {
        "trunk": {"model_type": "bert", "vocab_size": WORDS, "num_hidden_layers": layers},
        "vision": {
            "use": "clip",
            "architecture": {"embed_dim": 512, "vision_cfg": tower | {"image_size": IMAGE_SIZE}},
            "image": image,
        },
        "fusion": {"use": "single_stream"},
        "pooling": {"use": "mean"},
        "classes": CLASSES,
        "special": {"[MASK]": 4},
    }
    return build_model(tables).eval()


def logits(model: VideoClassifier, *tensors: Tensor) -> Tensor:
    """Return the logits of an encoded batch, as `Network` computes them."""
    batch = Batch(("",) * tensors[0].shape[0], *tensors)
    return model.head(model.fuse(batch).pooled)


def fastest(functions: dict[str, Callable[[], Tensor]], rounds: int, clock: Callable) -> dict:
    """Return the seconds of the fastest call of each function; they alternate."""
    seconds = {name: float("inf") for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function()
            seconds[name] = min(seconds[name], clock() - start)
    return seconds


@click.command()
@click.option("--layers", default=12, show_default=True, help="Of both networks.")
@click.option("--frames", default=(8, 16), multiple=True, show_default=True, type=int)
@click.option("--texts", default=(1, 4), multiple=True, show_default=True, type=int)
@click.option("--tokens", default=200, show_default=True, help="Of each text.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
@torch.no_grad()
def main(
    layers: int,
    frames: tuple[int, ...],
    texts: tuple[int, ...],
    tokens: int,
    rounds: int,
    threads: int,
) -> None:
    """Print the ratios."""
    threads = use_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    precision = find_precision("auto", CPU)
    full = build(layers)
    model = copy.deepcopy(full)
    if precision != torch.float32:
        halve_weights(model, precision)

    start = clock()
    tower = convert_tower(full.vision, threads, "ViT-B/32")
    scores = convert_scores(lambda *x: logits(full, *x), full, threads, "BERT-base")
    tower.use_precision(precision)
    scores.use_precision(precision)
    print(
        f"{precision_name(precision)}, threads: {threads}, {layers} layers, OpenVINO "
        f"{import_openvino().__version__}, torch {torch.__version__}; converted in "
        f"{clock() - start:.1f} s"
    )

    def compare(title: str, torch_side: Callable, openvino_side: Callable, fp32: Callable) -> None:
        def by_torch() -> Tensor:
            with autocast(CPU, precision):
                return torch_side().float()

        sides = {"torch": by_torch, "OpenVINO": openvino_side}
        exact = fp32()
        errors = {name: (side() - exact).norm() / exact.norm() for name, side in sides.items()}
        seconds = fastest(sides | {"FP32": fp32}, rounds, clock)
        times = ", ".join(
            f"{name} {seconds[name]:.3f} s (error {errors[name]:.2%})" for name in sides
        )
        ratios = [seconds[name] / seconds["OpenVINO"] for name in ("torch", "FP32")]
        print(
            f"{title}: {times}, torch in FP32 {seconds['FP32']:.3f} s; ratio {ratios[0]:.2f}, "
            f"against FP32 {ratios[1]:.2f}",
            flush=True,
        )

    for count in frames:
        pixels = torch.randint(256, (count, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
        compare(
            f"ViT-B/32, {count} frames",
            lambda pixels=pixels: model.vision.encode_pixels(pixels),
            lambda pixels=pixels: tower(pixels),
            lambda pixels=pixels: full.vision.encode_pixels(pixels),
        )
    for count in texts:
        mask = torch.ones(count, tokens, dtype=torch.bool)
        frame_mask = torch.ones(count, 8, dtype=torch.bool)
        words = torch.randint(WORDS, (count, tokens))
        batch = (words, mask, torch.randn(count, 8, 512), frame_mask)
        compare(
            f"BERT-base, {count} texts of {tokens} tokens and 8 frames",
            lambda batch=batch: logits(model, *batch),
            lambda batch=batch: scores(*batch),
            lambda batch=batch: logits(full, *batch),
        )


if __name__ == "__main__":
    main()
