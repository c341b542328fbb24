"""Read a pickle of tensors and write it as safetensors. Runs as a script, in a process of its own:

    python unpickle.py SOURCE TARGET

torch.load(weights_only=True) builds tensors and plain containers, and calls nothing else.
"""

import sys

import torch
from safetensors.torch import save_file

NESTED_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
)  # where trainers put the weights
PARALLEL_PREFIX = "module."  # of torch's DataParallel


def find_tensors(content: object) -> dict[str, torch.Tensor]:
    """Return the named tensors of a checkpoint. Raises ValueError when there are none."""
    for key in NESTED_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    items = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): value for name, value in items if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError("it holds no named tensors")
    if all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        tensors = {name.removeprefix(PARALLEL_PREFIX): t for name, t in tensors.items()}
    return tensors


def main(source: str, target: str) -> None:
    """Convert a file. A file that is refused ends the process with the reason on stderr."""
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
        tensors = find_tensors(content)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types
        raise SystemExit(" ".join(str(error).split()) or type(error).__name__) from error
    # copies, since safetensors refuses tensors that share memory
    save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
