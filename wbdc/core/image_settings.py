"""The image settings of a vision tower: how a frame is resized, cropped and normalized before the
tower encodes it. They are saved with its weights; `wbdc.data.frames` applies them.
"""

from typing import NamedTuple

from wbdc.core.errors import UsageFault, suggest_name

EXACT_RESIZE = "exact"  # the pixels of Pillow, bit by bit
FAST_RESIZE = "fast"  # three times as fast; see `wbdc.data.resize`
RESIZES = (EXACT_RESIZE, FAST_RESIZE)


class ImageSettings(NamedTuple):
    """How a frame is resized, cropped and normalized.

    size: side of the square in pixels. mean, std: per RGB channel, of pixels in 0..1.
    interpolation: "bicubic" or "bilinear". short: pixels to which the short side is resized before
    the square is cropped from the center; None: `size`. squash: resize both sides to `size`
    instead, without a crop. resize: "exact" for the pixels of Pillow, "fast" for nearly the same
    pixels in a third of the time. It is a part of the settings, so that a frame gets the same
    pixels in training and when serving.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    short: int | None = None
    squash: bool = False
    resize: str = EXACT_RESIZE

    @classmethod
    def from_table(cls, table: dict) -> "ImageSettings":
        """Build the settings from the `image` table of a kit or a model.json.

        Older tables have no `short`, `squash` and `resize`. Raises UsageFault when the square does
        not fit, and for an unknown `resize`.
        """
        settings = cls(
            table["size"],
            tuple(table["mean"]),
            tuple(table["std"]),
            table.get("interpolation", "bicubic"),
            table.get("short"),
            table.get("squash", False),
        ).with_resize(table.get("resize"))
        if settings.short is not None and settings.short < settings.size:
            raise UsageFault(
                f"image.short = {settings.short} is smaller than image.size = {settings.size}; "
                f"set short to {settings.size} or more, or leave it out"
            )
        return settings

    def with_resize(self, resize: str | None) -> "ImageSettings":
        """Return the settings with another way to resize, None for the present one.

        Raises UsageFault for an unknown one.
        """
        if resize is None:
            return self
        if resize not in RESIZES:
            raise UsageFault(
                f"resize = {resize!r} is unknown{suggest_name(str(resize), list(RESIZES))}"
            )
        return self._replace(resize=resize)

    def to_table(self) -> dict:
        """Return the settings as a table of a kit or a model.json.

        Defaults are left out, so that a table without `short`, `squash` and `resize` stays as it
        was.
        """
        defaults = {"short": None, "squash": False, "resize": EXACT_RESIZE}
        return {k: v for k, v in self._asdict().items() if k not in defaults or v != defaults[k]}
