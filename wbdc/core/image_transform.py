"""The image transform of a vision tower: how a frame becomes its input. It is saved with the
tower's weights.
"""

from typing import NamedTuple

from wbdc.core.errors import UsageFault


class ImageTransform(NamedTuple):
    """How a frame is resized, cropped and normalized.

    size: side of the square in pixels. mean, std: per RGB channel, of pixels in 0..1.
    interpolation: "bicubic" or "bilinear". short: pixels to which the short side is resized before
    the square is cropped from the center; None: `size`.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    short: int | None = None

    @classmethod
    def from_table(cls, table: dict) -> "ImageTransform":
        """Build a transform from the `look` table of a kit or a model.json.

        Older tables have no `short`. Raises UsageFault when the square does not fit.
        """
        transform = cls(
            table["size"],
            tuple(table["mean"]),
            tuple(table["std"]),
            table.get("interpolation", "bicubic"),
            table.get("short"),
        )
        if transform.short is not None and transform.short < transform.size:
            raise UsageFault(
                f"look.short = {transform.short} is smaller than look.size = {transform.size}; "
                f"set short to {transform.size} or more, or leave it out"
            )
        return transform

    def to_table(self) -> dict:
        """Return the transform as a table of a kit or a model.json.

        None is left out, so that the table of a transform without `short` stays as it was.
        """
        return {name: value for name, value in self._asdict().items() if value is not None}
