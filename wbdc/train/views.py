"""What a stage reads of each video: pixels, or the cached features of a frozen tower."""

from collections.abc import Callable
from dataclasses import replace

import torch

from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.view import InputSpec, estimate_bytes, estimate_seconds, make_view
from wbdc.train.initial_model import InitialModel, build_initial_model
from wbdc.train.kit import Kit
from wbdc.train.plug_needs import has_pixel_plugs


def training_inputs(initial: InitialModel, needs_pixels: bool, device: torch.device) -> InputSpec:
    """Return what training reads of a video.

    A frozen tower encodes each frame once and its features are cached, unless a trick changes the
    pixels in every epoch.
    """
    vision = initial.model.vision
    if vision.frozen and vision.image_settings is not None and not needs_pixels:
        return replace(initial.input_spec, tower=vision.to(device))
    return initial.input_spec


def make_views(
    kit: Kit,
    prepared: PreparedData,
    *,
    seed: int,
    store: str,
    device: torch.device,
    threads: int,
    log: Callable[[str], None],
    progress: Callable[[str, int, int], None],
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Make the views that `wbdc train` with this kit would make first.

    Of several `ranks`, each makes its share. Raises what `make_view` raises.
    """
    if kit.has_estimator:
        log(f"{kit.name} reads the prepared texts and frames as they are, so no view is made")
        return
    initial = build_initial_model(kit, prepared, seed)
    needs_pixels = has_pixel_plugs(kit.stage("train"), kit.folder)
    spec = training_inputs(initial, needs_pixels, device)
    facts = prepared.facts
    for split in sorted({facts.labeled_split, facts.unlabeled_split} & set(facts.video_counts)):
        gigabytes = estimate_bytes(prepared, spec, split) / 1e9
        seconds = estimate_seconds(prepared, spec, split, threads=threads) / ranks
        log(
            f"{kit.name} reads {split}: at most {gigabytes:,.1f} GB of {_stored_form(spec)}; "
            f"if none exist yet, about {seconds:,.0f} s to make them"
        )
        make_view(
            prepared,
            spec,
            split,
            store=store,
            threads=threads,
            rank=rank,
            ranks=ranks,
            progress=progress,
        )


def _stored_form(spec: InputSpec) -> str:
    """Name what a view stores of each frame."""
    if spec.tower:
        return "features of the frozen tower"
    return "pixels" if spec.image_settings else "features"
