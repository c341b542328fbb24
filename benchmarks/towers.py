"""The table of image towers in docs/towers.md: size, cost and speed of each family.

    python benchmarks/towers.py            # measures every tower, minutes
    python benchmarks/towers.py --missing

Parameters and GFLOP are counted on tensors without data, in seconds; tests/docs/test_towers.py
counts them again. One multiply-add is 2 FLOP. Frames/s are those of one thread, FP32, constant
weights, no gradients, 4 frames at once, of the CPU time of this process, which a busy machine
disturbs less than the clock on the wall; the best of the rounds.
"""

import re
import time
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from wbdc.bench.random_member import random_vision_table
from wbdc.core import plug
from wbdc.nets import vision as visions
from wbdc.nets.vision import Vision

PAGE = Path(__file__).parents[1] / "docs" / "towers.md"
START, END = "<!-- image towers -->\n", "<!-- end of image towers -->\n"
FRAMES = 4
HEADER = (
    "| family | plug | model | side | width | parameters, M | GFLOP a frame "
    "| license of the weights | frames/s |\n|---|---|---|---|---|---|---|---|---|\n"
)
NO_LICENSE = "none stated"  # torchvision's own is BSD-3-Clause; it states none of its weights


class Tower(NamedTuple):
    """A row of the table. license: of the weights; None: as timm lists it."""

    family: str
    use: str
    model: str
    weights: str | None = None
    license: str | None = None

    def table(self) -> dict:
        """Return the kit's table of this tower."""
        weights = {"weights": self.weights} if self.weights else {}
        return {"use": self.use, "model": self.model, **weights}


def torchvision_tower(family: str, model: str, weights: str = "IMAGENET1K_V1") -> Tower:
    return Tower(family, "torchvision", model, weights, NO_LICENSE)


def openai_tower(family: str, model: str) -> Tower:
    return Tower(family, "clip", model, "openai", "mit")


TOWERS = [
    openai_tower("CLIP", "ViT-B-32"),
    openai_tower("CLIP", "ViT-B-16"),
    openai_tower("CLIP", "ViT-L-14"),
    openai_tower("CLIP, ResNet", "RN50"),
    Tower("ViT", "timm", "vit_small_patch16_224.augreg_in21k_ft_in1k"),
    Tower("ViT", "timm", "vit_base_patch16_224.augreg_in21k_ft_in1k"),
    Tower("Swin", "timm", "swin_tiny_patch4_window7_224.ms_in1k"),
    Tower("ConvNeXt", "timm", "convnext_tiny.in12k_ft_in1k"),
    Tower("ResNet", "timm", "resnet50.a1_in1k"),
    torchvision_tower("ResNet", "resnet50", "IMAGENET1K_V2"),
    Tower("ResNeXt", "timm", "resnext50_32x4d.a1h_in1k"),
    Tower("SE-ResNet", "timm", "seresnet50.ra2_in1k"),
    Tower("RegNet", "timm", "regnety_008_tv.tv2_in1k"),
    Tower("EfficientNet", "timm", "efficientnet_b0.ra_in1k"),
    torchvision_tower("EfficientNet", "efficientnet_v2_s"),
    Tower("Inception", "timm", "inception_v3.tv_in1k"),
    torchvision_tower("Inception", "googlenet"),
    Tower("MobileNet", "timm", "mobilenetv3_large_100.ra_in1k"),
    torchvision_tower("MobileNet", "mobilenet_v2", "IMAGENET1K_V2"),
    torchvision_tower("ShuffleNet", "shufflenet_v2_x0_5"),
    torchvision_tower("ShuffleNet", "shufflenet_v2_x1_0"),
    torchvision_tower("ShuffleNet", "shufflenet_v2_x2_0"),
    torchvision_tower("SqueezeNet", "squeezenet1_1"),
    torchvision_tower("DenseNet", "densenet121"),
    torchvision_tower("MaxViT", "maxvit_t"),
    torchvision_tower("VGG", "vgg16_bn"),
]


