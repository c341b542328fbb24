"""Look: how a vision tower wants to be shown a frame. It travels with the tower's weights."""

from typing import NamedTuple


class Look(NamedTuple):
    """size: side of the square in pixels; mean, std: per RGB channel, of pixels in 0..1; interpolation: "bicubic" or "bilinear"."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    @classmethod
    def of(cls, table: dict) -> "Look":
        """Rebuild a look from what a kit or a model.json says."""
        return cls(table["size"], tuple(table["mean"]), tuple(table["std"]), table.get("interpolation", "bicubic"))
