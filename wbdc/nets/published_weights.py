"""Published weights of an image or video classifier, for a tower without its last layers."""

import re
from collections.abc import Iterable

from torch import Tensor

from wbdc.core.weights import describe_weights, find_weights, load_weights, select_tensors
from wbdc.nets.vision import Vision

PUBLISHED_FILE = "model.safetensors"
# patterns of names in a file, and what replaces them
Renaming = Iterable[tuple[re.Pattern, str]]


def load_published(
    vision: Vision, name: str, *, owner: str = "", link: str | None = None, renaming: Renaming = ()
) -> None:
    """Load published weights into `vision.tower` by name, and describe them in `vision`.

    name: of the weights, for example "x3d_s"; owner: what precedes it in the name of their folder,
    for example "pytorchvideo/". link: of the published file when it is not on Hugging Face.
    renaming: from the names in the file to those in the tower. Raises EnvironmentFault when the
    weights are not on this machine, IntegrityFault when a tensor is missing or has another shape.
    """
    file = find_weights(owner + name, (PUBLISHED_FILE,), link=link) / PUBLISHED_FILE
    tensors = rename_tensors(load_weights(file), renaming)
    selected, unused = select_tensors(tensors, vision.tower.state_dict(), file)
    vision.tower.load_state_dict(selected, strict=True)
    origin = {} if link is None else {"link": link}
    vision.pretrained = describe_weights(owner + name, file) | origin
    vision.loaded = (
        f"{name} from {file.name}: {len(selected)} tensors loaded, "
        f"{len(unused)} not used (its classifier)"
    )


def rename_tensors(tensors: dict[str, Tensor], renaming: Renaming) -> dict[str, Tensor]:
    """Replace all patterns in the names of tensors, one after the other."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in renaming:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed
