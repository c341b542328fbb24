"""Where a fusion splits the trunk: layers that read the text alone, and layers after them."""

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between
from wbdc.nets.trunk import Trunk


def split_trunk(subject: str, trunk: Trunk, text_layers: int | None) -> int:
    """Return how many of the trunk's layers encode the text alone.

    subject: of the error message, for example "fusion 'albef'". text_layers: their number; None:
    half of them, rounded down. Raises UsageFault unless both parts get a layer.
    """
    if trunk.depth < 2:
        raise UsageFault(
            f"{subject} splits the layers of the trunk, which has {trunk.depth}; "
            "choose a trunk with two layers or more, or another fusion"
        )
    count = trunk.depth // 2 if text_layers is None else text_layers
    check_between(
        f"{subject} with a trunk of {trunk.depth} layers", 1, trunk.depth - 1, text_layers=count
    )
    return count
