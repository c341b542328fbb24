"""Tricks that change pixels."""

from torch import nn

from wbdc.core.errors import UsageFault


def check_reads_pixels(model: nn.Module, trick: str) -> None:
    """Raise UsageFault for a model that reads features instead of pixels."""
    if model.vision.image_settings is None:
        raise UsageFault(
            f"trick {trick!r} changes pixels, but this kit reads precomputed features; remove it"
        )