def build_tower(tower: Tower) -> Vision:
    """Build a tower with random weights."""
    return plug.build_plug(visions, random_vision_table(tower.table())).eval()


class ZeroWeights(TorchFunctionMode):
    """Fills weights with zeros in a block: random numbers for a large tower take seconds."""

    RANDOM = ("normal_", "uniform_", "erfinv_", "trunc_normal_")

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        if getattr(function, "__name__", "") in self.RANDOM:
            with torch.no_grad():
                return (arguments[0] if arguments else options["tensor"]).zero_()
        return function(*arguments, **options)


def build_empty(tower: Tower) -> Vision:
    """Build a tower without data, on the device "meta"."""
    with ZeroWeights(), torch.device("meta"):
        return build_tower(tower).to("meta")  # also what the context does not reach


@torch.no_grad()
def build_constant(tower: Tower) -> Vision:
    """Build a tower whose weights are all equal, on which its speed does not depend."""
    with ZeroWeights():
        vision = build_tower(tower)
    for weight in vision.parameters():
        weight.fill_(0.01)
    return vision


def tower_facts(tower: Tower) -> list[str]:
    """Return the cells of a row that need no timing: all but the last."""
    vision = build_empty(tower)
    side = vision.image_settings.size
    # with gradients, since a fused attention for inference is not counted
    with FlopCounterMode(display=False) as counter:
        width = vision.encode(torch.empty(1, 3, side, side, device="meta")).shape[-1]
    millions = sum(weight.numel() for weight in vision.parameters()) / 1e6
    gigaflop = counter.get_total_flops() / 1e9
    numbers = [str(side), str(width), f"{millions:.1f}", f"{gigaflop:.2f}"]
    model = f"`{tower.model}`" + (f", `{tower.weights}`" if tower.weights else "")
    return [tower.family, f"`{tower.use}`", model, *numbers, tower.license or timm_license(tower)]


def timm_license(tower: Tower) -> str:
    """Return the license that timm lists for the weights of a model."""
    import timm

    return timm.get_pretrained_cfg(tower.model).license or NO_LICENSE


@torch.no_grad()
def frames_per_second(tower: Tower, rounds: int) -> float:
    """Measure a tower on one thread, by the CPU time of this process."""
    vision = build_constant(tower)
    side = vision.image_settings.size
    pixels = torch.randint(0, 255, (FRAMES, 3, side, side), dtype=torch.uint8)
    seconds = []
    for _ in range(rounds + 1):  # the first one also allocates
        start = time.process_time()
        vision.encode_pixels(pixels)
        seconds.append(time.process_time() - start)
    return FRAMES / min(seconds)


def read_rows(page: str) -> dict[tuple[str, str], list[str]]:
    """Return the cells of each row of the table, by plug and model."""
    table = page.split(START)[1].split(END)[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
    return {(row[1], row[2]): row for row in rows}


@click.command()
@click.option("--missing", is_flag=True, help="Measure only towers that have no rate yet.")
@click.option("--rounds", default=3, show_default=True)
def main(missing: bool, rounds: int) -> None:
    """Measure towers, the cheapest first, and write each into the table of docs/towers.md."""
    torch.set_num_threads(1)
    facts = {tower: tower_facts(tower) for tower in TOWERS}
    known = read_rows(PAGE.read_text(encoding="utf-8"))
    rates = {tower: known.get((row[1], row[2]), [""])[-1] for tower, row in facts.items()}
    for tower in sorted(TOWERS, key=lambda tower: float(facts[tower][6])):
        if not (missing and rates[tower]):
            rates[tower] = f"{frames_per_second(tower, rounds):.1f}"
            click.echo(f"{tower.model}: {rates[tower]} frames/s")
            write_rows([[*facts[tower], rates[tower]] for tower in TOWERS])


def write_rows(rows: list[list[str]]) -> None:
    """Replace the table of the page."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(START)
    table = HEADER + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    PAGE.write_text(before + START + table + END + after.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
