"""The weights that torchvision lists for a model, and how they prepare frames.

torchvision itself is not imported here: this file is in every submission, which needs the packages
that its files import.
"""

from enum import Enum

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.image_settings import ImageSettings


def find_listed_weights(listed: type[Enum], model: str, weights: str | None) -> Enum:
    """Return weights of a model by their name in its list, a `WeightsEnum`; None: the default.

    Raises UsageFault for an unknown name.
    """
    if weights is not None and weights not in listed.__members__:
        hint = suggest_name(weights, list(listed.__members__))
        raise UsageFault(f"torchvision has no weights {weights!r} for {model}{hint}")
    return listed[weights] if weights else listed.DEFAULT


def listed_image_settings(entry: Enum, size: int | None) -> ImageSettings:
    """Return the image settings of listed weights, with another size if given.

    torchvision resizes the frames of R3D, MC3 and R(2+1)D to 128 x 171 pixels, whatever the shape;
    here the short side becomes 128, which is the same for pictures of 4:3.
    """
    transform = entry.transforms()
    side = size or transform.crop_size[0]
    short = min(transform.resize_size)
    return ImageSettings(
        side,
        tuple(transform.mean),
        tuple(transform.std),
        transform.interpolation.value,
        None if size or short <= side else short,
    )
