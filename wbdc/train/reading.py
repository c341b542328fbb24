"""How a stage of a kit reads: pixels, or the vectors of a frozen tower that looked once; and its views, made ahead."""

from collections.abc import Callable
from dataclasses import replace

import torch

from wbdc.core import plug
from wbdc.prepare.dataset import Prepared
from wbdc.prepare.view import Reading, make_view, seconds, size
from wbdc.train import tricks
from wbdc.train.assemble import Assembled, assemble
from wbdc.train.kit import Kit
from wbdc.train.recipe import Stage

Progress = Callable[[str, int, int], None]


def reading_of(stage: Stage, made: Assembled, device: torch.device, kit: Kit) -> Reading:
    """Say how a stage reads: a frozen tower looks once, unless a trick changes the pixels at every visit."""
    vision, chosen = made.model.vision, [plug.find(tricks, t["use"], kit.folder) for t in stage.trick or []]
    once = vision.frozen and vision.look is not None and not any(trick.needs_pixels for trick in chosen)
    return replace(made.reading, tower=vision.to(device)) if once else made.reading


def make_views(
    kit: Kit,
    prepared: Prepared,
    *,
    seed: int,
    store: str,
    device: torch.device,
    threads: int,
    say: Callable[[str], None],
    progress: Progress,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Make ahead what `wbdc train` with this kit would make first; of several `ranks`, each makes its part. Raises what `make_view` raises."""
    reading = reading_of(kit.stage("train"), assemble(kit, prepared, seed), device, kit)
    for split in sorted({prepared.facts["labelled"], prepared.facts["unlabelled"]} & set(prepared.facts["counts"])):
        form = "vectors of the frozen tower" if reading.tower else "pixels" if reading.look else "features"
        takes = seconds(prepared, reading, split, threads=threads) / ranks
        say(f"{kit.name} reads {split}: at most {size(prepared, reading, split) / 1e9:,.1f} GB of {form}; when none are there, in about {takes:,.0f} s")
        make_view(prepared, reading, split, store=store, threads=threads, rank=rank, ranks=ranks, progress=progress)
