"""The image settings of a vision tower: how a frame is resized, cropped and normalized before the
tower encodes it. They are saved with its weights; `wbdc.data.frames` applies them.
"""

from typing import NamedTuple

from wbdc.core.errors import UsageFault


class ImageSettings(NamedTuple):
    """How a frame is resized, cropped and normalized.

    size: side of the square in pixels. mean, std: per RGB channel, of pixels in 0..1.
    interpolation: "bicubic" or "bilinear". short: pixels to which the short side is resized before
    the square is cropped from the center; None: `size`. squash: resize both sides to `size`
    instead, without a crop.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    short: int | None = None
    squash: bool = False

    @classmethod
    def from_table(cls, table: dict) -> "ImageSettings":
        """Build the settings from the `image` table of a kit or a model.json.

        Older tables have no `short` and no `squash`. Raises UsageFault when the square does not
        fit.
        """
        settings = cls(
            table["size"],
            tuple(table["mean"]),
            tuple(table["std"]),
            table.get("interpolation", "bicubic"),
            table.get("short"),
            table.get("squash", False),
        )
        if settings.short is not None and settings.short < settings.size:
            raise UsageFault(
                f"image.short = {settings.short} is smaller than image.size = {settings.size}; "
                f"set short to {settings.size} or more, or leave it out"
            )
        return settings

    def to_table(self) -> dict:
        """Return the settings as a table of a kit or a model.json.

        Defaults are left out, so that a table without `short` and `squash` stays as it was.
        """
        return {k: v for k, v in self._asdict().items() if v is not None and v is not False}
