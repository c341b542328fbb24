"""Pretrained weights: found by their usual names in a local folder or the Hugging Face cache.

Training never downloads and never unpickles them; `wbdc weights` does both.
"""

import hashlib
import os
import shlex
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from wbdc.core.errors import EnvironmentFault, IntegrityFault
from wbdc.core.files import open_regular, read_json

if TYPE_CHECKING:  # the functions that find weights need no torch, which takes seconds to import
    from torch import Tensor

WEIGHTS_VARIABLE = "WBDC_WEIGHTS"
TIMM_OWNER = "timm/"  # of the names of its weights on Hugging Face
TORCHVISION_OWNER = "torchvision/"  # of the names of weights that torchvision publishes
SAFETENSORS_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pyth")
RECORD_SUFFIX = ".record.json"  # of the file that `wbdc weights` writes beside weights
RECORD_SHAPE = {"bytes": int, "sha256": str, "license": (str, None), "source": (str, None)}


def find_weights(
    name: str, files: tuple[str, ...], beside: tuple[str, ...] = (), link: str | None = None
) -> Path:
    """Find the folder of the weights `name` that holds one of `files`.

    name: for example "hfl/chinese-macbert-base". beside: other files of the folder, for the error
    message. link: of the published file when it is not on Hugging Face. Searches
    $WBDC_WEIGHTS/NAME, $WBDC_WEIGHTS/<last part of NAME>, then the Hugging Face cache. Raises
    EnvironmentFault, which states the files to get and the folder for them.
    """
    root = os.environ.get(WEIGHTS_VARIABLE)
    folders = [Path(root) / part for part in (name, name.split("/")[-1])] if root else []
    folders += _cached_snapshots(name)
    for folder in folders:
        if any((folder / file).is_file() for file in files):
            return folder

    _refuse_pickles(folders)
    needed = ", ".join([" or ".join(files), *beside])
    target = f"{root}/{name}" if root else f"FOLDER/{name} and give --weights FOLDER"
    origin = f"{needed}, converted from {link}," if link else f"{needed} of {hub_link(name)}"
    is_fetched = link is None or name.startswith(TORCHVISION_OWNER)
    help_text = (
        f"`wbdc weights fetch {name}` downloads them"
        if is_fetched
        else "`wbdc weights convert` converts the downloaded file"
    )
    page = "" if link else " (its page states license and checksum)"
    raise EnvironmentFault(
        f"the weights {name!r} are not on this machine: put {origin} into {target}{page}, "
        f"{help_text}; or use the kit's random weights with --tiny"
    )


def hub_link(name: str) -> str:
    """Return the page of weights on Hugging Face."""
    return f"https://huggingface.co/{name}"


def _refuse_pickles(folders: list[Path]) -> None:
    """Raise EnvironmentFault with a command that converts the file, if weights are pickled."""
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.suffix in PICKLE_SUFFIXES:
                raise EnvironmentFault(
                    f"{path} is a pickle, which training never opens; convert it once: "
                    f"wbdc weights convert {shlex.quote(str(path))}"
                )


def load_weights(path: Path) -> "dict[str, Tensor]":
    """Load a safetensors file. Raises NotRegularFile for a pipe, which safetensors cannot read."""
    from safetensors.torch import load_file

    open_regular(path).close()
    return load_file(path)


def open_weights(path: Path) -> safe_open:
    """Open a safetensors file to load its tensors one by one. Raises as `load_weights` does."""
    open_regular(path).close()
    return safe_open(path, "pt")


def tensor_names(path: Path) -> frozenset[str]:
    """Return the names of the tensors in a safetensors file. Raises as `load_weights` does."""
    open_regular(path).close()
    with safe_open(path, "numpy") as tensors:  # "pt" would import torch
        return frozenset(tensors.keys())


@lru_cache
def describe_weights(name: str, file: Path) -> dict:
    """Describe a file of pretrained weights for the list that contests require.

    Returns {"name", "file", "bytes", "md5", "sha256"}, and "license" if it was recorded.
    """
    facts = {"name": name, **file_checksums(file)}
    record = read_weights_record(file)
    if record and record["license"] and record["sha256"] == facts["sha256"]:
        facts["license"] = record["license"]
    return facts


def file_checksums(file: Path) -> dict:
    """Return {"file", "bytes", "md5", "sha256"} of a file."""
    md5 = hashlib.md5(usedforsecurity=False)
    sha256 = hashlib.sha256()
    with open_regular(file) as stream:
        while chunk := stream.read(2**20):
            md5.update(chunk)
            sha256.update(chunk)
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "md5": md5.hexdigest(),
        "sha256": sha256.hexdigest(),
    }


def weights_record_path(file: Path) -> Path:
    """Return where the record of a file of weights lies: source, license and checksums."""
    return file.with_suffix(RECORD_SUFFIX)


def read_weights_record(file: Path) -> dict | None:
    """Read the record of a file of weights; None when there is none, or one of another file.

    Raises IntegrityFault when it is damaged.
    """
    path = weights_record_path(file)
    if not (path.is_file() and file.is_file()):
        return None
    record = read_json(path, RECORD_SHAPE)
    return record if record["bytes"] == file.stat().st_size else None


def weights_fingerprint(weights: "dict[str, Tensor]") -> str:
    """Hash tensors with SHA-256: their names, sorted, and all their bytes."""
    import torch

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


def hub_cache() -> Path:
    """Return the folder of the Hugging Face cache (HF_HOME is honored)."""
    return Path(
        os.environ.get("HF_HUB_CACHE")
        or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub"
    )


def _cached_snapshots(name: str) -> list[Path]:
    """List the snapshots of a model in the Hugging Face cache."""
    return sorted((hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots").glob("*"))
