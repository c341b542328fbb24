"""Pretrained weights: found by their usual names in a local folder or the Hugging Face cache.

They are never downloaded and never unpickled.
"""

import hashlib
import os
import shlex
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from wbdc.core.errors import EnvironmentFault, IntegrityFault
from wbdc.core.files import open_regular

WEIGHTS_VARIABLE = "WBDC_WEIGHTS"
CONVERT_COMMAND = (
    "python -c 'import sys, torch; from safetensors.torch import save_file as save; "
    "w = torch.load(sys.argv[1], weights_only=True); "
    "save({k: t.clone().contiguous() for k, t in w.items()}, sys.argv[2])'"
)


def find_weights(name: str, files: tuple[str, ...], beside: tuple[str, ...] = ()) -> Path:
    """Find the folder of the weights `name` that holds one of `files`.

    name: for example "hfl/chinese-macbert-base". beside: other files of the folder, for the error
    message. Searches $WBDC_WEIGHTS/NAME, $WBDC_WEIGHTS/<last part of NAME>, then the Hugging Face
    cache. Raises EnvironmentFault, which states the files to get and the folder for them.
    """
    root = os.environ.get(WEIGHTS_VARIABLE)
    folders = [Path(root) / part for part in (name, name.split("/")[-1])] if root else []
    folders += _cached_snapshots(name)
    for folder in folders:
        if any((folder / file).is_file() for file in files):
            return folder

    _refuse_pickles(folders, files[0])
    needed = ", ".join([" or ".join(files), *beside])
    target = f"{root}/{name}" if root else f"FOLDER/{name} and give --weights FOLDER"
    raise EnvironmentFault(
        f"the weights {name!r} are not on this machine: put {needed} of "
        f"https://huggingface.co/{name} into {target} (its page states license and checksum), "
        "or run the same recipe from random weights with --tiny"
    )


def _refuse_pickles(folders: list[Path], converted_name: str) -> None:
    """Raise EnvironmentFault with a command that converts the file, if weights are pickled."""
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.suffix not in (".bin", ".pt", ".pth"):
                continue
            paths = f"{shlex.quote(str(path))} {shlex.quote(str(path.with_name(converted_name)))}"
            raise EnvironmentFault(
                f"{path} is a pickle, which wbdc never opens; convert it to {converted_name} once, "
                f"in a sandbox: {CONVERT_COMMAND} {paths}"
            )


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file. Raises NotRegularFile for a pipe, which safetensors cannot read."""
    open_regular(path).close()
    return load_file(path)


def open_weights(path: Path) -> safe_open:
    """Open a safetensors file to load its tensors one by one. Raises as `load_weights` does."""
    open_regular(path).close()
    return safe_open(path, "pt")


@lru_cache
def describe_weights(name: str, file: Path) -> dict:
    """Describe a file of pretrained weights for the list that contests require.

    Returns {"name", "file", "bytes", "md5", "sha256"}.
    """
    md5 = hashlib.md5(usedforsecurity=False)
    sha256 = hashlib.sha256()
    with open_regular(file) as stream:
        while chunk := stream.read(2**20):
            md5.update(chunk)
            sha256.update(chunk)
    return {
        "name": name,
        "file": file.name,
        "bytes": file.stat().st_size,
        "md5": md5.hexdigest(),
        "sha256": sha256.hexdigest(),
    }


def weights_fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """Hash tensors with SHA-256: their names, sorted, and all their bytes."""
    fingerprint = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        fingerprint.update(name.encode())
        fingerprint.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        )
    return fingerprint.hexdigest()


def select_tensors(
    weights: dict, expected: dict, source: Path, prefix: str = ""
) -> tuple[dict, list[str]]:
    """Select the tensors of a network from a larger file, by name and shape.

    expected: the tensors of the network by name. prefix: of the names in `weights`. Returns the
    selected tensors and the sorted names of those that are not used. Raises IntegrityFault, which
    names up to ten tensors, when one is missing or has another shape.
    """
    selected = {name: weights[prefix + name] for name in expected if prefix + name in weights}

    missing = [prefix + name for name in sorted(expected) if name not in selected]
    if missing:
        raise IntegrityFault(
            f"{source} lacks {len(missing)} of {len(expected)} tensors: {', '.join(missing[:10])}"
        )

    mismatches = [
        f"{prefix}{name} {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
        for name, tensor in sorted(selected.items())
        if tensor.shape != expected[name].shape
    ]
    if mismatches:
        raise IntegrityFault(
            f"{source} holds {len(mismatches)} tensors of another shape: "
            f"{', '.join(mismatches[:10])}"
        )
    return selected, sorted(set(weights) - {prefix + name for name in expected})


def _cached_snapshots(name: str) -> list[Path]:
    """List the snapshots of a model in the Hugging Face cache (HF_HOME is honored)."""
    hub = Path(
        os.environ.get("HF_HUB_CACHE")
        or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub"
    )
    return sorted((hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*"))
