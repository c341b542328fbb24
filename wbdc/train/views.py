"""How a stage of a kit reads: pixels, or the vectors of a frozen tower that looked once; and its
views, made ahead.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from wbdc.core import plug
from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.view import InputSpec, estimate_bytes, estimate_seconds, make_view
from wbdc.train import tricks
from wbdc.train.initial_model import InitialModel, build_initial_model
from wbdc.train.kit import Kit
from wbdc.train.kit_schema import Stage

Progress = Callable[[str, int, int], None]


def input_spec(stage: Stage, made: InitialModel, device: torch.device, kit: Kit) -> InputSpec:
    """Say how a stage reads: a frozen tower looks once, unless a trick changes the pixels at every
    visit.
    """
    vision, chosen = (
        made.model.vision,
        [plug.find_plug(tricks, t["use"], kit.folder) for t in stage.trick or []],
    )
    once = (
        vision.frozen
        and vision.image_transform is not None
        and not any(trick.needs_pixels for trick in chosen)
    )
    return replace(made.reading, tower=vision.to(device)) if once else made.reading


def make_views(
    kit: Kit,
    prepared: PreparedData,
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
    """Make ahead what `wbdc train` with this kit would make first; of several `ranks`, each makes
    its part. Raises what `make_view` raises.
    """
    reading = input_spec(kit.stage("train"), build_initial_model(kit, prepared, seed), device, kit)
    for split in sorted(
        {prepared.facts.labeled_split, prepared.facts.unlabeled_split}
        & set(prepared.facts.video_counts)
    ):
        form = (
            "vectors of the frozen tower"
            if reading.tower
            else "pixels"
            if reading.image_transform
            else "features"
        )
        takes = estimate_seconds(prepared, reading, split, threads=threads) / ranks
        say(
            f"{kit.name} reads {split}: at most {estimate_bytes(prepared, reading, split) / 1e9:,.1f} GB of {form}; when none are there, in about {takes:,.0f} s"
        )
        make_view(
            prepared,
            reading,
            split,
            store=store,
            threads=threads,
            rank=rank,
            ranks=ranks,
            progress=progress,
        )
