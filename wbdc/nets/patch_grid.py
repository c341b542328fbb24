"""Patch grids: the patch vectors of a picture, averaged to a few."""

import torch
from torch import Tensor

from wbdc.core.errors import UsageFault


def average_patches(patches: Tensor, grid: int) -> Tensor:
    """Average patch vectors to grid x grid cells: (M, H, W, D) -> (M, grid * grid, D).

    Cells are those of adaptive average pooling; where the grid does not divide H or W, neighbors
    share patches. Slices keep the gradient deterministic on GPUs, where that of
    torch.nn.functional.adaptive_avg_pool2d is not.
    """
    for axis in (1, 2):
        size = patches.shape[axis]
        cells = [
            patches.narrow(axis, start, stop - start).mean(axis)
            for start, stop in _cell_bounds(size, grid)
        ]
        patches = torch.stack(cells, axis)
    return patches.flatten(1, 2)


def check_patch_grid(grid: int, rows: int, columns: int, tower: str) -> None:
    """Refuse a grid that is empty or finer than the patches of a tower. Raises UsageFault."""
    if not 1 <= grid <= min(rows, columns):
        raise UsageFault(
            f"vision.patch_grid = {grid}; {tower} has {rows} x {columns} patches, so it must be "
            f"between 1 and {min(rows, columns)}"
        )


def _cell_bounds(size: int, grid: int) -> list[tuple[int, int]]:
    """Return the first patch of each cell, and the one after its last."""
    return [(i * size // grid, -(-(i + 1) * size // grid)) for i in range(grid)]
