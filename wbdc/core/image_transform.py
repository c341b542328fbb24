"""Look: how a vision tower wants to be shown a frame. It travels with the tower's weights."""

from typing import NamedTuple

from wbdc.core.errors import UsageFault


class ImageTransform(NamedTuple):
    """size: side of the square in pixels; mean, std: per RGB channel, of pixels in 0..1;
    interpolation: "bicubic" or "bilinear".

    short: pixels to which the short side is resized before the square is cut from the centre; None:
    size.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    short: int | None = None

    @classmethod
    def from_table(cls, table: dict) -> "ImageTransform":
        """Rebuild a look from what a kit or a model.json says, which may be older than `short`.
        Raises UsageFault where the square would not fit.
        """
        look = cls(
            table["size"],
            tuple(table["mean"]),
            tuple(table["std"]),
            table.get("interpolation", "bicubic"),
            table.get("short"),
        )
        if look.short is not None and look.short < look.size:
            raise UsageFault(
                f"a look cuts {look.size} pixels from a short side of {look.short}; make short at least {look.size}, or leave it out"
            )
        return look

    def to_table(self) -> dict:
        """Say a look as a kit or a model.json does: what is None is left out, so that looks without
        `short` stay as they were.
        """
        return {name: value for name, value in self._asdict().items() if value is not None}
