"""Published weights of an image, video or sound classifier, for a tower without its last layers."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from wbdc.core.errors import MAX_LISTED_NAMES, IntegrityFault
from wbdc.core.weights import describe_weights, find_weights, load_weights, select_tensors
from wbdc.nets.modality import Modality
from wbdc.nets.vision import Vision

PUBLISHED_FILE = "model.safetensors"
BATCH_COUNTER = "num_batches_tracked"  # of batch norms, which only some files have
# patterns of names in a file, and what replaces them
Renaming = Iterable[tuple[re.Pattern, str]]


def load_published(
    module: Vision | Modality,
    name: str,
    *,
    owner: str = "",
    link: str | None = None,
    renaming: Renaming = (),
    unused_part: str = "its classifier",
) -> None:
    """Load published weights into `module.tower` by name, and describe them in `module`.

    name: of the weights, for example "x3d_s"; owner: what precedes it in the name of their folder,
    for example "pytorchvideo/". link: of the published file when it is not on Hugging Face.
    renaming: from the names in the file to those in the tower. unused_part: what the other tensors
    belong to. Raises EnvironmentFault when the weights are not on this machine, IntegrityFault when
    a tensor is missing or has another shape.
    """
    file = find_weights(owner + name, (PUBLISHED_FILE,), link=link) / PUBLISHED_FILE
    tensors = rename_tensors(load_weights(file), renaming)
    selected, unused = select_tensors(tensors, module.tower.state_dict(), file)
    module.tower.load_state_dict(selected, strict=True)
    origin = {} if link is None else {"link": link}
    module.pretrained = describe_weights(owner + name, file) | origin
    module.loaded = (
        f"{name} from {file.name}: {len(selected)} tensors loaded, "
        f"{len(unused)} not used ({unused_part})"
    )


def load_checkpoint(
    vision: Vision,
    network: nn.Module,
    name: str,
    *,
    link: str,
    renaming: Renaming,
    left_out: re.Pattern,
    unused_parts: str = "classifier",
) -> None:
    """Load a published checkpoint into `network`, every tensor by its name, and describe it in
    `vision`.

    name: of the folder of the checkpoint. link: where its file is published. renaming, left_out:
    see `map_checkpoint`. unused_parts: what the tensors that are left out belong to. Raises
    EnvironmentFault when the weights are not on this machine, IntegrityFault for a tensor that is
    unknown, missing or of another shape.
    """
    file = find_weights(name, (PUBLISHED_FILE,), link=link) / PUBLISHED_FILE
    tensors = load_weights(file)
    expected = network.state_dict()
    mapped = map_checkpoint(tensors, expected, file, renaming, left_out)
    counters = {n: t for n, t in expected.items() if n.endswith(BATCH_COUNTER)}
    network.load_state_dict(mapped | counters, strict=True)
    vision.pretrained = describe_weights(name, file)
    vision.loaded = (
        f"{name} from {file.name}: {len(mapped)} tensors loaded, "
        f"{len(tensors) - len(mapped)} left out ({unused_parts}, counters of batches)"
    )


def map_checkpoint(
    tensors: dict[str, Tensor],
    expected: dict[str, Tensor],
    source: Path,
    renaming: Renaming,
    left_out: re.Pattern,
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under the names that a network expects, all but its
    counters of batches.

    renaming: from the names in the file to those in the network. left_out: pattern of the names in
    the file that the network does not have, for example of the classifier. A kernel of one frame,
    (C, D, 1, H, W), is read as that of an image.

    Raises IntegrityFault, which names some of the tensors, when one is unknown, missing, under two
    names in the file, or of another shape.
    """
    used = {
        name: tensor
        for name, tensor in tensors.items()
        if not left_out.search(name) and not name.endswith(BATCH_COUNTER)
    }
    names = {name: rename_tensor(name, renaming) for name in used}
    if unknown := sorted(name for name, target in names.items() if target not in expected):
        raise IntegrityFault(
            f"{source} holds {len(unknown)} tensors that this tower does not have: "
            f"{', '.join(unknown[:MAX_LISTED_NAMES])}"
        )
    counts = Counter(names.values())
    if repeated := sorted(name for name, target in names.items() if counts[target] > 1):
        raise IntegrityFault(
            f"{source} holds the same weights under several names: "
            f"{', '.join(repeated[:MAX_LISTED_NAMES])}"
        )
    renamed = {
        names[name]: _without_time(tensor, expected[names[name]]) for name, tensor in used.items()
    }
    weights = {n: t for n, t in expected.items() if not n.endswith(BATCH_COUNTER)}
    return select_tensors(renamed, weights, source)[0]


def _without_time(kernel: Tensor, expected: Tensor) -> Tensor:
    is_of_one_frame = kernel.dim() == 5 and expected.dim() == 4 and kernel.shape[2] == 1
    return kernel.squeeze(2) if is_of_one_frame else kernel


def rename_tensors(tensors: dict[str, Tensor], renaming: Renaming) -> dict[str, Tensor]:
    """Replace all patterns in the names of tensors, one after the other."""
    return {rename_tensor(name, renaming): tensor for name, tensor in tensors.items()}


def rename_tensor(name: str, renaming: Renaming) -> str:
    """Replace all patterns in a name, one after the other."""
    for pattern, replacement in renaming:
        name = pattern.sub(replacement, name)
    return name
